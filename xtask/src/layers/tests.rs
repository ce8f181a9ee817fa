use super::{Sources, check};

/// A tree without findings, with the forms of imports that the rules allow.
const CLEAN: [(&str, &str); 17] = [
    (
        "lib.rs",
        "mod base; mod core; mod metrics; mod threads; pub mod api; pub mod watch;
         #[cfg(feature = \"process\")] mod wire;
         #[cfg(all(feature = \"process\", unix))] mod processes;
         pub use core::{Error, error::Kind}; pub use processes::ProcessPool;
         fn run() { api::run(); }",
    ),
    ("base/mod.rs", "pub(crate) mod clock;"),
    ("base/clock.rs", "use std::fmt; pub(crate) struct Moment; impl fmt::Debug for Moment {}"),
    ("core/mod.rs", "pub(crate) mod error; mod cell; pub(crate) use cell::*; pub use error::Error;"),
    (
        "core/error.rs",
        "//! Says nothing of `use crate::metrics::Metrics`.
         /// Nor does [`crate::api::run`], behind `cfg(feature = \"process\")`.
         pub struct Error(crate::base::clock::Moment); // crate::threads::Pool
         pub enum Kind { Full }
         const TEXT: &str = \"use crate::wire::Blob;\";
         #[cfg(all(test, not(shuttle)))] mod tests { use crate::threads::ThreadPool; }",
    ),
    ("core/cell.rs", "use super::Error; use crate::base::{clock::{self, Moment}}; pub(crate) struct Cell;"),
    ("metrics/mod.rs", "use crate::core::Cell; pub(crate) struct Metrics;"),
    ("threads/mod.rs", "mod pool; #[cfg(test)] mod model; pub use pool::ThreadPool;"),
    ("threads/pool.rs", "use crate::{core::Cell, metrics::Metrics}; pub struct ThreadPool;"),
    ("threads/model.rs", "use crate::api::run; use super::ThreadPool;"),
    ("wire/mod.rs", "pub struct Blob;"),
    (
        "processes/mod.rs",
        "mod handshake; mod limits; mod link; mod os; mod pool; mod worker; pub use pool::ProcessPool;",
    ),
    ("processes/link/mod.rs", "use crate::wire::Blob; use super::os; pub(super) struct Ring;"),
    ("processes/os/mod.rs", "pub(super) fn poll() {}"),
    ("processes/pool/mod.rs", "use super::link::Ring; pub struct ProcessPool;"),
    ("api/mod.rs", "#[cfg(feature = \"process\")] use crate::ProcessPool; pub fn run() {}"),
    ("watch/mod.rs", "use crate::base::clock::Moment;"),
];

/// Checks the clean tree with these files added or replaced.
fn check_with(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Sources =
        CLEAN.iter().chain(files).map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    check(&sources).unwrap()
}

#[track_caller]
fn assert_finds(files: &[(&str, &str)], expected: &str) {
    assert_eq!(check_with(files), [expected]);
}

#[test]
fn a_clean_tree_passes() {
    assert_eq!(check_with(&[]), [""; 0]);
}

#[test]
fn an_upward_import_is_found_in_each_form() {
    for (code, line, path) in [
        ("use crate::metrics::Metrics;", 1, "crate::metrics::Metrics"),
        ("use crate::{\n  base::clock,\n  metrics::{Metrics as M},\n};", 3, "crate::metrics::Metrics"),
        ("\nuse super::metrics::{self, Metrics};", 2, "super::metrics"),
        ("pub(crate) use crate::metrics::*;", 1, "crate::metrics"),
        ("fn f() {\n  crate::metrics::Metrics::new();\n}", 2, "crate::metrics::Metrics::new"),
        ("fn f() { log!(\"{}\",\n [crate::metrics::Metrics]); }", 2, "crate::metrics::Metrics"),
        ("mod inner {\n  use super::super::metrics::Metrics;\n}", 2, "super::super::metrics::Metrics"),
        (
            "#[doc(hidden)] pub mod inner { type M =\n crate::metrics::Metrics; }",
            2,
            "crate::metrics::Metrics",
        ),
        ("macro_rules! m { () => { $crate::metrics::Metrics } }", 1, "crate::metrics::Metrics"),
    ] {
        let findings = check_with(&[("core/mod.rs", code)]);
        let expected =
            format!("core/mod.rs:{line}: core may not import metrics (metrics is above core): {path}");
        assert!(findings.contains(&expected), "{code}: {findings:#?}");
    }
}

#[test]
fn an_item_is_reported_once_for_a_file() {
    let code = "use crate::metrics::Metrics; fn f() { Metrics::new(); crate::metrics::Metrics::new(); }";
    assert_eq!(check_with(&[("base/fork.rs", code)]).len(), 1);
}

#[test]
fn an_upward_import_through_the_root_is_found_where_the_item_is_defined() {
    assert_finds(
        &[("threads/pool.rs", "use crate::ProcessPool; pub struct ThreadPool;")],
        "threads/pool.rs:1: threads may not import processes/pool (processes/pool is above threads): \
         crate::ProcessPool, defined in processes/pool/mod.rs",
    );
    assert_finds(
        &[("threads/pool.rs", "use crate::Error; pub struct ThreadPool; fn f() { crate::run(); }")],
        "threads/pool.rs:1: threads may not import lib.rs (lib.rs is above threads): crate::run",
    );
}

#[test]
fn a_re_export_by_a_room_above_is_an_upward_import() {
    assert_finds(
        &[
            ("api/mod.rs", "pub use crate::base::clock::Moment; pub fn run() {}"),
            ("core/cell.rs", "use crate::api::Moment; pub(crate) struct Cell;"),
        ],
        "core/cell.rs:1: core may not import api (api is above core): crate::api::Moment, defined in base/clock.rs",
    );
}

#[test]
fn siblings_do_not_import_each_other() {
    let side_by_side = "neither is beneath the other";
    for (file, from, to, path) in [
        ("threads/shutdown.rs", "threads", "wire", "crate::wire::Blob"),
        ("wire/blob.rs", "wire", "threads", "crate::threads::ThreadPool"),
        ("processes/os/fd.rs", "processes/os", "threads", "crate::threads::ThreadPool"),
        ("processes/pool/dispatcher.rs", "processes/pool", "processes/worker", "super::super::worker::main"),
        (
            "processes/worker/host.rs",
            "processes/worker",
            "processes/pool",
            "crate::processes::pool::ProcessPool",
        ),
        ("watch/stall.rs", "watch", "core", "crate::core::Cell"),
        ("core/stall.rs", "core", "watch", "crate::watch"),
    ] {
        let worker = ("processes/worker/mod.rs", "pub(super) fn main() {}");
        assert_finds(
            &[worker, (file, &format!("use {path};"))],
            &format!("{file}:1: {from} may not import {to} ({side_by_side}): {path}"),
        );
    }
}

#[test]
fn the_parts_of_processes_stand_on_each_other() {
    let pool = "use crate::processes::{handshake, limits, link, os};";
    assert_eq!(check_with(&[("processes/pool/dispatcher.rs", pool)]), [""; 0]);
    assert_finds(
        &[("processes/os/fd.rs", "use crate::processes::link::Ring;")],
        "processes/os/fd.rs:1: processes/os may not import processes/link \
         (processes/link is above processes/os): crate::processes::link::Ring",
    );
    assert_finds(
        &[("processes/limits.rs", "use super::ProcessPool;")],
        "processes/limits.rs:1: processes/limits.rs may not import processes/pool \
         (processes/pool is above processes/limits.rs): super::ProcessPool",
    );
}

#[test]
fn the_head_of_processes_only_re_exports() {
    let head = CLEAN.iter().find(|(file, _)| *file == "processes/mod.rs").unwrap().1;
    assert_finds(
        &[("processes/mod.rs", &format!("{head}\nfn helper() {{}}"))],
        "processes/mod.rs:2: this file may only declare and re-export modules",
    );
}

#[test]
fn a_circle_is_shown_with_an_import_for_each_arrow() {
    assert_finds(
        &[
            ("core/mod.rs", "mod a; mod b; mod c;"),
            ("core/a.rs", "use super::b::B; pub struct A;"),
            ("core/b.rs", "\nuse crate::core::c::C; pub struct B;"),
            ("core/c.rs", "pub struct C(super::a::A);"),
        ],
        "core/a.rs:1: import circle: core/a.rs -> core/b.rs -> core/c.rs -> core/a.rs\
         \n    core/a.rs:1 imports super::b::B from core/b.rs\
         \n    core/b.rs:2 imports crate::core::c::C from core/c.rs\
         \n    core/c.rs:1 imports super::a::A from core/a.rs",
    );
}

#[test]
fn a_circle_through_a_re_export_is_found() {
    for re_export in ["pub(crate) use b::B;", "pub(crate) use b::*;", "use b::b2::B2 as B;"] {
        let findings = check_with(&[
            ("core/mod.rs", &format!("mod a; mod b; {re_export}")),
            ("core/a.rs", "use crate::core::B; pub struct A;"),
            ("core/b.rs", "pub use super::a::A; pub struct B; pub mod b2 { pub use super::B as B2; }"),
        ]);
        let expected = "core/a.rs:1: import circle: core/a.rs -> core/b.rs -> core/a.rs\
             \n    core/a.rs:1 imports crate::core::B from core/b.rs\
             \n    core/b.rs:1 imports super::a::A from core/a.rs";
        assert_eq!(findings, [expected], "{re_export}");
    }
}

#[test]
fn re_exporting_children_makes_no_circle_and_using_them_does() {
    let child = ("core/a.rs", "use super::Shared; pub struct A;");
    assert_eq!(check_with(&[child, ("core/mod.rs", "mod a; pub use a::A; struct Shared;")]), [""; 0]);
    assert_finds(
        &[child, ("core/mod.rs", "mod a; use a::A; struct Shared;")],
        "core/a.rs:1: import circle: core/a.rs -> core/mod.rs -> core/a.rs\
         \n    core/a.rs:1 imports super::Shared from core/mod.rs\
         \n    core/mod.rs:1 imports a::A from core/a.rs",
    );
}

#[test]
fn the_feature_process_is_found_outside_its_places() {
    for code in [
        "#[cfg(feature = \"process\")] fn f() {}",
        "#[cfg(all(unix, any(feature = \"process\", test)))] use std::fmt;",
        "struct S { #[cfg(not(feature = \"process\"))] field: u8 }",
        "#[cfg_attr(feature = \"process\", derive(Clone))] struct S;",
        "fn f() { if cfg!(feature = \"process\") {} }",
        "fn f() { assert!(cfg!(feature = \"process\")); }",
    ] {
        for file in ["core/f.rs", "base/f.rs", "metrics/f.rs", "threads/f.rs", "watch/f.rs"] {
            let expected = format!("{file}:1: cfg(feature = \"process\") is allowed in lib.rs and api only");
            assert_finds(&[(file, code)], &expected);
        }
    }
    assert_eq!(check_with(&[("core/f.rs", "#[cfg(feature = \"watch\")] fn f() {}")]), [""; 0]);
}

#[test]
fn a_thread_that_is_started_elsewhere_is_found() {
    for code in [
        "fn f() { std::thread::spawn(g); }",
        "use crate::base::sync::thread; fn f() { thread::spawn(g); }",
        "fn f() { thread::Builder::new().name(name()).spawn(g); }",
        "use std::thread::Builder; fn f() { let builder = Builder::new(); builder.spawn(g); }",
    ] {
        assert_finds(
            &[("core/f.rs", code)],
            "core/f.rs:1: threads are started by `spawn` of base/spawn.rs only",
        );
        assert_eq!(check_with(&[("base/spawn.rs", code)]), [""; 0]);
    }
    assert_eq!(check_with(&[("core/f.rs", "fn f() { command.spawn(); pool.spawn(g); }")]), [""; 0]);
}

#[test]
fn an_unknown_room_is_reported_once() {
    let findings = check_with(&[
        ("arena.rs", ""),
        ("blob/mod.rs", "use crate::api::run;"),
        ("blob/tests.rs", ""),
        ("processes/extra.rs", ""),
    ]);
    let starts: Vec<_> = findings.iter().map(|finding| finding.split(" the rooms").next().unwrap()).collect();
    let expected = ["arena.rs", "blob", "processes/extra.rs"].map(|part| format!("{part}: is none of"));
    assert_eq!(starts, expected);
}

#[test]
fn a_syntax_error_is_reported_with_its_line() {
    let sources = Sources::from([("lib.rs".to_owned(), "\nfn f( {}".to_owned())]);
    assert!(check(&sources).unwrap_err().starts_with("lib.rs:2: "));
}

//! Tasks with names and versions that the program gives them, by which other programs call them.

#![cfg(feature = "process")]

use offloop::remote::{TaskEntry, tasks};

offloop::init_tests!();

#[offloop::task(name = "billing:invoice", version = 2)]
fn invoice(number: u64, lines: Vec<&str>) -> Vec<String> {
    lines.into_iter().map(|line| format!("{number} {line}")).collect()
}

#[offloop::task]
fn plain(number: u64) -> u64 {
    number
}

#[offloop::task(version = 7, name = "billing:α")]
fn in_another_order(_by_path: std::option::Option<&str>) {}

fn entry(name: &str) -> TaskEntry {
    tasks().into_iter().find(|task| task.name == name).expect("the task is in the list")
}

#[test]
fn a_task_has_the_name_and_the_version_that_it_was_given() {
    assert_eq!(invoice.with(1, vec![]).task_name(), "billing:invoice");
    assert_eq!(entry("billing:invoice").version, 2);
    assert_eq!(in_another_order.with(None).task_name(), "billing:α");
    assert_eq!(entry("billing:α").version, 7);
    assert_eq!(plain.with(1).task_name(), "task_names::plain");
    assert_eq!(entry("task_names::plain").version, 1);
    let error = offloop::run(offloop::prepare(plain.with(1)).name("mine")).wait();
    assert_eq!(error.unwrap(), 1);
}

/// Other builds have the same numbers: they are written here.
#[test]
fn a_signature_is_the_same_in_all_builds() {
    let signatures =
        ["billing:invoice", "billing:α", "task_names::plain"].map(|name| entry(name).signature.to_string());
    assert_eq!(signatures, ["34b979eb2d0c870c", "0b1d637885b2dafb", "b9817223bb5e06b8"]);
}

#[test]
fn a_named_task_runs_as_any_other() {
    let call = || invoice.with(42, vec!["ink", "paper"]);
    assert_eq!(offloop::run_cpu(call()).wait().unwrap(), ["42 ink", "42 paper"]);
    assert_eq!(invoice(1, vec!["x"]), ["1 x"]);
}

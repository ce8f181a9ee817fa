//! `cargo xtask other-systems`: checks that the crate builds for systems other than Linux, and that a program which uses
//! a process pool on Linux runs there on threads.
//!
//! The standard libraries of such systems are mostly not installed. So they are emulated: in a copy of the sources each
//! condition on `linux` is one on another system, and on request each one on `unix` too. The copy is built for this
//! machine. It cannot find a call that only this machine's standard library has. With `unix` turned off there is no
//! `libc`, so no call of it is left.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};

use crate::host;
use crate::plan::{self, CommandLine, cargo};

#[derive(Args)]
pub(crate) struct OtherSystemsArguments {}

/// A system, and the words of conditions that do not hold on it, each with one that does not hold here.
struct System {
    name: &'static str,
    conditions: &'static [(&'static str, &'static str)],
}

const SYSTEMS: [System; 2] = [
    System { name: "another-unix", conditions: &[("target_os = \"linux\"", "target_os = \"macos\"")] },
    System {
        name: "no-unix",
        conditions: &[("target_os = \"linux\"", "target_os = \"windows\""), ("unix", "windows")],
    },
];

/// The packages that are copied. The last one is a program that uses the others.
const PACKAGES: [&str; 3] = ["crates/offloop-macros", "crates/offloop", "examples/portable"];

/// The files of the process pool, and the file with the same methods for other systems.
const ON_LINUX: [&str; 3] = ["pool/builder.rs", "pool/pool.rs", "pool/items.rs"];
const ELSEWHERE: &str = "unsupported.rs";

pub(crate) fn run(_: &OtherSystemsArguments) -> Result<ExitCode, Box<dyn Error>> {
    compare_methods(Path::new("crates/offloop/src/processes"))?;
    for system in SYSTEMS {
        let copy = host::target_dir().join("other-systems").join(system.name);
        copy_workspace(&copy, &system)?;
        println!("\nin a copy for {}:", system.name);
        plan::run_all(commands(&copy)).map_err(|error| format!("{}: {error}", system.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the commands that check a copy. It has the target directory of the workspace, so that dependencies are built
/// once.
fn commands(copy: &Path) -> Vec<CommandLine> {
    let manifest = copy.join("Cargo.toml").display().to_string();
    let target = host::target_dir().display().to_string();
    let lines = [
        "check -p offloop --lib",
        "check -p offloop --lib --no-default-features",
        "test -p offloop-example-portable --test everywhere",
    ];
    lines
        .map(|words| cargo(words).and(["--offline", "--manifest-path", &manifest, "--target-dir", &target]))
        .into()
}

/// Copies the sources, with the conditions that the system has. Files that are the same already are left alone, so that
/// they are not built again.
fn copy_workspace(copy: &Path, system: &System) -> Result<(), Box<dyn Error>> {
    let manifest = fs::read_to_string("Cargo.toml")?;
    let (start, rest) = manifest.split_once("members = [").ok_or("the workspace has no list of members")?;
    let (_, rest) = rest.split_once(']').ok_or("the list of members has no end")?;
    let rest = rest.replacen("default-members = [\"crates/offloop\"]", "", 1);
    // In the manifest and not by `RUSTFLAGS`, with which all dependencies would be built again.
    let rest = rest.replacen("[workspace.lints.rust]", "[workspace.lints.rust]\nwarnings = \"deny\"", 1);
    write(&copy.join("Cargo.toml"), &format!("{start}members = {PACKAGES:?}{rest}"))?;
    for file in ["Cargo.lock", "README.md"] {
        write(&copy.join(file), &fs::read_to_string(file)?)?;
    }
    for package in PACKAGES {
        copy_folder(Path::new(package), &copy.join(package), system)?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path, system: &System) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let copy = to.join(path.file_name().ok_or("an entry without a name")?);
        let has_ending = |ending| path.extension().is_some_and(|it| it == ending);
        if path.is_dir() {
            copy_folder(&path, &copy, system)?;
        } else if has_ending("rs") || has_ending("toml") {
            write(&copy, &with_conditions(&fs::read_to_string(&path)?, system))?;
        }
    }
    Ok(())
}

/// Replaces the words of conditions, in lines that have one.
fn with_conditions(text: &str, system: &System) -> String {
    let replace = |line: &str| {
        system.conditions.iter().fold(line.to_owned(), |line, (from, to)| {
            if *from == "unix" { replace_word(&line, from, to) } else { line.replace(from, to) }
        })
    };
    let lines = text.split_inclusive('\n');
    lines
        .map(
            |line| {
                if line.contains("cfg") || line.contains("target_os") {
                    replace(line)
                } else {
                    line.to_owned()
                }
            },
        )
        .collect()
}

/// Replaces a word where it is an argument of `cfg`, `all`, `any` or `not`.
fn replace_word(line: &str, from: &str, to: &str) -> String {
    let mut line = line.to_owned();
    for (before, after) in [('(', ')'), ('(', ','), (' ', ')'), (' ', ',')] {
        line = line.replace(&format!("{before}{from}{after}"), &format!("{before}{to}{after}"));
    }
    line
}

fn write(path: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = path.parent().ok_or("a file has a folder")?;
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).map_err(|error| {
        let path = path.display();
        format!("{path}: {error}").into()
    })
}

/// A method's signature by type and name.
type Methods = BTreeMap<(String, String), String>;

/// Fails unless the types of the process pool have the same public methods on all systems.
fn compare_methods(folder: &Path) -> Result<(), Box<dyn Error>> {
    let read = |file: &str| -> Result<Methods, Box<dyn Error>> {
        let path: PathBuf = folder.join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        public_methods(&text).map_err(|error| format!("{}: {error}", path.display()).into())
    };
    let mut on_linux = Methods::new();
    for file in ON_LINUX {
        on_linux.extend(read(file)?);
    }
    let elsewhere = read(ELSEWHERE)?;
    let difference = on_linux
        .iter()
        .find(|(name, signature)| elsewhere.get(name) != Some(signature))
        .or_else(|| elsewhere.iter().find(|(name, _)| !on_linux.contains_key(name)));
    match difference {
        None => {
            println!("the process pool has the same {} public methods on all systems", on_linux.len());
            Ok(())
        }
        Some((name @ (ty, method), _)) => {
            let show = |methods: &Methods| methods.get(name).map_or("is missing", String::as_str).to_owned();
            Err(format!(
                "`{ty}::{method}` is not the same on all systems:\n  on Linux:  {}\n  elsewhere: {}  ({}/{ELSEWHERE})",
                show(&on_linux),
                show(&elsewhere),
                folder.display()
            )
            .into())
        }
    }
}

/// Returns the public methods of a file, without the names of their arguments.
fn public_methods(text: &str) -> syn::Result<Methods> {
    let mut methods = Methods::new();
    for item in syn::parse_file(text)?.items {
        let syn::Item::Impl(block) = item else { continue };
        let syn::Type::Path(ty) = &*block.self_ty else { continue };
        if block.trait_.is_some() {
            continue;
        }
        let ty = ty.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        for item in block.items {
            let syn::ImplItem::Fn(mut method) = item else { continue };
            if matches!(method.vis, syn::Visibility::Public(_)) {
                Unnamed.visit_signature_mut(&mut method.sig);
                let signature = method.sig.to_token_stream().to_string();
                methods.insert((ty.clone(), method.sig.ident.to_string()), signature);
            }
        }
    }
    Ok(methods)
}

/// Removes the names of arguments, and what is of no interest to callers.
struct Unnamed;

impl VisitMut for Unnamed {
    fn visit_pat_type_mut(&mut self, argument: &mut syn::PatType) {
        *argument.pat = syn::parse_quote!(_);
        visit_mut::visit_pat_type_mut(self, argument);
    }

    fn visit_receiver_mut(&mut self, receiver: &mut syn::Receiver) {
        if receiver.reference.is_none() {
            receiver.mutability = None;
        }
    }

    fn visit_signature_mut(&mut self, signature: &mut syn::Signature) {
        visit_mut::visit_signature_mut(self, signature);
        signature.inputs.pop_punct();
    }
}

#[cfg(test)]
mod tests {
    use super::{SYSTEMS, public_methods, with_conditions};

    #[test]
    fn conditions_on_a_system_are_replaced_and_other_words_are_not() {
        let text =
            "#[cfg(all(unix, not(miri)))] use std::os::unix;\nlet unix = 1;\n#[cfg(target_os = \"linux\")]\n";
        let expected = "#[cfg(all(windows, not(miri)))] use std::os::unix;\nlet unix = 1;\n#[cfg(target_os = \"windows\")]\n";
        assert_eq!(with_conditions(text, &SYSTEMS[1]), expected);
    }

    #[test]
    fn methods_are_compared_without_the_names_of_their_arguments() {
        let one = "impl A { pub fn f(mut self, a: u8,) -> u8 { 1 } fn g() {} }";
        let other = "impl A { #[inline] pub fn f(self, _: u8) -> u8 { 2 } }";
        let different = "impl A { pub fn f(&self, a: u8) -> u8 { 1 } }";
        assert_eq!(public_methods(one).unwrap(), public_methods(other).unwrap());
        assert_ne!(public_methods(one).unwrap(), public_methods(different).unwrap());
    }
}

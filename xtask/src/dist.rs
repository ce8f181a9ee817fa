//! `cargo xtask dist`: builds what is published, and tries it where there is neither this workspace's code nor Rust.
//!
//! What it builds lies in `target/dist`, the crates in `target/package`. The cheap part of it is the step `packages` of
//! `cargo xtask test`.

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use clap::Args;

use crate::debian::Release;
use crate::host;
use crate::plan::{self, CommandLine, Plan, cargo};
use crate::python::{self, Environment, Interpreter};

/// The systems for which the wheel is built: those with glibc 2.28 or newer, which all supported distributions have.
/// Zig links for that version, whichever this system has.
const MANYLINUX: &str = "manylinux_2_28";

#[derive(Args)]
pub(crate) struct DistArguments {}

pub(crate) fn run(_: &DistArguments) -> Result<ExitCode, Box<dyn Error>> {
    let tools = Interpreter::preferred()?.for_packaging();
    let trials = Release::TRIED.map(Interpreter::of_release).into_iter().collect::<Result<Vec<_>, _>>()?;
    plan::run_all(crates(true))?;
    plan::run_all(packaged_tests())?;
    plan::run_all(
        minimal_versions().map_err(|reason| format!("cannot check the lowest versions: {reason}"))?,
    )?;
    plan::run_all(python_packages(&tools))?;
    plan::run_all(python_checks(&tools)?)?;
    for interpreter in trials {
        plan::run_all(trial(interpreter))?;
    }
    println!("\nThe Python packages are in {}, the crates in {}.", dist(), package());
    Ok(ExitCode::SUCCESS)
}

/// Returns the plan of the step `packages`: packages the crates and the Python package's source, and checks what is in
/// them and in the wheel of the tests.
pub(crate) fn plan() -> Plan {
    let mut lines = crates(false);
    match Interpreter::preferred().map(Interpreter::for_packaging) {
        Ok(tools) => {
            lines.extend(tools.commands_without_the_package());
            lines.extend(tools.wheel());
            lines.extend([new_dist(), sdist(&tools)]);
            let wheels = python::wheels().display().to_string();
            lines.push(contents(&tools).and([package(), dist(), wheels]));
            Plan::Run(lines)
        }
        Err(reason) => Plan::RunPart(lines, reason),
    }
}

/// Returns the commands that package the crates, and unpack them. With `build`, each is built from its package.
fn crates(build: bool) -> Vec<CommandLine> {
    let verify: &[&str] = if build { &[] } else { &["--no-verify", "--allow-dirty"] };
    let mut lines = vec![
        CommandLine::new(["rm", "-rf"]).and([package(), packaged("")]),
        cargo("package -p offloop-macros -p offloop -p offloop-cluster -p offloop-cli").and(verify),
    ];
    for name in ["offloop", "offloop-macros"] {
        let archive = format!("{}/{name}-{}.crate", package(), version());
        lines.push(CommandLine::new(["mkdir", "-p"]).and([packaged(name)]));
        lines.push(
            CommandLine::new(["tar", "--extract", "--strip-components=1", "--file", &archive])
                .and(["--directory", &packaged(name)]),
        );
    }
    lines.push(CommandLine::new(["cp", "xtask/packaged.toml", &packaged("Cargo.toml")]));
    lines
}

/// Returns the commands that run the packaged crates' doctests, with the versions of `Cargo.lock`.
fn packaged_tests() -> Vec<CommandLine> {
    let target = host::target_dir().display().to_string();
    vec![
        CommandLine::new(["cp", "Cargo.lock", &packaged("Cargo.lock")]),
        cargo("test --doc -p offloop --all-features --manifest-path").and([
            packaged("Cargo.toml").as_str(),
            "--target-dir",
            &target,
        ]),
    ]
}

/// Returns the commands that check the packaged crate with the lowest versions of its dependencies. Only a nightly cargo
/// can choose these. Dependencies of the tests and the benches are left out: users do not build them.
fn minimal_versions() -> Result<Vec<CommandLine>, String> {
    let toolchains = host::output_of("rustup", &["toolchain", "list"]).unwrap_or_default();
    let nightly = toolchains
        .split_whitespace()
        .find(|name| name.starts_with("nightly"))
        .ok_or("no nightly toolchain is installed, which chooses the lowest versions of dependencies")?;
    let manifest = packaged("Cargo.toml");
    // A directory of its own, because the other versions would be built again.
    let target = host::target_dir().join("minimal-versions").display().to_string();
    let check = CommandLine::new(["rustup", "run", nightly, "cargo", "check"])
        .and("-Zavoid-dev-deps -Zdirect-minimal-versions -p offloop --all-features".split(' '))
        .and(["--manifest-path", &manifest, "--target-dir", &target]);
    Ok(vec![CommandLine::new(["rm", "-f", &packaged("Cargo.lock")]), check])
}

/// Returns the commands that build the Python package's source distribution and wheel.
fn python_packages(tools: &Environment) -> Vec<CommandLine> {
    let mut lines = tools.commands_without_the_package();
    let build = tools.python("-m maturin build --release --locked --zig --compatibility").and([
        MANYLINUX,
        "--out",
        &dist(),
    ]);
    // Zig is a package of the environment, which is not the Python that is found by its name.
    let with_zig = format!("CARGO_ZIGBUILD_PYTHON_PATH={}", tools.program());
    // Zig would link its own unwinder. But the C library unwinds the stacks of threads by libgcc, when the interpreter
    // exits; and the two do not understand each other.
    let libgcc = host::output_of("cc", &["-print-file-name=libgcc_s.so.1"]).unwrap_or_default();
    let build = build.and(["--", "-C", &format!("link-arg={libgcc}")]);
    lines.extend([new_dist(), sdist(tools), build.after(&CommandLine::new(["env", &with_zig]))]);
    lines
}

/// Returns the commands that check the two, and build the source.
fn python_checks(tools: &Environment) -> Result<Vec<CommandLine>, Box<dyn Error>> {
    let (source, wheel) = (built(".tar.gz")?, built(".whl")?);
    let from_source = host::target_dir().join("releases/from-source").display().to_string();
    Ok(vec![
        tools.python("-m auditwheel show").and([&wheel]),
        tools.python("-m twine check --strict").and([&source, &wheel]),
        CommandLine::new(["rm", "-rf", &from_source]),
        tools.python("-m pip wheel --quiet --no-deps --wheel-dir").and([&from_source, &source]),
        contents(tools).and([dist(), from_source]),
    ])
}

/// Returns the commands that install the wheel in a Debian release, without the network and without Rust, and run the
/// quickstart and a program that uses each part.
fn trial(interpreter: Interpreter) -> Vec<CommandLine> {
    let no_rust = interpreter.command("bash").and(["-c", "! command -v rustc cargo cc"]);
    let environment = interpreter.for_trial();
    let mut lines = environment.commands_without_the_package();
    lines.extend([
        no_rust,
        environment.python("-m pip install --quiet --force-reinstall --no-index --find-links").and([
            dist().as_str(),
            "--only-binary=:all:",
            "offloop",
        ]),
        environment.python("python/dist/smoke.py"),
        environment.python("python/examples/quickstart.py"),
    ]);
    lines
}

/// Returns the only file in `target/dist` whose name ends so.
fn built(end: &str) -> Result<String, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dist())? {
        let path = entry?.path().display().to_string();
        if path.ends_with(end) {
            found.push(path);
        }
    }
    match <[String; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) => {
            Err(format!("{} holds {} files *{end}, but there must be one", dist(), found.len()).into())
        }
    }
}

fn sdist(tools: &Environment) -> CommandLine {
    tools.python("-m maturin sdist --out").and([dist()])
}

/// Returns the command that checks the packages in directories, which are to be appended.
fn contents(tools: &Environment) -> CommandLine {
    tools.python("python/dist/contents.py")
}

/// Returns the command that removes the Python packages of earlier runs.
fn new_dist() -> CommandLine {
    CommandLine::new(["rm", "-rf"]).and([dist()])
}

fn dist() -> String {
    host::target_dir().join("dist").display().to_string()
}

/// Returns the directory into which cargo packages the crates.
fn package() -> String {
    host::target_dir().join("package").display().to_string()
}

/// Returns a path in the directory of the unpacked crates.
fn packaged(path: &str) -> String {
    host::target_dir().join("packaged").join(path).display().to_string()
}

/// Returns the version of the crates.
fn version() -> String {
    let id = host::output_of("cargo", &["pkgid", "-p", "offloop"]).unwrap_or_default();
    id.rsplit(['#', '@']).next().unwrap_or_default().to_owned()
}

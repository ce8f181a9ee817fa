//! The workspace's chores: `cargo xtask test`, `cargo xtask bench`, `cargo xtask conformance`, `cargo xtask dist`,
//! `cargo xtask instructions`, `cargo xtask layers`, `cargo xtask other-systems`, `cargo xtask page`, `cargo xtask torture`.

mod bench;
mod conformance;
mod debian;
mod dist;
mod host;
mod instructions;
mod layers;
mod other_systems;
mod page;
mod plan;
mod python;
mod tail;
mod test;
mod torture;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workspace's chores")]
struct XtaskArguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every check: format, lints, layers, tests, models, documentation, licences, the Python package, and short
    /// runs of the benches.
    Test(test::TestArguments),
    /// Runs a bench that compares offloop with its peers.
    Bench(bench::BenchArguments),
    /// Runs Python's own tests of executors on offloop's, and compares the results with the recorded ones.
    Conformance(conformance::ConformanceArguments),
    /// Runs a mixed load on process pools while faults are injected, and checks every job with an oracle.
    Torture(torture::TortureArguments),
    /// Checks that the engine's files import only from the layers beneath them, and not in a circle.
    Layers(layers::LayersArguments),
    /// Counts the instructions of one call in Python, and fails if the recorded numbers have grown.
    Instructions(instructions::InstructionsArguments),
    /// Builds what is published, and tries it where there is no Rust.
    Dist(dist::DistArguments),
    /// Checks that the crate builds for systems other than Linux, by an emulation of their conditions.
    OtherSystems(other_systems::OtherSystemsArguments),
    /// Builds the page of the live view from its sources.
    Page(page::PageArguments),
}

fn main() -> ExitCode {
    let chore = XtaskArguments::parse().chore;
    // Paths are relative to the workspace, wherever the program was called.
    if let Err(error) = std::env::set_current_dir(host::workspace()) {
        eprintln!("cannot change to the directory of the workspace: {error}");
        return ExitCode::FAILURE;
    }
    let result = match chore {
        Chore::Test(arguments) => Ok(test::run(&arguments)),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Conformance(arguments) => conformance::run(&arguments),
        Chore::Torture(arguments) => torture::run(&arguments),
        Chore::Layers(arguments) => layers::run(&arguments),
        Chore::Instructions(arguments) => instructions::run(&arguments),
        Chore::Dist(arguments) => dist::run(&arguments),
        Chore::OtherSystems(arguments) => other_systems::run(&arguments),
        Chore::Page(arguments) => page::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

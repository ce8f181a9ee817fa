//! The workspace's chores: `cargo xtask test`, `cargo xtask bench`, `cargo xtask conformance`, `cargo xtask
//! torture`, `cargo xtask servers -- COMMAND`.

mod bench;
mod conformance;
mod host;
mod plan;
mod python;
mod servers;
mod test;
mod torture;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workspace's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every check: format, lints, tests, models, documentation, licences, the Python face, a smoke run of the
    /// benches.
    Test(test::Arguments),
    /// Runs a bench that compares offloop with its peers.
    Bench(bench::Arguments),
    /// Runs Python's own tests of executors on offloop's, and compares with the list of results.
    Conformance(conformance::Arguments),
    /// Runs a mixed load on process pools while faults are injected, and checks every job with an oracle.
    Torture(torture::Arguments),
    /// Runs a command beside a PostgreSQL and a Tarantool of its own, whose addresses are in its environment.
    Servers(servers::Arguments),
    #[command(hide = true)]
    RestartServer(servers::Restart),
}

fn main() -> ExitCode {
    let chore = Arguments::parse().chore;
    // Wherever it was called from, paths are the workspace's.
    if let Err(error) = std::env::set_current_dir(host::workspace()) {
        eprintln!("the workspace cannot be entered: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = match chore {
        Chore::Test(arguments) => Ok(test::run(&arguments)),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Conformance(arguments) => conformance::run(&arguments),
        Chore::Torture(arguments) => torture::run(&arguments),
        Chore::Servers(arguments) => servers::run(&arguments),
        Chore::RestartServer(arguments) => servers::restart(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

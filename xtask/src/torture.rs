//! `cargo xtask torture`: runs a mixed load on process pools while faults are injected. An oracle checks every job.

use std::error::Error;
use std::process::{Command, ExitCode};

use clap::Args;

#[derive(Args)]
pub(crate) struct TortureArguments {
    /// The duration of the load, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Repeat the random choices of an earlier run, though not its timing. Default: a random seed, which is printed.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &TortureArguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut command = Command::new("cargo");
    command.args(["run", "--release", "-p", "offloop-torture", "--"]);
    command.arg("--seconds").arg(arguments.seconds.to_string());
    if let Some(seed) = arguments.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    Ok(if command.status()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

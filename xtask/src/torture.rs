//! `cargo xtask torture`: runs a mixed load on process pools while faults are injected. An oracle checks every job. With
//! `--cluster` it does so on a cluster, whose agents, servers and network fail.

use std::error::Error;
use std::process::{Command, ExitCode};

use clap::Args;

use crate::{plan, test};

#[derive(Args)]
pub(crate) struct TortureArguments {
    /// The duration of the load, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs the load on a cluster of three agents.
    #[arg(long)]
    cluster: bool,
    /// The duration of the load on a cluster, in minutes.
    #[arg(long, default_value_t = 10.0, requires = "cluster")]
    minutes: f64,
    /// The number of servers of the cluster: 1 or 3.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3), requires = "cluster")]
    servers: u8,
    /// Repeat the random choices of an earlier run, though not its timing. Default: a random seed, which is printed.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &TortureArguments) -> Result<ExitCode, Box<dyn Error>> {
    if arguments.cluster {
        return run_cluster(arguments);
    }
    let mut command = Command::new("cargo");
    command.args(["run", "--release", "-p", "offloop-torture", "--"]);
    command.arg("--seconds").arg(arguments.seconds.to_string());
    if let Some(seed) = arguments.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    Ok(if command.status()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_cluster(arguments: &TortureArguments) -> Result<ExitCode, Box<dyn Error>> {
    let (mut lines, server) = test::nats_server()?;
    let (minutes, servers) = (arguments.minutes.to_string(), arguments.servers.to_string());
    let mut torture = test::workspace("test --workspace --all-features --test torture -- --minutes").and([
        &*minutes,
        "--servers",
        &*servers,
    ]);
    if let Some(seed) = arguments.seed {
        torture = torture.and(["--seed".to_owned(), seed.to_string()]);
    }
    lines.push(torture.after(&server));
    Ok(if plan::run_all(lines).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

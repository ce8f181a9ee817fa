//! `cargo xtask page`: builds the page of the live view, one file that is committed, from its sources in
//! `crates/offloop/page`. Only who changes the page needs Node.js.

use std::error::Error;
use std::process::ExitCode;

use clap::Args;

use crate::host;
use crate::plan::{self, CommandLine, Plan};

#[derive(Args)]
pub(crate) struct PageArguments {
    /// Build nothing: check the sources, and that the committed file is what they give.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &PageArguments) -> Result<ExitCode, Box<dyn Error>> {
    plan::run_all(commands(if arguments.check { "check" } else { "build" }))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the plan of the step that checks the page.
pub(crate) fn check() -> Plan {
    if host::output_of("npm", &["--version"]).is_none() {
        return Plan::Skip("npm is not installed".to_owned());
    }
    Plan::Run(commands("check"))
}

/// Returns the commands that install what the script needs, in the versions of the lock file, and run it.
fn commands(script: &str) -> Vec<CommandLine> {
    let npm = |words: &[&str]| CommandLine::new(["npm", "--prefix", "crates/offloop/page"]).and(words);
    vec![npm(&["ci", "--silent"]), npm(&["run", "--silent", script])]
}

//! The program `offloop`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(offloop_cli::main(std::env::args_os()))
}

//! `cargo xtask torture --cluster`: a mixed load on a cluster of three agents while all that can fail fails, and an oracle
//! that checks every job. Without its arguments it does nothing, so that it may be built and run with the other tests.

#![allow(missing_docs, reason = "a program for tests")]

#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod oracle;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;
    use std::time::Duration;

    offloop::init();
    harness::agents::serve();
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str| -> Option<f64> {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let Some(minutes) = number("--minutes") else {
        eprintln!("run it by `cargo xtask torture --cluster`");
        return ExitCode::SUCCESS;
    };
    let (servers, seed) = (number("--servers"), number("--seed"));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "they are small whole numbers"
    )]
    let (servers, seed) =
        (servers.map_or(1, |it| it as usize), seed.map_or_else(|| fastrand::u64(..1 << 32), |it| it as u64));
    println!("torture of a cluster with {servers} servers for {minutes} min with --seed {seed}");
    let Some(world) = load::World::start(servers, seed) else { return ExitCode::FAILURE };
    world.run(Duration::from_secs_f64(minutes * 60.0))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("workers run on Linux only");
}

//! A program that is a worker when it is called so, and a submitter otherwise. It has a `main` of its own, as the programs of
//! users have. Without a NATS server it says so and passes.

#![allow(missing_docs, reason = "a test")]

#[cfg(target_os = "linux")]
#[path = "harness/mod.rs"]
mod harness;

#[cfg(target_os = "linux")]
#[offloop::task(name = "example:square", version = 1)]
fn square(number: u64) -> u64 {
    number * number
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    offloop::init();
    offloop_cluster::init()?;
    match std::env::args().nth(1).as_deref() {
        // A test runner asks which tests there are.
        Some("--list") => return Ok(()),
        Some("square") => {
            let cluster = offloop_cluster::Cluster::builder(std::env::var("OFFLOOP_CLUSTER_URL")?).build()?;
            println!("{}", cluster.run(square.with(12)).wait()?);
        }
        _ => a_program_is_a_worker_when_it_is_called_so(),
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn a_program_is_a_worker_when_it_is_called_so() {
    use std::process::{Command, Stdio};

    let program = |arguments: &[&str]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        harness::die_with_parent(&mut command);
        command
    };
    let refused = program(&["offloop-worker", "--colour", "red"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("usage: offloop-worker"), "{text}");
    let Some(servers) = harness::servers::Servers::start(1) else { return };
    let url = servers.url();
    let worker = program(&["offloop-worker", "--url", &url, "--slots", "1"]).spawn().unwrap();
    let submitted = program(&["square"]).env("OFFLOOP_CLUSTER_URL", &url).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&submitted.stdout), "144\n");
    harness::signal(&worker, rustix::process::Signal::TERM);
    assert!(worker.wait_with_output().unwrap().status.success());
    println!("a program is a worker when it is called so: ok");
}

#[cfg(not(target_os = "linux"))]
fn main() {}

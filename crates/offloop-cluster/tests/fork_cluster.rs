//! A program that forks while it uses a cluster. Where no NATS server is installed, the test says so and passes.

#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "a test")]

use std::time::Duration;

use offloop::ErrorKind;
use offloop_cluster::embedded::{Embedded, StartError, USER};
use offloop_cluster::{Cluster, Connection, Credentials, Worker};

offloop::init_tests!();

/// A generous bound for what takes milliseconds.
const GUARD: Duration = Duration::from_secs(60);

#[offloop::task(name = "fork:double")]
fn double(number: u64) -> u64 {
    number * 2
}

/// Returns the exit status of a child that runs this and says whether it is right.
fn in_child(body: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child does what Python's and others' forked children do: it goes on in one thread, and ends without
    // running the parent's destructors.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: the call sets a timer, which ends a child that hangs.
            unsafe { libc::alarm(120) };
            let is_right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(false);
            // SAFETY: the call ends the process.
            unsafe { libc::_exit(i32::from(!is_right)) }
        }
        child => {
            let mut status = -1;
            // SAFETY: `status` is valid for the call.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            status
        }
    }
}

#[test]
fn a_forked_child_uses_no_cluster_of_its_parent_and_may_open_its_own() {
    let server = match Embedded::builder().start() {
        Ok(server) => server,
        Err(StartError::Missing(_)) => return eprintln!("skipped: no NATS server is installed"),
        Err(error) => panic!("{error}"),
    };
    let credentials = Credentials::User { user: USER.to_owned(), password: server.password().to_owned() };
    let connection = Connection::to(format!("nats://{}", server.address())).credentials(credentials);
    let _worker = Worker::builder(connection.clone()).slots(1).build().unwrap();
    let cluster = Cluster::builder(connection.clone()).build().unwrap();
    assert_eq!(cluster.run(double.with(1)).wait().unwrap(), 2);
    let mut pending = cluster.run(double.with(2));

    let status = in_child(|| {
        let refused = cluster.run(double.with(3)).wait().unwrap_err();
        let inherited = pending.wait_timeout(GUARD).unwrap().unwrap_err();
        matches!((refused.kind(), inherited.kind()), (ErrorKind::Forked, ErrorKind::Forked))
            // It waits for an answer that cannot come, but not for ever.
            && cluster.workers().is_err()
    });
    assert_eq!(status, 0, "the parent's executor is not used");
    let status = in_child(|| {
        let own = Cluster::builder(connection).build().unwrap();
        own.run(double.with(4)).wait_timeout(GUARD).unwrap().unwrap() == 8
    });
    assert_eq!(status, 0, "the child has a cluster of its own");
    assert_eq!(pending.wait().unwrap(), 4);
    assert_eq!(cluster.run(double.with(5)).wait().unwrap(), 10);
}

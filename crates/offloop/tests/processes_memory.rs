//! Promises about the memory that a program shares with its workers: what the system may refuse or forbid, and who can
//! reach it. Each program that is limited here is a process of its own.

#![cfg(all(feature = "process", target_os = "linux"))]
#![allow(missing_docs, reason = "this is a test")]

mod process_support;

use std::time::Duration;

use offloop::ProcessPool;
use process_support::{pool, process_id, this_test_again};

offloop::init_tests!();

const SOON: Duration = Duration::from_secs(60);

#[offloop::task]
fn length(bytes: Vec<u8>) -> usize {
    bytes.len()
}

#[offloop::task]
fn of_length(bytes: usize) -> Vec<u8> {
    vec![7; bytes]
}

/// Limits a resource of this process.
fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live local variable. Without the privilege to keep the maximum, it stays as it is.
    let failed = unsafe { libc::setrlimit(resource, &raw const limit) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_program_whose_files_are_limited_learns_so_and_lives_on() {
    for bytes in ["0", "32768"] {
        let printed = this_test_again("limits_its_files", &[("LIMIT", bytes)]);
        assert!(printed.contains("RLIMIT_FSIZE") && printed.contains("lives on"), "{printed}");
    }
    // Enough for the link, but not for large payloads.
    let printed = this_test_again("limits_its_files", &[("LIMIT", "1048576")]);
    assert!(printed.contains("small: Ok(10)") && printed.contains("lives on"), "{printed}");
}

#[test]
#[ignore = "run by the test above"]
fn limits_its_files() {
    let bytes: u64 = std::env::var("LIMIT").unwrap().parse().unwrap();
    limit(libc::RLIMIT_FSIZE, bytes);
    let pool = match ProcessPool::builder().max_workers(1).build() {
        Ok(pool) => pool,
        Err(error) => return println!("{error}; lives on"),
    };
    let small = pool.run(length.with(vec![1; 10])).timeout(SOON).wait();
    let large = pool.run(length.with(vec![1; 3 << 20])).timeout(SOON).wait();
    let result = pool.run(of_length.with(3 << 20)).timeout(SOON).wait();
    limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
    let text = |result: Result<usize, offloop::Error>| result.map_err(|error| error.to_string());
    println!("small: {:?}; large: {:?}", text(small), text(large));
    println!("result: {:?}; lives on", text(result.map(|bytes| bytes.len())));
}

#[test]
fn a_program_that_locks_its_memory_pays_only_for_what_it_uses() {
    let printed = this_test_again("locks_its_memory", &[]);
    if printed.contains("may not lock") {
        eprintln!("skipped: it needs the right to lock memory");
    } else {
        assert!(printed.contains("worked"), "{printed}");
    }
}

#[test]
#[ignore = "run by the test above"]
fn locks_its_memory() {
    // If all of it were filled, the machine would survive that.
    limit(libc::RLIMIT_AS, 4 << 30);
    // SAFETY: the call takes plain numbers.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        return println!("may not lock");
    }
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssShmem:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let pool = pool(2);
    assert_ne!(pool.run(process_id.with()).timeout(SOON).wait().unwrap(), 0);
    let bytes = vec![7; 1 << 20];
    assert_eq!(pool.run(length.with(bytes.clone())).timeout(SOON).wait().unwrap(), bytes.len());
    assert_eq!(pool.run(of_length.with(bytes.len())).timeout(SOON).wait().unwrap(), bytes);
    assert!(resident() < 32, "{} MiB of shared memory are filled", resident());
    println!("worked");
}

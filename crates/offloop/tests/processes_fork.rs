//! Forks of a program that has a process pool, and of jobs: the child has copies of what its parent held, and nothing that
//! it does reaches the parent's jobs and results.
#![cfg(all(feature = "process", target_os = "linux"))]
#![allow(missing_docs, reason = "this is a test")]

mod process_support;

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use offloop::{Blob, BlobMut, ErrorKind, ProcessPool, job};
use process_support::{Gate, eventually, pool};

offloop::init_tests!();

/// The time in seconds after which a child that hangs is ended.
const ALARM: u32 = 20;

/// The size of a result or an argument that is in shared memory, in bytes. Whole pages, and more than one.
const SIZE: usize = 1 << 20;

/// The ways to make a child. The C library calls handlers in a child of the first only.
#[derive(Debug, Clone, Copy)]
enum Fork {
    Libc,
    Raw,
}

fn fork(how: Fork) -> libc::pid_t {
    // SAFETY: the children here run nothing but a test of what may be done there, and `_exit`.
    let pid = unsafe {
        match how {
            Fork::Libc => libc::fork(),
            Fork::Raw => libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0).try_into().unwrap(),
        }
    };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: `alarm` may be called after `fork` in a program with threads.
        unsafe { libc::alarm(ALARM) };
    }
    pid
}

/// Runs `child` in a forked child, which must end well.
#[track_caller]
fn in_child(how: Fork, child: impl FnOnce()) {
    let pid = fork(how);
    if pid == 0 {
        let is_well = catch_unwind(AssertUnwindSafe(child)).is_ok();
        // SAFETY: `_exit` may be called after `fork`.
        unsafe { libc::_exit(i32::from(!is_well)) };
    }
    collect(pid);
}

/// Waits for a child, which must end well.
#[track_caller]
fn collect(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: `status` outlives the call, and `pid` is a child of this process that no other thread waits for.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "a wait status; {} means that the child hung", libc::SIGALRM);
}

fn pipe() -> (std::fs::File, std::fs::File) {
    let mut ends = [0; 2];
    // SAFETY: the array has room for both descriptors, which belong to nobody else.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (FromRawFd::from_raw_fd(ends[0]), FromRawFd::from_raw_fd(ends[1]))
    }
}

fn one_worker() -> ProcessPool {
    pool(1)
}

fn is_all(bytes: &[u8], value: u8) -> bool {
    bytes.len() == SIZE && bytes.iter().all(|byte| *byte == value)
}

#[offloop::task]
fn filled(value: u8) -> Blob {
    let mut bytes = BlobMut::zeroed(SIZE);
    bytes.fill(value);
    bytes.freeze()
}

#[offloop::task]
fn length(bytes: Blob) -> usize {
    bytes.len()
}

/// Makes the worker use every block again that the pool has given back.
fn overwrite(pool: &ProcessPool) {
    for _ in 0..5 {
        assert!(is_all(&pool.run(filled.with(b'X')).wait().unwrap(), b'X'));
    }
}

#[test]
fn a_result_that_a_forked_child_drops_stays_as_it_is_in_the_parent() {
    for how in [Fork::Libc, Fork::Raw] {
        let pool = one_worker();
        let result = pool.run(filled.with(b'A')).wait().unwrap();
        let private = result.to_private();
        // Once more, so that the thread that took the answer has let go of the result.
        overwrite(&pool);
        let mut held = Some((result, private));
        in_child(how, || drop(held.take()));
        let (result, private) = held.take().unwrap();
        drop(private);
        overwrite(&pool);
        assert!(is_all(&result, b'A'), "{how:?}: {:?}", &result[..4]);
    }
}

#[test]
fn a_forked_child_reads_a_result_as_it_was_at_the_fork() {
    let pool = one_worker();
    let result = pool.run(filled.with(b'A')).wait().unwrap();
    let private = result.to_private();
    let mut held = Some((result, private));
    let (mut tell, told) = pipe();
    let pid = fork(Fork::Libc);
    if pid == 0 {
        let is_well = catch_unwind(AssertUnwindSafe(|| {
            (&tell, &told).0.read_exact(&mut [0]).unwrap();
            let (result, private) = held.as_ref().unwrap();
            assert!(is_all(result, b'A'), "the child's result has changed: {:?}", &result[..4]);
            assert!(is_all(private, b'A'), "the child's view has changed: {:?}", &private[..4]);
            assert!(is_all(&result.to_private(), b'A'), "a view that the child has made");
            drop(held.take());
        }))
        .is_ok();
        // SAFETY: `_exit` may be called after `fork`.
        unsafe { libc::_exit(i32::from(!is_well)) };
    }
    drop(held.take());
    overwrite(&pool);
    (&told).write_all(&[1]).unwrap();
    collect(pid);
    let _ = tell.read(&mut []);
}

#[test]
fn what_a_forked_child_writes_to_a_blob_does_not_reach_the_parent() {
    let pool = one_worker();
    let mut bytes = pool.blob(SIZE);
    bytes.resize(SIZE, b'A');
    in_child(Fork::Libc, || {
        bytes.fill(b'Y');
        assert!(is_all(&bytes, b'Y'));
    });
    assert!(is_all(&bytes, b'A'), "{:?}", &bytes[..4]);
    assert_eq!(pool.run(length.with(bytes.freeze())).wait().unwrap(), SIZE);
}

/// Forks. The child waits for a line in `gate` and writes what its argument is like then to `seen`.
#[offloop::task]
fn fork_and_read(bytes: &[u8], blob: Blob, gate: &str, seen: &str) -> usize {
    if fork(Fork::Libc) == 0 {
        let mut private = blob.to_private();
        while std::fs::exists(gate).unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let is_whole = is_all(bytes, b'A') && is_all(&blob, b'A') && is_all(&private, b'A');
        private.fill(b'Z');
        std::fs::write(format!("{seen}.new"), if is_whole { "whole" } else { "changed" }).unwrap();
        std::fs::rename(format!("{seen}.new"), seen).unwrap();
        // SAFETY: `_exit` may be called after `fork`.
        unsafe { libc::_exit(0) };
    }
    blob.len()
}

#[test]
fn the_child_of_a_job_keeps_its_arguments_while_the_pool_reuses_their_memory() {
    let (gate, seen) = (Gate::new(), Gate::new());
    seen.open();
    let pool = one_worker();
    let blob = |value| {
        let mut bytes = BlobMut::zeroed(SIZE);
        bytes.fill(value);
        bytes.freeze()
    };
    let job = pool.run(fork_and_read.with(&vec![b'A'; SIZE], blob(b'A'), gate.path(), seen.path()));
    assert_eq!(job.wait().unwrap(), SIZE);
    for _ in 0..10 {
        assert_eq!(pool.run(length.with(blob(b'X'))).wait().unwrap(), SIZE);
        assert_eq!(pool.run(count.with(&vec![b'X'; SIZE])).wait().unwrap(), SIZE);
    }
    gate.open();
    eventually("the job's child ends", || std::fs::exists(seen.path()).unwrap());
    assert_eq!(std::fs::read_to_string(seen.path()).unwrap(), "whole");
}

#[offloop::task]
fn count(bytes: &[u8]) -> usize {
    bytes.len()
}

/// Sends items of some size from the job and from a child that it forks. Returns the child's error.
#[offloop::task]
fn emit_from_both(how: u8, items: u8, size: usize) -> String {
    let (mut read, mut write) = pipe();
    let pid = fork(if how == 0 { Fork::Libc } else { Fork::Raw });
    if pid == 0 {
        let errors: Vec<String> = (0..items)
            .filter_map(|_| job::emit(&vec![b'c'; size]).err().map(|error| error.to_string()))
            .collect();
        write.write_all(format!("{} of {items}: {}", errors.len(), errors[0]).as_bytes()).unwrap();
        // SAFETY: `_exit` may be called after `fork`.
        unsafe { libc::_exit(0) };
    }
    drop(write);
    for _ in 0..items {
        job::emit(&vec![b'w'; size]).unwrap();
    }
    collect(pid);
    let mut error = String::new();
    read.read_to_string(&mut error).unwrap();
    error
}

#[test]
fn the_child_of_a_job_can_send_no_items_into_its_stream() {
    let pool = one_worker();
    for (how, size) in [(0, 100), (0, 200_000), (1, 100), (1, 200_000)] {
        let (handle, mut items) = pool.stream::<Vec<u8>, _>(emit_from_both.with(how, 50, size), 4);
        let mut read = 0;
        while let Some(item) = items.wait_next() {
            let item = item.unwrap();
            assert!(item.len() == size && item.iter().all(|byte| *byte == b'w'), "an item of the child's");
            read += 1;
        }
        assert_eq!(read, 50);
        let error = handle.wait().unwrap();
        assert!(error.starts_with("50 of 50: ") && error.contains("forked by the job"), "{error}");
    }
}

#[offloop::task]
fn emit_then_wait(gate: &str) {
    job::emit(&1_u32).unwrap();
    while std::fs::exists(gate).unwrap() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    job::emit(&2_u32).unwrap();
}

#[test]
fn a_stream_fails_once_in_a_forked_child_and_goes_on_in_the_parent() {
    let gate = Gate::new();
    let pool = one_worker();
    let (handle, mut items) = pool.stream::<u32, _>(emit_then_wait.with(gate.path()), 4);
    for how in [Fork::Libc, Fork::Raw] {
        in_child(how, || {
            let error = items.wait_next().expect("the child learns why").unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Forked), "{error}");
            assert!(items.wait_next().is_none());
        });
    }
    gate.open();
    assert_eq!(items.wait_next().unwrap().unwrap(), 1);
    assert_eq!(items.wait_next().unwrap().unwrap(), 2);
    assert!(items.wait_next().is_none());
    handle.wait().unwrap();
}

#[test]
fn a_forked_child_that_drops_the_pool_and_its_jobs_leaves_them_to_the_parent() {
    for how in [Fork::Libc, Fork::Raw] {
        let gate = Gate::new();
        let pool = one_worker();
        let running = pool.run(wait_at.with(gate.path()));
        let queued = pool.run(filled.with(b'A'));
        let pid = gate.wait_for_pid();
        let mut held = Some((pool, running, queued));
        in_child(how, || drop(held.take()));
        let (pool, running, queued) = held.take().unwrap();
        gate.open();
        running.wait().unwrap();
        assert!(is_all(&queued.wait().unwrap(), b'A'));
        assert_eq!(pool.worker_pids(), [pid], "the worker was replaced");
        overwrite(&pool);
    }
}

/// Waits until the file of a gate has gone.
#[offloop::task]
fn wait_at(gate: &str) {
    std::fs::write(gate, format!("{}\n", std::process::id())).unwrap();
    while std::fs::exists(gate).unwrap() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

//! Promises about items that a job sends before its result, and about event loops that take answers themselves.
#![cfg(all(feature = "process", target_os = "linux"))]
#![allow(missing_docs, reason = "this is a test")]

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use offloop::embed::{HandleExt, ProcessPoolExt};
use offloop::{Blob, BlobMut, ErrorKind, JobState, ProcessPool, job};

offloop::init_tests!();

const SOON: Duration = Duration::from_secs(20);

fn one_worker() -> ProcessPool {
    ProcessPool::builder().max_workers(1).build().unwrap()
}

#[offloop::task]
fn count_to(end: u32) -> u32 {
    for number in 0..end {
        job::emit(&number).unwrap();
    }
    end
}

#[offloop::task]
fn count_in_file(end: u32, path: &str) {
    for number in 0..end {
        job::emit(&number).unwrap();
        std::fs::write(path, (number + 1).to_string()).unwrap();
    }
}

#[offloop::task]
fn emit_blobs(count: u8, size: usize) {
    for number in 0..count {
        let mut blob = BlobMut::zeroed(size);
        blob.fill(number);
        job::emit(&blob.freeze()).unwrap();
    }
}

#[offloop::task]
fn emit_and_abort(count: u32) {
    for number in 0..count {
        job::emit(&number).unwrap();
    }
    std::process::abort();
}

#[offloop::task]
fn emit_without_a_reader() -> String {
    job::emit(&1).unwrap_err().to_string()
}

#[test]
fn items_come_in_order_and_before_the_result() {
    let pool = one_worker();
    for room in [1, 3, 1000] {
        let (mut handle, mut items) = pool.stream::<u32, _>(count_to.with(500), room);
        let mut read = Vec::new();
        while let Some(item) = items.wait_next() {
            read.push(item.unwrap());
        }
        assert_eq!(read, (0..500).collect::<Vec<_>>());
        assert_eq!(handle.wait_timeout(SOON).unwrap().unwrap(), 500);
    }
}

#[test]
fn items_can_be_awaited() {
    let pool = one_worker();
    futures_lite::future::block_on(async {
        let (handle, mut items) = pool.stream::<u32, _>(count_to.with(100), 4);
        let mut sum = 0;
        while let Some(item) = items.next().await {
            sum += item.unwrap();
        }
        assert_eq!(sum, 4950);
        assert_eq!(handle.await.unwrap(), 100);
    });
}

#[test]
fn a_job_waits_while_its_items_are_not_read() {
    let path = std::env::temp_dir().join(format!("offloop-stream-{}", std::process::id()));
    let pool = one_worker();
    let (handle, mut items) = pool.stream::<u32, _>(count_in_file.with(1000, path.to_str().unwrap()), 5);
    assert_eq!(items.wait_next().unwrap().unwrap(), 0);
    // Five wait to be read, and one more in the link.
    let mut reached = 0;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        reached = std::fs::read_to_string(&path).unwrap_or_default().parse().unwrap_or(0);
        assert!(reached <= 8, "it went on to {reached}");
    }
    assert!(reached >= 5, "it stopped at {reached}");
    drop(handle);
    while items.wait_next().is_some() {}
    assert_eq!(pool.run(count_to.with(0)).wait().unwrap(), 0, "the pool has a worker again");
    let _ = std::fs::remove_file(path);
}

#[test]
fn large_items_are_not_copied_and_their_memory_is_used_again() {
    let pool = one_worker();
    let (handle, mut items) = pool.stream::<Blob, _>(emit_blobs.with(100, 1 << 20), 2);
    let mut count = 0;
    while let Some(blob) = items.wait_next() {
        let blob = blob.unwrap();
        assert!(blob.iter().all(|byte| *byte == count));
        count += 1;
    }
    assert_eq!(count, 100);
    handle.wait().unwrap();
}

#[test]
fn what_was_sent_before_a_crash_is_read_before_its_error() {
    let pool = one_worker();
    let (handle, mut items) = pool.stream::<u32, _>(emit_and_abort.with(3), 100);
    let read: Vec<u32> = std::iter::from_fn(|| items.wait_next()).map(Result::unwrap).collect();
    assert_eq!(read, [0, 1, 2]);
    assert!(matches!(handle.wait().unwrap_err().kind(), ErrorKind::WorkerDied(_)));
}

#[test]
fn what_was_sent_before_a_crash_is_not_lost_where_there_was_no_room_for_it() {
    let pool = one_worker();
    // The third item waits for room when the worker dies.
    let (handle, mut items) = pool.stream::<u32, _>(emit_and_abort.with(3), 2);
    let begun = Instant::now();
    while handle.state() != JobState::Ended {
        assert!(begun.elapsed() < SOON, "the job does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    let read: Vec<u32> = std::iter::from_fn(|| items.wait_next()).map(Result::unwrap).collect();
    assert_eq!(read, [0, 1, 2]);
    assert!(matches!(handle.wait().unwrap_err().kind(), ErrorKind::WorkerDied(_)));
}

#[test]
fn an_item_of_a_job_without_a_reader_is_refused() {
    let pool = one_worker();
    let said = pool.run(emit_without_a_reader.with()).wait().unwrap();
    assert!(said.contains("nobody reads"), "{said}");
    assert!(emit_without_a_reader().contains("no job of a process pool"));
}

#[test]
fn an_item_of_another_type_is_an_error_of_its_own() {
    let pool = one_worker();
    let (handle, mut items) = pool.stream::<(u32, u32), _>(count_to.with(1), 4);
    let error = items.wait_next().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode(_)), "{error}");
    assert!(items.wait_next().is_none());
    assert_eq!(handle.wait().unwrap(), 1);
}

/// Waits for a moment until a descriptor is readable. Returns whether it is.
fn becomes_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    rustix::event::poll(&mut watched, Some(&limit)).unwrap() == 1
}

#[test]
fn a_listener_is_notified_of_answers_and_takes_them() {
    let pool = one_worker();
    pool.run(count_to.with(0)).wait().unwrap();
    let ear = pool.listen();
    let mut notified = 0;
    for _ in 0..100 {
        let mut handle = pool.run(count_to.with(0));
        let deadline = Instant::now() + SOON;
        // It may be notified in vain, of an answer that the supervisor has taken.
        let result = loop {
            assert!(Instant::now() < deadline);
            if becomes_readable(ear) {
                notified += 1;
                pool.take_answers();
            }
            if let Some(result) = handle.try_result() {
                break result;
            }
        };
        assert_eq!(result.unwrap(), 0);
    }
    assert!(notified > 50, "{notified}");
}

#[test]
fn answers_that_the_listener_does_not_take_arrive_too() {
    let pool = one_worker();
    let _ = pool.listen();
    for _ in 0..20 {
        let mut handles: Vec<_> = (0..50).map(|_| pool.run(count_to.with(0))).collect();
        let deadline = Instant::now() + SOON;
        for handle in &mut handles {
            while handle.try_result().is_none() {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }
}

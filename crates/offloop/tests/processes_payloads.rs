//! Promises about payloads: they arrive whole, large parts are not copied, and their memory is given back.

#![cfg(all(feature = "process", target_os = "linux"))]

mod process_support;

use std::io::Read;

use offloop::{Blob, BlobMut, ErrorKind, PrivateBlob, ProcessPool};
use process_support::{add, eventually, pool, process_id, this_test_again};

offloop::init_tests!();

/// Returns bytes whose values depend on their place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) % 251).unwrap()).collect()
}

fn blob(length: usize) -> Blob {
    let mut blob = BlobMut::zeroed(length);
    blob.copy_from_slice(&pattern(length));
    blob.freeze()
}

#[offloop::task]
fn inverted(bytes: Blob) -> Blob {
    let mut result = BlobMut::with_capacity(bytes.len());
    result.resize(bytes.len(), 0);
    result.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = !from);
    result.freeze()
}

#[offloop::task]
fn all_three(slice: &[u8], vector: Vec<u8>, text: &str) -> (usize, usize, usize, bool) {
    (slice.len(), vector.len(), text.len(), slice == vector && text.bytes().all(|byte| byte == b'x'))
}

#[offloop::task]
fn echo(blobs: Vec<Blob>) -> Vec<Blob> {
    blobs
}

#[offloop::task]
fn keep(bytes: Blob) {
    KEPT.lock().unwrap().push(bytes);
}

#[offloop::task]
fn what_was_kept() -> Vec<Vec<u8>> {
    KEPT.lock().unwrap().iter().map(|blob| blob.to_vec()).collect()
}

static KEPT: std::sync::Mutex<Vec<Blob>> = std::sync::Mutex::new(Vec::new());

#[offloop::task]
fn twice_the_same(length: usize) -> (Blob, Blob, Vec<u8>) {
    let one = blob(length);
    (one.clone(), one, pattern(length))
}

#[test]
fn every_size_arrives_whole() {
    let pool = pool(1);
    for length in [0, 1, 1000, 1407, 1408, 1409, 4095, 4096, 4097, 65_536, 1 << 20, (1 << 20) + 1, 9 << 20] {
        let bytes = pattern(length);
        let text = "x".repeat(length);
        let call = all_three.with(&bytes, bytes.clone(), &text);
        assert_eq!(pool.run(call).wait().unwrap(), (length, length, length, true));
        let result = pool.run(inverted.with(blob(length))).wait().unwrap();
        assert!(result.iter().zip(&bytes).all(|(a, b)| *a == !b) && result.len() == length, "{length}");
        let heap = pool.run(inverted.with(bytes.clone().into())).wait().unwrap();
        assert_eq!(heap, result);
    }
}

#[test]
fn many_blobs_of_one_call_arrive_in_their_places() {
    let blobs: Vec<Blob> = (0..100).map(|at| blob(at * 37)).collect();
    let back = pool(1).run(echo.with(blobs.clone())).wait().unwrap();
    assert_eq!(back, blobs);
}

#[test]
fn a_blob_does_not_change_while_a_clone_of_it_is_held() {
    let pool = pool(1);
    let held: Vec<Blob> = (0..20).map(|_| pool.run(inverted.with(blob(100_000))).wait().unwrap()).collect();
    let (one, same, bytes) = pool.run(twice_the_same.with(50_000)).wait().unwrap();
    for _ in 0..20 {
        drop(pool.run(inverted.with(BlobMut::zeroed(100_000).freeze())).wait().unwrap());
    }
    let expected: Vec<u8> = pattern(100_000).iter().map(|byte| !byte).collect();
    assert!(held.iter().all(|blob| **blob == expected[..]));
    assert!(*one == bytes[..] && one == same);
    // The worker's death does not change it.
    process_support::kill(pool.worker_pids()[0], libc::SIGKILL);
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
    drop(pool);
    assert!(held.iter().all(|blob| **blob == expected[..]));
}

#[test]
fn a_blob_that_a_task_keeps_is_not_overwritten() {
    let pool = pool(1);
    for _ in 0..3 {
        pool.run(keep.with(blob(70_000))).wait().unwrap();
        drop(pool.run(inverted.with(BlobMut::zeroed(70_000).freeze())).wait().unwrap());
    }
    assert_eq!(pool.run(what_was_kept.with()).wait().unwrap(), vec![pattern(70_000); 3]);
}

#[test]
fn a_blob_that_came_as_a_result_goes_on_as_an_argument() {
    let (one, other) = (pool(1), pool(1));
    let back = one.run(inverted.with(blob(300_000))).wait().unwrap();
    let again = other.run(inverted.with(back)).wait().unwrap();
    assert_eq!(*again, pattern(300_000)[..]);
}

#[test]
fn what_exceeds_max_payload_is_an_error_of_its_job_both_ways() {
    let pool = ProcessPool::builder().max_workers(1).max_payload(100_000).build().unwrap();
    let error = pool.run(inverted.with(blob(100_001))).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Encode(text) if text.contains("max_payload")), "{error}");
    let error = pool.run(twice_the_same.with(40_000)).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Encode(text) if text.contains("max_payload")), "{error}");
    assert_eq!(pool.run(inverted.with(blob(90_000))).wait().unwrap().len(), 90_000);
}

#[test]
fn a_file_is_read_into_a_blob_in_place() {
    let path = std::env::current_exe().unwrap();
    let blob = BlobMut::read_from(std::fs::File::open(&path).unwrap()).unwrap().freeze();
    let mut bytes = Vec::new();
    std::fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(*blob == bytes[..]);
    let result = pool(1).run(inverted.with(blob)).wait().unwrap();
    assert!(result.iter().zip(&bytes).all(|(a, b)| *a == !b));
}

#[test]
fn a_worker_that_has_slept_for_a_while_is_woken() {
    let pool = pool(1);
    // With memory that it could give back, and without.
    for length in [1 << 20, 10] {
        for pause in [0, 20, 150, 300] {
            assert_eq!(pool.run(inverted.with(blob(length))).wait().unwrap().len(), length);
            std::thread::sleep(std::time::Duration::from_millis(pause));
            let mut job = pool.run(add.with(1, 1));
            let result = job.wait_timeout(std::time::Duration::from_millis(1500));
            assert_eq!(result.expect("it is woken").unwrap(), 2, "after {pause} ms");
        }
    }
}

#[test]
fn memory_is_used_again_and_goes_back_when_it_is_not_needed() {
    // In a process of its own, since the memory of the whole process is measured.
    assert!(this_test_again("watches_its_memory", &[]).contains("memory went back"));
}

#[test]
#[ignore = "run by the test above"]
fn watches_its_memory() {
    /// Shared memory of a process, in MiB.
    fn shared(pid: u32) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssShmem:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    let pool = pool(1);
    let worker = pool.run(process_id.with()).wait().unwrap();
    let bytes = pattern(16 << 20);
    for _ in 0..30 {
        let back = pool.run(inverted.with(bytes.clone().into())).wait().unwrap();
        assert_eq!(back.len(), bytes.len());
    }
    // Each of the two arenas has a block or two of 16 MiB, however many went through it.
    for pid in [std::process::id(), worker] {
        assert!((16..=96).contains(&shared(pid)), "{} MiB", shared(pid));
    }
    eventually("both have given it back", || {
        [std::process::id(), worker].into_iter().all(|pid| shared(pid) < 8)
    });
    assert_eq!(pool.run(inverted.with(bytes.into())).wait().unwrap().len(), 16 << 20);
    println!("memory went back");
}

/// Writes to a private view. Returns whether the view had and has the right bytes, and whether the blob is unchanged.
fn scribble_privately(bytes: &Blob) -> [bool; 3] {
    let mut private = bytes.to_private();
    let arrived = *private == **bytes;
    private.iter_mut().for_each(|byte| *byte = !*byte);
    [arrived, private.iter().zip(bytes.iter()).all(|(a, b)| *a == !b), **bytes == pattern(bytes.len())[..]]
}

#[offloop::task]
fn scribble(bytes: Blob) -> [bool; 3] {
    scribble_privately(&bytes)
}

/// Keeps the sockets: a worker that has closed the one to its pool is killed soon.
#[offloop::task]
fn scribble_without_files(bytes: Blob) -> [bool; 3] {
    for descriptor in 3..1000 {
        // SAFETY: a stat is plain data, which the call fills.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the stat lives, and any number may be asked about.
        let is_open = unsafe { libc::fstat(descriptor, &raw mut stat) } == 0;
        if is_open && stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            // SAFETY: it is the purpose of this test to close the files; no code uses them after that.
            unsafe { libc::close(descriptor) };
        }
    }
    scribble_privately(&bytes)
}

#[offloop::task]
fn keep_privately(bytes: Blob) {
    let mut private = bytes.to_private();
    private[0] = 99;
    KEPT_PRIVATELY.lock().unwrap().push(private);
}

#[offloop::task]
fn is_kept_privately(drop_it: bool) -> bool {
    let mut kept = KEPT_PRIVATELY.lock().unwrap();
    let is_intact = |blob: &PrivateBlob| blob[0] == 99 && blob[1..] == pattern(blob.len())[1..];
    let all_are = kept.iter().all(is_intact) && !kept.is_empty();
    if drop_it {
        kept.clear();
    }
    all_are
}

static KEPT_PRIVATELY: std::sync::Mutex<Vec<PrivateBlob>> = std::sync::Mutex::new(Vec::new());

#[test]
fn what_a_task_writes_privately_is_seen_neither_by_its_caller_nor_by_others() {
    let (one, other) = (pool(1), pool(1));
    for length in [1, 5000, 100_000, 3 << 20] {
        // In shared memory, from the heap, and in memory of the other worker.
        let foreign =
            other.run(inverted.with(pattern(length).iter().map(|byte| !byte).collect::<Vec<_>>().into()));
        for bytes in [blob(length), pattern(length).into(), foreign.wait().unwrap()] {
            for _ in 0..2 {
                assert_eq!(one.run(scribble.with(bytes.clone())).wait().unwrap(), [true; 3]);
                assert_eq!(other.run(scribble.with(bytes.clone())).wait().unwrap(), [true; 3]);
            }
            assert!(*bytes == pattern(length)[..], "the caller sees it");
        }
    }
}

#[test]
fn what_a_caller_writes_privately_to_a_result_is_its_own() {
    let pool = pool(1);
    for length in [100, 100_000, 3 << 20] {
        let result = pool.run(inverted.with(blob(length))).wait().unwrap();
        let mut private = result.to_private();
        private.fill(5);
        let untouched = result.to_private();
        drop(result);
        // These would use the memory again if it were not held.
        for _ in 0..20 {
            drop(pool.run(inverted.with(BlobMut::zeroed(length).freeze())).wait().unwrap());
        }
        // The worker's death does not change it.
        process_support::kill(pool.worker_pids()[0], libc::SIGKILL);
        assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
        assert!(private.iter().all(|byte| *byte == 5));
        assert!(untouched.iter().zip(pattern(length)).all(|(a, b)| *a == !b));
    }
}

#[test]
fn memory_of_which_a_task_keeps_a_private_view_is_not_used_again() {
    let pool = pool(1);
    for _ in 0..3 {
        pool.run(keep_privately.with(blob(100_000))).wait().unwrap();
        for _ in 0..5 {
            drop(pool.run(inverted.with(BlobMut::zeroed(100_000).freeze())).wait().unwrap());
        }
    }
    assert!(pool.run(is_kept_privately.with(false)).wait().unwrap());
    assert!(pool.run(is_kept_privately.with(true)).wait().unwrap());
    assert!(!pool.run(is_kept_privately.with(false)).wait().unwrap());
}

#[test]
fn a_task_that_has_closed_all_files_may_still_write_privately() {
    for length in [5000, 1 << 20] {
        assert_eq!(pool(1).run(scribble_without_files.with(blob(length))).wait().unwrap(), [true; 3]);
    }
}

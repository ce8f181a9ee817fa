//! Promises about the memory that a program shares with its workers: what the system may refuse or forbid, and who can
//! reach it. Each program that is limited here is a process of its own.

#![cfg(all(feature = "process", target_os = "linux"))]
#![allow(missing_docs, reason = "this is a test")]

mod process_support;

use std::time::Duration;

use offloop::{Blob, ErrorKind, ProcessPool};
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

/// The text that is sent to one pool alone. Its words never stand together in what another pool is sent.
fn secret() -> Vec<u8> {
    ["of", "one", "pool", "alone"].join("-").repeat(10_000).into_bytes()
}

/// The memory files of the pools' calls that this process can get at: what is mapped, and where it can be opened.
fn files_of_calls() -> (Vec<(u64, u64, String)>, Vec<std::path::PathBuf>) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let is_of_calls = |text: &str| text.contains("memfd:offloop-calls");
    let mapped = maps.lines().filter(|line| is_of_calls(line)).map(|line| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        (start, end, words.next().unwrap().to_owned())
    });
    let open = ["fd", "map_files"].into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(format!("/proc/self/{folder}")).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| std::fs::read_link(path).is_ok_and(|link| is_of_calls(&link.to_string_lossy())))
    });
    (mapped.collect(), open.collect())
}

/// Looks for the secret in all that this process can read of any pool's calls. Returns where it is.
#[offloop::task]
fn find_secret(_own: Vec<u8>) -> Vec<String> {
    use std::os::unix::fs::FileExt;
    let secret = &secret()[..100];
    let contains = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    let (mapped, files) = files_of_calls();
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut found = Vec::new();
    let mut bytes = vec![0; 1 << 20];
    for (start, ..) in mapped {
        let read = memory.read_at(&mut bytes, start).unwrap_or(0);
        found.extend(contains(&bytes[..read]).then(|| format!("mapped at {start:x}")));
    }
    for path in files {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        let read = file.read_at(&mut bytes, 0).unwrap_or(0);
        found.extend(contains(&bytes[..read]).then(|| path.display().to_string()));
    }
    found
}

/// Tries to write to all that this process can get at of its pool's calls. Returns the ways that worked.
#[offloop::task]
fn write_to_calls(own: Vec<u8>) -> (usize, Vec<String>) {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    let (mapped, files) = files_of_calls();
    let memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    let mut written = Vec::new();
    for (start, end, access) in &mapped {
        let size = usize::try_from(end - start).unwrap();
        written.extend(access.contains('w').then(|| format!("mapped {access}")));
        written.extend(memory.write_at(b"x", *start).is_ok().then(|| "/proc/self/mem".to_owned()));
        // SAFETY: the call changes the access to a mapping of this library's, and nothing is written there.
        let changed = unsafe {
            let start = std::ptr::with_exposed_provenance_mut(usize::try_from(*start).unwrap());
            libc::mprotect(start, size, libc::PROT_READ | libc::PROT_WRITE)
        };
        written.extend((changed == 0).then(|| "mprotect".to_owned()));
    }
    let reached = mapped.len() + files.len();
    for path in files {
        let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(&path) else { continue };
        let path = path.display();
        written.extend(file.write_at(b"x", 0).is_ok().then(|| format!("write to {path}")));
        written.extend(file.set_len(0).is_ok().then(|| format!("cut {path}")));
        // SAFETY: the calls make a mapping at an unused address, and a hole where the kernel allows it.
        unsafe {
            let (access, descriptor) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
            let made = libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, descriptor, 0);
            written.extend((made != libc::MAP_FAILED).then(|| format!("map {path}")));
            let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let made = libc::fallocate(descriptor, hole, 0, 4096);
            written.extend((made == 0).then(|| format!("hole in {path}")));
        }
    }
    assert!(own.iter().all(|byte| *byte == 7));
    (reached, written)
}

#[test]
fn a_worker_reads_what_was_sent_to_its_own_pool_and_nothing_else() {
    let (ours, theirs) = (pool(1), pool(1));
    assert_eq!(ours.run(length.with(secret())).wait().unwrap(), secret().len());
    // Something else is there to be found.
    assert_eq!(theirs.run(length.with(vec![7; 1 << 20])).wait().unwrap(), 1 << 20);
    let found = theirs.run(find_secret.with(vec![7; 1 << 20])).wait().unwrap();
    assert_eq!(found, Vec::<String>::new());
    // The search finds what is there, in what the worker has kept mapped.
    let found = ours.run(find_secret.with(vec![7; 100])).wait().unwrap();
    assert!(!found.is_empty(), "the search does not work");
}

#[test]
fn a_worker_cannot_write_to_the_memory_of_its_pool() {
    let pool = pool(1);
    let (reached, written) = pool.run(write_to_calls.with(vec![7; 1 << 20])).wait().unwrap();
    assert!(reached >= 2, "it has a mapping and a descriptor");
    assert_eq!(written, Vec::<String>::new());
}

#[test]
fn a_job_that_leaves_no_descriptor_costs_its_worker_and_no_other_job() {
    let pool = ProcessPool::builder().max_workers(1).max_open_files(40).build().unwrap();
    let first = pool.run(use_up_descriptors.with()).wait().unwrap();
    // The worker has no memory of the pool yet, and no descriptor for it to come with.
    assert_eq!(pool.run(length.with(vec![1; 1 << 20])).wait().unwrap(), 1 << 20);
    assert_ne!(pool.run(process_id.with()).wait().unwrap(), first);
}

#[offloop::task]
fn use_up_descriptors() -> u32 {
    while let Ok(file) = std::fs::File::open("/dev/null") {
        std::mem::forget(file);
    }
    std::process::id()
}

#[offloop::task]
fn address_of(bytes: Blob) -> usize {
    bytes.as_ptr().addr()
}

#[test]
fn a_blob_of_the_pool_is_read_where_it_was_written_and_others_are_copied() {
    let (ours, theirs) = (pool(1), pool(1));
    let mut bytes = ours.blob(1 << 20);
    bytes.resize(1 << 20, 7);
    let bytes = bytes.freeze();
    let used = |pool: &ProcessPool| pool.metrics().arena.unwrap().used;
    assert_eq!((used(&ours), used(&theirs)), (1 << 20, 0));
    let addresses = [0; 2].map(|_| ours.run(address_of.with(bytes.clone())).wait().unwrap());
    assert_eq!(addresses[0], addresses[1], "it has been copied");
    assert_eq!(used(&ours), 1 << 20);
    assert_eq!(theirs.run(inspect.with(bytes.clone())).wait().unwrap(), (1 << 20, true));
    drop((ours, bytes));
}

#[offloop::task]
fn inspect(bytes: Blob) -> (usize, bool) {
    (bytes.len(), bytes.iter().all(|byte| *byte == 7))
}

#[test]
fn the_memory_of_a_pool_goes_back_when_the_pool_ends() {
    let pool = pool(1);
    assert_eq!(pool.run(length.with(vec![1; 1 << 20])).wait().unwrap(), 1 << 20);
    assert!(pool.metrics().arena.unwrap().kept >= 1 << 20);
    pool.shutdown(SOON).wait().unwrap();
    let arena = pool.metrics().arena.unwrap();
    assert_eq!((arena.used, arena.kept), (0, 0));
    let late = pool.run(length.with(vec![1; 1 << 20])).wait().unwrap_err();
    assert!(matches!(late.kind(), ErrorKind::Closed), "{late}");
}

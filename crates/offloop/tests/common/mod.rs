//! Code shared by the tests of the thread pool: gates that order events, and limits that turn a hang into a failure.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use offloop::{Error, Handle, JobState, ThreadPool};

/// The time after which a test gives up on something that should happen soon.
pub const GIVE_UP: Duration = Duration::from_secs(30);

/// A gate, closed at first. Threads that pass it wait until it is opened.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn pass(&self) {
        let guard = self.0.0.lock().unwrap();
        let (_guard, waited) = self.0.1.wait_timeout_while(guard, GIVE_UP, |open| !*open).unwrap();
        assert!(!waited.timed_out(), "the gate stayed closed");
    }
}

/// Counts something that happens in several threads.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn sub(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Returns a value that adds one when it is dropped.
    pub fn on_drop(&self) -> OnDrop<impl FnMut() + Send + use<>> {
        let count = self.clone();
        OnDrop(move || {
            count.add();
        })
    }
}

/// Calls a function when dropped.
pub struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<F: FnMut()> std::fmt::Debug for OnDrop<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDrop")
    }
}

/// Waits for the end of a job and returns its result. Fails the test if the job does not end.
#[track_caller]
pub fn end<T>(mut handle: Handle<T>) -> Result<T, Error>
where
    T: Send + 'static,
{
    handle.wait_timeout(GIVE_UP).expect("the job ends")
}

/// Polls until `holds` returns true. Fails the test if it never does.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < GIVE_UP, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `f` in a thread of its own and returns its result. Fails the test if it does not return.
#[track_caller]
pub fn comes_back<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(f()));
    receive.recv_timeout(GIVE_UP).unwrap_or_else(|error| panic!("{what} did not come back: {error}"))
}

/// Builds a pool of one thread.
pub fn single() -> ThreadPool {
    ThreadPool::builder().max_workers(1).build().unwrap()
}

/// Occupies the one thread of `pool` until the returned gate is opened.
pub fn occupy(pool: &ThreadPool) -> (Gate, Handle<()>) {
    let gate = Gate::new();
    let pass = gate.clone();
    let handle = pool.run(move || pass.pass());
    eventually("the job starts", || handle.state() == JobState::Running);
    (gate, handle)
}

/// Returns the kernel's ids of this process's threads whose name is `name-` and a number.
pub fn threads_named(name: &str) -> Vec<i32> {
    let is_ours = |comm: &str| {
        comm.trim_end()
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let comm = std::fs::read_to_string(task.path().join("comm")).ok()?;
            is_ours(&comm).then(|| task.file_name().to_str().unwrap().parse().unwrap())
        })
        .collect()
}

/// Returns whether this thread of the process sleeps.
pub fn sleeps(tid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('S')
}

/// Returns the kernel's id of this thread.
pub fn tid() -> i32 {
    // SAFETY: it has no preconditions.
    unsafe { libc::gettid() }
}

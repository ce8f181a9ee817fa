//! The state in which the library's threads begin: that of the main thread, whichever thread submits first.
#![cfg(target_os = "linux")]

mod process_support;

use std::future::Future;
use std::sync::mpsc;

use offloop::{ProcessPool, ThreadPool};
use process_support::this_test_again;

offloop::init_tests!();

/// Returns a line of this thread's status.
fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

fn affinity() -> String {
    status("Cpus_allowed_list:")
}

fn policy() -> i32 {
    // SAFETY: plain numbers; 0 is this thread.
    unsafe { libc::sched_getscheduler(0) }
}

/// Pins this thread to the first core that it may use, gives it another scheduling class, and blocks SIGUSR1.
fn become_special() {
    // SAFETY: all sets are live locals, and each call changes this thread alone.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&cores), &raw mut cores), 0);
        let first = (0..1024).find(|core| libc::CPU_ISSET(*core, &cores)).unwrap();
        libc::CPU_ZERO(&mut cores);
        libc::CPU_SET(first, &mut cores);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores), 0);
        let parameters: libc::sched_param = std::mem::zeroed();
        assert_eq!(libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters), 0);
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
    }
}

fn describe() -> (String, i32, String) {
    (affinity(), policy(), status("SigBlk:"))
}

/// The state of the main thread, as a thread reports it that has not changed its own.
fn usual() -> (String, i32, String) {
    std::thread::spawn(describe).join().unwrap()
}

#[test]
fn a_pools_threads_begin_as_the_main_thread_is_whichever_thread_submits_first() {
    let usual = usual();
    std::thread::spawn(move || {
        become_special();
        assert_ne!(describe(), usual);
        let pool = ThreadPool::builder().max_workers(1).build().unwrap();
        assert_eq!(pool.run(describe).wait().unwrap(), usual);
        // The submitter itself is left as it was.
        assert_ne!(describe(), usual);
    })
    .join()
    .unwrap();
}

#[test]
fn the_timers_thread_begins_as_the_main_thread_is() {
    let printed = this_test_again("reports_the_state_of_a_waker_on_the_timers_thread", &[]);
    assert!(printed.contains("as the main thread"), "{printed}");
}

/// Wakes by sending the state of the thread that wakes.
struct Reporter(std::sync::Mutex<mpsc::Sender<(String, i32, String)>>);

impl std::task::Wake for Reporter {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.lock().unwrap().send(describe()).unwrap();
    }
}

#[test]
#[ignore = "run by the_timers_thread_begins_as_the_main_thread_is, in a process without a timer thread"]
fn reports_the_state_of_a_waker_on_the_timers_thread() {
    let usual = usual();
    become_special();
    let pool = ThreadPool::builder().max_workers(1).build().unwrap();
    let (release, gate) = mpsc::channel::<()>();
    let mut handle = pool.run(move || gate.recv().is_ok()).timeout(std::time::Duration::from_secs(1));
    let (send, receive) = mpsc::channel();
    let waker = std::sync::Arc::new(Reporter(std::sync::Mutex::new(send))).into();
    let mut context = std::task::Context::from_waker(&waker);
    let handle_future = std::pin::Pin::new(&mut handle);
    assert!(handle_future.poll(&mut context).is_pending());
    assert_eq!(receive.recv().unwrap(), usual);
    drop(release);
    println!("as the main thread");
}

#[test]
fn cores_are_counted_for_the_process_and_not_for_a_pinned_first_caller() {
    let printed = this_test_again("counts_cores_on_a_pinned_thread", &[]);
    assert!(printed.contains("counted those of the process"), "{printed}");
}

#[test]
#[ignore = "run by cores_are_counted_for_the_process_and_not_for_a_pinned_first_caller, in a process of its own"]
fn counts_cores_on_a_pinned_thread() {
    let of_the_process = std::thread::available_parallelism().unwrap();
    become_special();
    let builder = format!("{:?}", ProcessPool::builder());
    assert!(builder.contains(&format!("max_workers: {of_the_process}")), "{builder}");
    println!("counted those of the process");
}

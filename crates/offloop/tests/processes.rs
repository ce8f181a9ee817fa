//! Promises of the process pool: jobs run in other processes, fail alone and can be stopped, and workers are replaced.

#![cfg(all(feature = "process", target_os = "linux"))]

#[path = "process_support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use offloop::embed::{HandleExt, ProcessPoolExt};
use offloop::{
    ErrorKind, JobState, OnCrash, OnFull, ProcessPool, ProcessPoolBuilder, Retry, WorkerExit, prepare,
};
use support::*;

offloop::init_tests!();

#[test]
fn a_task_runs_in_another_process_and_an_ordinary_call_does_not() {
    let pool = pool(1);
    let worker = pool.run(process_id.with()).wait().unwrap();
    assert_ne!(worker, std::process::id());
    assert_eq!(pool.worker_pids(), [worker]);
    assert_eq!(process_id(), std::process::id());
    assert_eq!(add(2, 3), 5);
    assert_eq!(pool.run(add.with(2, 3)).wait().unwrap(), 5);
}

/// Naps for some milliseconds.
#[offloop::task]
fn nap_for(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Makes this thread and those that it starts run on one core. Returns that core.
fn run_on_one_core() -> usize {
    // SAFETY: the set is of the size that is given, and zeroes are an empty set.
    unsafe {
        let core = usize::try_from(libc::sched_getcpu()).unwrap();
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
        core
    }
}

#[test]
fn a_poll_that_sleeps_for_a_call_which_is_usually_short_returns_before_a_long_one_has_ended() {
    // On one core nobody spins for the other side.
    let core = run_on_one_core();
    let pool = ProcessPool::builder().max_workers(1).cpu_affinity([core]).build().unwrap();
    for _ in 0..200 {
        futures_lite::future::block_on(pool.run(nap_for.with(0))).unwrap();
    }
    for _ in 0..2 {
        let mut handle = pool.run(nap_for.with(1000));
        let polled = futures_lite::future::block_on(futures_lite::future::poll_once(&mut handle));
        assert!(polled.is_none());
        assert_eq!(handle.state(), JobState::Running, "the poll has waited for the end");
        handle.wait().unwrap();
    }
}

#[test]
fn a_workers_environment_and_arguments_have_nothing_but_the_marker_added() {
    let pool = ProcessPool::builder().max_workers(1).initializer(&set_up.with(1)).build().unwrap();
    let worker = pool.run(process_id.with()).wait().unwrap();
    let read = |pid: u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
    let lines =
        |bytes: &[u8]| -> HashSet<Vec<u8>> { bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect() };
    let inherited = std::env::vars_os()
        .map(|(name, value)| [name.into_encoded_bytes(), b"=".to_vec(), value.into_encoded_bytes()].concat());
    let added = &lines(&read(worker, "environ")) - &inherited.chain([Vec::new()]).collect();
    assert_eq!(added, HashSet::from([format!("OFFLOOP_WORKER={}", std::process::id()).into_bytes()]));
    let arguments = read(worker, "cmdline");
    assert_eq!(arguments.split(|byte| *byte == 0).filter(|it| !it.is_empty()).count(), 1);
}

#[test]
fn a_call_runs_on_threads_too() {
    let threads = offloop::ThreadPool::builder().max_workers(1).build().unwrap();
    assert_eq!(threads.run(process_id.with()).wait().unwrap(), std::process::id());
    assert_eq!(offloop::run(add.with(20, 22)).wait().unwrap(), 42);
}

#[test]
fn arguments_may_borrow() {
    let pool = pool(1);
    let text = String::from("to be or not to be");
    let handle = {
        let bytes = text.clone().into_bytes();
        pool.run(count_words.with(&text, &bytes, std::borrow::Cow::Borrowed("be")))
        // All three borrows end here: the call was encoded when it was submitted.
    };
    assert_eq!(handle.wait().unwrap(), (6, 18, 2));
}

#[test]
fn large_arguments_and_results_arrive_whole() {
    let pool = pool(1);
    let bytes: Vec<u8> = (0..20_000_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    assert!(pool.run(reversed.with(&bytes)).wait().unwrap().iter().rev().eq(&bytes));
    assert_eq!(pool.run(reversed.with(&[])).wait().unwrap(), [0; 0]);
}

#[test]
fn many_jobs_from_many_threads_all_come_back() {
    let pool = pool(2);
    std::thread::scope(|scope| {
        for base in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                let handles: Vec<_> = (0..200).map(|i| (i, pool.run(add.with(base, i)))).collect();
                for (i, handle) in handles {
                    assert_eq!(handle.wait().unwrap(), base + i);
                }
            });
        }
    });
}

#[test]
fn a_panic_comes_back_with_message_and_place_and_spares_the_worker() {
    let pool = pool(1);
    let worker = pool.run(process_id.with()).wait().unwrap();
    let error = pool.run(panics.with("the reason".to_owned())).wait().unwrap_err();
    let ErrorKind::Panicked(panic) = error.kind() else { panic!("{error}") };
    assert_eq!(panic.message(), "the reason");
    assert!(panic.location().unwrap().contains("process_support/mod.rs:"), "{panic}");
    assert!(error.job_name().ends_with("::panics"), "{error}");
    assert_eq!(pool.run(process_id.with()).wait().unwrap(), worker);
}

#[test]
fn a_panic_brings_its_backtrace_when_one_is_asked_for() {
    // The environment decides, so a process of its own is asked.
    let output = this_test_again("prints_a_panics_backtrace", &[("RUST_BACKTRACE", "1")]);
    assert!(output.contains("frame of panics"), "{output}");
}

#[test]
#[ignore = "run by the test above"]
fn prints_a_panics_backtrace() {
    let error = pool(1).run(panics.with(String::new())).wait().unwrap_err();
    let ErrorKind::Panicked(panic) = error.kind() else { panic!("{error}") };
    if panic.backtrace().is_some_and(|frames| frames.contains("panics")) {
        println!("frame of panics");
    }
}

#[test]
fn a_killed_worker_is_blamed_on_its_own_job_while_a_hundred_others_finish() {
    let pool = pool(4);
    let gate = Gate::new();
    let victim = pool.run(prepare(announce_and_sleep.with(gate.path())).priority(9).name("the victim"));
    let others: Vec<_> = (0..100).map(|i| pool.run(nap.with(i))).collect();
    let pid = gate.wait_for_pid();
    kill(pid, libc::SIGKILL);

    let error = victim.wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert_eq!((died.pid, died.exit), (pid, WorkerExit::Signal(libc::SIGKILL)));
    assert_eq!(died.task, "the victim");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    for (i, other) in (0..).zip(others) {
        assert_eq!(other.wait().unwrap(), i);
    }
    eventually("the worker is replaced", || pool.worker_pids().len() == 4);
    assert!(!pool.worker_pids().contains(&pid));
}

#[test]
fn each_way_to_die_is_told_apart_and_leaves_the_pool_working() {
    let pool = pool(1);
    for (way, exit) in [
        (Death::WorkerExit(3), WorkerExit::Code(3)),
        (Death::WorkerExit(0), WorkerExit::Code(0)),
        (Death::Abort, WorkerExit::Signal(libc::SIGABRT)),
        (Death::Signal(libc::SIGSEGV), WorkerExit::Signal(libc::SIGSEGV)),
        (Death::Signal(libc::SIGTERM), WorkerExit::Signal(libc::SIGTERM)),
        (Death::CloseAllFiles, WorkerExit::Protocol),
        (Death::Scribble(0), WorkerExit::Protocol),
        (Death::Scribble(1), WorkerExit::Protocol),
        (Death::Scribble(0xFF), WorkerExit::Protocol),
    ] {
        let error = pool.run(die.with(way)).wait().unwrap_err();
        let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{way:?}: {error}") };
        assert_eq!(died.exit, exit, "{way:?}");
        assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2, "after {way:?}");
    }
}

#[test]
fn garbage_on_the_socket_is_ignored() {
    let pool = pool(1);
    for i in 0..20 {
        assert_eq!(pool.run(write_to_every_socket.with(i)).wait().unwrap(), i);
    }
    let pids = pool.worker_pids();
    assert_eq!(pool.run(process_id.with()).wait().unwrap(), pids[0]);
}

#[test]
fn the_peak_memory_of_a_dead_worker_is_reported() {
    let error = pool(1).run(use_memory_and_abort.with(300 << 20)).wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert!(died.peak_memory >= 300 << 20, "{died}");
    assert!(!died.out_of_memory, "{died}");
}

#[test]
fn a_result_written_before_death_counts() {
    let pool = pool(1);
    for i in 0..50 {
        // The worker exits right after it has answered: its death must not be blamed on the answered job.
        match pool.run(exit_soon.with(i)).wait() {
            Ok(result) => assert_eq!(result, i),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}"),
        }
        assert_eq!(pool.run(add.with(i, 1)).wait().map_err(|e| e.to_string()).unwrap_or(i + 1), i + 1);
    }
}

#[test]
fn cancelling_and_dropping_kill_what_runs_and_remove_what_waits() {
    let pool = pool(1);
    for by_drop in [false, true] {
        let gate = Gate::new();
        let running = pool.run(announce_and_sleep.with(gate.path()));
        let queued = pool.run(announce_and_sleep.with(gate.path()));
        let pid = gate.wait_for_pid();
        assert_eq!((running.state(), queued.state()), (JobState::Running, JobState::Queued));
        if by_drop {
            drop(queued);
            drop(running);
        } else {
            assert!(queued.cancel());
            assert!(running.cancel());
            assert!(!running.cancel());
            assert!(running.wait().unwrap_err().is_cancelled());
            assert!(queued.wait().unwrap_err().is_cancelled());
        }
        eventually("the worker is gone", || is_gone(pid));
        assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
        assert_eq!(gate.arrivals(), 1, "the queued job ran");
    }
}

#[test]
fn the_run_timeout_kills_a_job_that_ignores_sigterm() {
    let pool = ProcessPool::builder().max_workers(1).grace(Duration::from_millis(50)).build().unwrap();
    for task in [announce_and_sleep.with("/dev/null"), ignore_sigterm.with()] {
        let pid = pool.run(process_id.with()).wait().unwrap();
        let error = pool.run(prepare(task).run_timeout(Duration::from_millis(100))).wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::RunTimeout(_)), "{error}");
        eventually("the worker is gone", || is_gone(pid));
    }
    let error = pool.run(ignore_sigterm.with()).timeout(Duration::from_millis(50)).wait().unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
}

#[test]
fn a_worker_may_clean_up_in_its_grace_period() {
    let pool = ProcessPool::builder().max_workers(1).grace(Duration::from_secs(30)).build().unwrap();
    let gate = Gate::new();
    let handle = pool.run(clean_up_on_sigterm.with(gate.path()));
    gate.wait_for_pid();
    drop(handle);
    eventually("the worker has cleaned up", || gate.arrivals() == 2);
}

#[test]
fn the_pool_sleeps_while_a_worker_has_its_grace_period() {
    // In a process of its own, as other tests here compute.
    assert!(this_test_again("waits_for_a_stubborn_worker", &[]).contains("it slept"));
}

#[test]
#[ignore = "run by the test above"]
fn waits_for_a_stubborn_worker() {
    let pool = ProcessPool::builder().max_workers(1).grace(Duration::from_secs(1)).build().unwrap();
    let gate = Gate::new();
    let pid = pool.run(process_id.with()).wait().unwrap();
    let stubborn = pool.run(announce_and_ignore_sigterm.with(gate.path()));
    gate.wait_for_pid();
    let before = own_cpu_time();
    drop(stubborn);
    eventually("the worker is gone", || is_gone(pid));
    let used = own_cpu_time().saturating_sub(before);
    assert!(used < Duration::from_millis(300), "it has computed for {used:?} of the second");
    println!("it slept");
}

/// Returns the CPU time of this process and of all its threads.
fn own_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` only.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

#[test]
fn the_queue_timeout_removes_a_job_unrun() {
    let pool = pool(1);
    let gate = Gate::new();
    let blocker = pool.run(announce_and_sleep.with(gate.path()));
    gate.wait_for_pid();
    let late = pool.run(prepare(add.with(1, 1)).queue_timeout(Duration::from_millis(20)));
    assert!(matches!(late.wait().unwrap_err().kind(), ErrorKind::QueueTimeout(_)));
    assert_eq!(pool.queued(), 0);
    drop(blocker);
}

#[test]
fn a_full_queue_follows_its_policy() {
    for policy in [OnFull::Wait, OnFull::Reject, OnFull::CallerRuns, OnFull::ShedOldest] {
        let pool = ProcessPool::builder().max_workers(1).queue_capacity(1).on_full(policy).build().unwrap();
        let gate = Gate::new();
        let blocker = pool.run(announce_and_sleep.with(gate.path()));
        gate.wait_for_pid();
        let queued = pool.run(process_id.with());

        let refused = pool.try_run(add.with(40, 2)).unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::QueueFull { capacity: 1 }), "{refused}");
        assert_eq!(offloop::run(refused.into_work()).wait().unwrap(), 42);

        let extra = pool.run(process_id.with());
        let here = std::process::id();
        match policy {
            OnFull::Wait => {
                assert_eq!(extra.state(), JobState::Waiting);
                drop(blocker);
                assert_ne!(extra.wait().unwrap(), here);
                assert_ne!(queued.wait().unwrap(), here);
            }
            OnFull::Reject => {
                assert!(matches!(extra.wait().unwrap_err().kind(), ErrorKind::QueueFull { .. }));
            }
            OnFull::CallerRuns => assert_eq!(extra.wait().unwrap(), here),
            _ => {
                assert!(matches!(queued.wait().unwrap_err().kind(), ErrorKind::Shed));
                drop(blocker);
                assert_ne!(extra.wait().unwrap(), here);
            }
        }
    }
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_an_error_of_its_job() {
    let pool = ProcessPool::builder().max_workers(1).max_payload(1000).build().unwrap();
    let worker = pool.run(process_id.with()).wait().unwrap();
    let expect = |error: offloop::Error, encode: bool, text: &str| {
        match error.kind() {
            ErrorKind::Encode(_) => assert!(encode, "{error}"),
            ErrorKind::Decode(_) => assert!(!encode, "{error}"),
            _ => panic!("{error}"),
        }
        assert!(error.to_string().contains(text), "{error}");
    };
    expect(pool.run(take_awkward.with(Awkward::RefusesEncoding)).wait().unwrap_err(), true, "arguments");
    expect(pool.run(take_awkward.with(Awkward::RefusesDecoding)).wait().unwrap_err(), false, "arguments");
    expect(pool.run(give_awkward.with(true)).wait().unwrap_err(), true, "result");
    expect(pool.run(give_awkward.with(false)).wait().unwrap_err(), false, "result");
    expect(pool.run(reversed.with(&[0; 1001])).wait().unwrap_err(), true, "max_payload of 1000");
    expect(pool.run(long_text.with(1001)).wait().unwrap_err(), true, "max_payload of 1000");
    assert_eq!(pool.run(long_text.with(900)).wait().unwrap().len(), 900);
    let refused = pool.try_run(reversed.with(&[0; 1001])).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Encode(_)));
    assert_eq!(pool.run(process_id.with()).wait().unwrap(), worker, "the worker was lost on the way");
}

#[test]
fn the_initializer_runs_once_in_each_worker_before_its_jobs() {
    let pool = ProcessPool::builder().max_workers(2).initializer(&set_up.with(7)).build().unwrap();
    for _ in 0..20 {
        assert_eq!(pool.run(what_was_set_up.with()).wait().unwrap(), (7, 1));
    }
}

#[test]
fn an_initializer_that_fails_is_the_jobs_error() {
    for (call, text) in [
        (set_up_badly.with("no licence".to_owned(), false), "no licence"),
        (set_up_badly.with("out of luck".to_owned(), true), "out of luck"),
    ] {
        let pool = ProcessPool::builder().max_workers(2).initializer(&call).build().unwrap();
        let error = pool.run(add.with(1, 1)).wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_worker_that_cannot_start_is_the_jobs_error() {
    let copy = std::env::temp_dir().join(format!("offloop-copy-{}", std::process::id()));
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    let other_build = copy.to_str().unwrap();
    for (program, text) in [
        ("/nonexistent/program", "No such file"),
        ("/bin/true", "offloop::init()"),
        ("/bin/cat", "start_timeout of 500ms"),
        (other_build, "build differs"),
    ] {
        let builder = ProcessPool::builder().max_workers(2).program(program);
        let pool = builder.start_timeout(Duration::from_millis(500)).build().unwrap();
        // The second job comes when the pool has given up starting workers.
        for pause in [0, 300] {
            std::thread::sleep(Duration::from_millis(pause));
            let error = pool.run(add.with(1, 1)).wait().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{program}: {error}");
            assert!(error.to_string().contains(text), "{program}: {error}");
        }
    }
    std::fs::remove_file(copy).unwrap();
}

#[test]
fn invalid_settings_are_refused() {
    for builder in [ProcessPool::builder().max_workers(0), ProcessPool::builder().queue_capacity(0)] {
        let error = builder.build().unwrap_err();
        assert!(error.to_string().contains("at least 1"), "{error}");
    }
    let error = ProcessPool::builder().min_workers(3).max_workers(2).build().unwrap_err();
    assert!(error.to_string().contains("min_workers is larger than max_workers"), "{error}");
}

#[test]
fn a_job_may_write_to_its_standard_streams_and_read_nothing() {
    let output = this_test_again("prints_from_a_worker", &[]);
    assert!(output.contains("printed by the worker"), "{output}");
    assert!(output.contains("written to descriptor 1"), "{output}");
}

#[test]
#[ignore = "run by the test above"]
fn prints_from_a_worker() {
    let pool = pool(1);
    assert_eq!(pool.run(print_and_read.with()).wait().unwrap(), "");
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
    pool.shutdown(Duration::from_secs(10)).wait().unwrap();
}

#[test]
fn a_worker_knows_its_job_and_not_that_it_is_one() {
    let pool = pool(1);
    let (name, marker) = pool.run(about_itself.with()).wait().unwrap();
    assert!(name.unwrap().ends_with("::about_itself"));
    assert_eq!(marker, None, "programs started by a job would take themselves for workers");
}

#[test]
fn ctrl_c_is_left_to_the_parent() {
    let pool = pool(1);
    let gate = Gate::new();
    let handle = pool.run(announce_and_nap.with(gate.path()));
    kill(gate.wait_for_pid(), libc::SIGINT);
    assert_eq!(handle.wait().unwrap(), "finished");
}

#[test]
fn a_worker_may_have_a_pool_of_its_own() {
    assert_eq!(pool(1).run(add_in_a_pool_of_its_own.with(40, 2)).wait().unwrap(), 42);
}

#[test]
fn shutdown_drains_then_cancels_then_kills_and_reports() {
    let drained = pool(2);
    let handles: Vec<_> = (0..10).map(|i| drained.run(nap.with(i))).collect();
    let workers = drained.worker_pids();
    let report = drained.shutdown(Duration::from_secs(60)).wait().unwrap();
    assert_eq!((report.cancelled, report.killed, report.stuck.len()), (0, 0, 0), "{report:?}");
    assert!(report.drained <= 10);
    for (i, handle) in (0..).zip(handles) {
        assert_eq!(handle.wait().unwrap(), i);
    }
    assert!(workers.into_iter().all(is_gone));
    assert!(matches!(drained.run(add.with(1, 1)).wait().unwrap_err().kind(), ErrorKind::Closed));
    assert!(matches!(drained.try_run(add.with(1, 1)).unwrap_err().kind(), ErrorKind::Closed));

    let stubborn = ProcessPool::builder().max_workers(1).grace(Duration::from_millis(50)).build().unwrap();
    let gate = Gate::new();
    let running = stubborn.run(announce_and_sleep.with(gate.path()));
    let queued: Vec<_> = (0..3).map(|_| stubborn.run(ignore_sigterm.with())).collect();
    let pid = gate.wait_for_pid();
    let report = stubborn.shutdown(Duration::from_millis(10)).wait().unwrap();
    assert_eq!((report.drained, report.cancelled, report.killed), (0, 3, 1), "{report:?}");
    assert!(report.stuck.is_empty(), "{report:?}");
    assert!(is_gone(pid));
    assert!(running.wait().unwrap_err().is_cancelled());
    assert!(queued.into_iter().all(|handle| handle.wait().unwrap_err().is_cancelled()));
}

#[test]
fn the_report_counts_every_job_that_the_pool_had() {
    let pool = pool(1);
    let gate = Gate::new();
    let first = pool.run(announce_and_nap.with(gate.path()));
    let rest: Vec<_> = (0..9).map(|i| pool.run(nap.with(i))).collect();
    gate.wait_for_pid();
    // The first one naps for 300 ms, so all ten are there when the pool is closed.
    let report = pool.shutdown(Duration::from_secs(60)).wait().unwrap();
    assert_eq!((report.drained, report.cancelled, report.killed), (10, 0, 0), "{report:?}");
    assert_eq!(first.wait().unwrap(), "finished");
    for (i, handle) in (0..).zip(rest) {
        assert_eq!(handle.wait().unwrap(), i);
    }
}

#[test]
fn dropping_the_pool_runs_what_was_accepted_and_lets_the_workers_go() {
    let pool = pool(2);
    let handles: Vec<_> = (0..10).map(|i| pool.run(nap.with(i))).collect();
    eventually("both workers are up", || pool.worker_pids().len() == 2);
    let workers = pool.worker_pids();
    drop(pool);
    for (i, handle) in (0..).zip(handles) {
        assert_eq!(handle.wait().unwrap(), i);
    }
    eventually("the workers are gone", || workers.iter().all(|pid| is_gone(*pid)));
}

#[test]
fn a_stream_of_calls_comes_back_in_order() {
    let mut sums = offloop::map(pool(2), (0..50u64).map(|i| add.with(i, i))).buffersize(5);
    for i in 0..50 {
        assert_eq!(sums.wait_next().unwrap().unwrap(), 2 * i);
    }
    assert!(sums.wait_next().is_none());
}

#[test]
fn a_pool_maps_calls_over_items_in_order_and_takes_items_as_they_are_read() {
    let pool = pool(2);
    let mut sums = pool.map(0..50_u64, |i| add.with(i, i)).buffersize(5);
    for i in 0..50 {
        assert_eq!(sums.wait_next().unwrap().unwrap(), 2 * i);
    }
    assert!(sums.wait_next().is_none());
    // Items that may borrow, calls with instructions, and no end of them.
    let words = ["one", "two", "three"].into_iter().cycle();
    let named = |word: &'static str| prepare(reversed.with(word.as_bytes())).name(word);
    let mut reversed_words = pool.map(words, named).buffersize(2);
    for expected in ["eno", "owt", "eerht", "eno"] {
        assert_eq!(reversed_words.wait_next().unwrap().unwrap(), expected.as_bytes());
    }
    let mut panicking = pool.map([1], |_| prepare(panics.with("no".to_owned())).name("a bad item"));
    assert_eq!(panicking.wait_next().unwrap().unwrap_err().job_name(), "a bad item");
}

#[test]
fn higher_priorities_run_first() {
    let pool = pool(1);
    let gate = Gate::new();
    let blocker = pool.run(announce_and_sleep.with(gate.path()));
    gate.wait_for_pid();
    let order = Gate::new();
    let handles: Vec<_> = [("low", -5), ("middle", 0), ("high", 5)]
        .map(|(name, priority)| pool.run(prepare(note.with(order.path(), name)).priority(priority)))
        .into();
    drop(blocker);
    for handle in handles {
        handle.wait().unwrap();
    }
    assert_eq!(order.lines(), ["high", "middle", "low"]);
}

#[test]
fn a_stopped_worker_ends_at_its_timeout_and_delays_no_other_job() {
    let pool = ProcessPool::builder().max_workers(2).grace(Duration::from_millis(50)).build().unwrap();
    let gate = Gate::new();
    let call = prepare(announce_and_sleep.with(gate.path())).run_timeout(Duration::from_millis(300));
    let stopped = pool.run(call);
    let pid = gate.wait_for_pid();
    kill(pid, libc::SIGSTOP);
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
    assert!(matches!(stopped.wait().unwrap_err().kind(), ErrorKind::RunTimeout(_)));
    eventually("the stopped worker is gone", || is_gone(pid));
}

#[test]
fn ten_killed_parents_leave_no_worker_idle_or_busy() {
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let mut parent = this_test_in_the_background("has_idle_and_busy_workers");
        let pids = parent.announced_pids(4);
        assert!(pids.iter().all(|pid| !is_gone(*pid)), "round {round}");
        kill(parent.pid(), libc::SIGKILL);
        let killed = Instant::now();
        eventually("the workers are gone", || pids.iter().all(|pid| is_gone(*pid)));
        slowest = slowest.max(killed.elapsed());
    }
    println!("the slowest of ten parents left its workers alive for {slowest:?}");
}

#[test]
#[ignore = "run by the test above"]
fn has_idle_and_busy_workers() {
    let pool = pool(4);
    let gates = [Gate::new(), Gate::new()];
    let _busy: Vec<_> = gates.iter().map(|gate| pool.run(compute_for_ever.with(gate.path()))).collect();
    for gate in &gates {
        gate.wait_for_pid();
    }
    // The other two are ready when they have run something.
    eventually("four workers are up", || pool.worker_pids().len() == 4);
    for handle in [pool.run(nap.with(1)), pool.run(nap.with(2))] {
        handle.wait().unwrap();
    }
    println!("pids {:?}", pool.worker_pids());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_forked_child_gets_errors_and_the_parent_goes_on() {
    let pool = pool(1);
    let before = pool.run(announce_and_nap.with("/dev/null"));
    // SAFETY: the child only uses the pool, which is what is tested, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child if it hangs.
        unsafe { libc::alarm(20) };
        let is_forked = |error: &ErrorKind| matches!(error, ErrorKind::Forked);
        let is_right = is_forked(pool.run(add.with(1, 1)).wait().unwrap_err().kind())
            && is_forked(pool.try_run(add.with(1, 1)).unwrap_err().kind())
            && is_forked(before.wait().unwrap_err().kind())
            && pool.worker_pids().is_empty()
            && pool.queued() == 0
            && pool.shutdown(Duration::ZERO).wait().unwrap().stuck.is_empty();
        drop(pool);
        // SAFETY: leaves without running the parent's destructors.
        unsafe { libc::_exit(i32::from(!is_right)) };
    }
    let mut status = 0;
    // SAFETY: `status` is a live local variable; the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "{} is SIGALRM: it hung", libc::SIGALRM);
    assert_eq!(before.wait().unwrap(), "finished");
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
}

#[test]
fn a_forked_child_may_have_a_pool_of_its_own() {
    let large = vec![7; 1_000_000];
    let pool = pool(1);
    let is_right =
        |pool: &ProcessPool| pool.run(reversed.with(&large)).wait().is_ok_and(|back| back == large);
    assert!(is_right(&pool));
    // SAFETY: the child only builds and uses a pool, which is what is tested, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child if it hangs.
        unsafe { libc::alarm(20) };
        let pool = self::pool(1);
        let right = is_right(&pool) && pool.shutdown(Duration::from_secs(10)).wait().is_ok();
        // SAFETY: leaves without running the parent's destructors.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    let mut status = 0;
    // SAFETY: `status` is a live local variable; the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "{} is SIGALRM: it hung", libc::SIGALRM);
    assert!(is_right(&pool));
}

#[test]
fn nothing_is_left_over() {
    // In a process of its own, as the other tests here have processes and files too.
    assert!(this_test_again("comes_and_goes", &[]).contains("nothing is left"));
}

#[test]
#[ignore = "run by the test above"]
fn comes_and_goes() {
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    // The timer thread, once started, stays.
    drop(offloop::run(prepare(|| ()).queue_timeout(Duration::from_secs(1))).wait());
    offloop::io_lane().shutdown(Duration::from_secs(10)).wait().unwrap();
    eventually("only the timer thread is left", || threads() <= 3);
    // The arena stays too.
    drop(pool(1).run(reversed.with(&vec![0; 100_000])).wait());
    eventually("the pool is gone", || threads() <= 3);
    let before = (files(), threads());
    for _ in 0..5 {
        let pool = pool(2);
        assert!(pool.run(die.with(Death::Abort)).wait().is_err());
        drop(pool.run(announce_and_sleep.with("/dev/null")));
        assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
        let workers = pool.worker_pids();
        pool.shutdown(Duration::from_secs(10)).wait().unwrap();
        assert!(workers.into_iter().all(is_gone));
    }
    eventually("files and threads are as before", || (files(), threads()) == before);
    println!("nothing is left");
}

fn breakable(workers: usize) -> ProcessPoolBuilder {
    ProcessPool::builder().max_workers(workers).on_crash(OnCrash::Break)
}

/// Checks that a pool is broken: it accepts nothing, and none of its workers is left.
#[track_caller]
fn assert_broken(pool: &ProcessPool, workers: &[u32]) {
    assert!(matches!(pool.run(add.with(1, 1)).wait().unwrap_err().kind(), ErrorKind::Closed));
    assert!(matches!(pool.try_run(add.with(1, 1)).unwrap_err().kind(), ErrorKind::Closed));
    eventually("the pool is over", || pool.is_over());
    assert!(workers.iter().all(|pid| is_gone(*pid)));
    assert_eq!((pool.worker_pids().len(), pool.outstanding()), (0, 0));
}

#[test]
fn a_crash_isolates_its_own_job_unless_the_pool_is_to_break() {
    let pool = ProcessPool::builder().max_workers(1).on_crash(OnCrash::Isolate).build().unwrap();
    let dead = pool.run(die.with(Death::WorkerExit(1)));
    let next = pool.run(add.with(1, 1));
    assert!(matches!(dead.wait().unwrap_err().kind(), ErrorKind::WorkerDied(_)));
    assert_eq!(next.wait().unwrap(), 2);
}

#[test]
fn a_crash_breaks_a_pool_that_is_to_break_and_ends_all_its_jobs() {
    let (gate, started) = (Gate::new(), Gate::new());
    let builder = breakable(2).initializer(&note.with(started.path(), "started"));
    let pool = builder.queue_capacity(5).grace(Duration::from_millis(300)).build().unwrap();
    eventually("both are started", || started.arrivals() == 2);
    let crashing = pool.run(announce_and_sleep.with(gate.path()));
    let pid = gate.wait_for_pid();
    // It ignores SIGTERM, so it lives for the whole grace period.
    let running = pool.run(ignore_sigterm.with());
    eventually("both run", || pool.queued() == 0);
    // Five are queued, and five wait for room.
    let others: Vec<_> = (0..10).map(|_| pool.run(announce_and_sleep.with(gate.path()))).collect();
    let workers = pool.worker_pids();
    kill(pid, libc::SIGKILL);
    let error = crashing.wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert_eq!((died.pid, died.exit), (pid, WorkerExit::Signal(libc::SIGKILL)));
    for handle in others.into_iter().chain([running]) {
        let error = handle.wait().unwrap_err();
        let ErrorKind::Broken(why) = error.kind() else { panic!("{error}") };
        assert!(why.contains(&pid.to_string()) && why.contains("SIGKILL"), "{why}");
    }
    assert_broken(&pool, &workers);
    assert_eq!((gate.arrivals(), started.arrivals()), (1, 2), "a broken pool began something");
}

#[test]
fn jobs_that_were_given_ahead_end_with_a_broken_pool_and_no_worker_comes_for_them() {
    let started = Gate::new();
    let pool = breakable(2).initializer(&note.with(started.path(), "started")).build().unwrap();
    eventually("both are started", || started.arrivals() == 2);
    // Short ones, so that the next are given ahead.
    for i in 0..200 {
        pool.run(add.with(i, 0)).wait().unwrap();
    }
    let workers = pool.worker_pids();
    for pid in &workers {
        kill(*pid, libc::SIGSTOP);
    }
    let handles: Vec<_> = (0..100).map(|i| pool.run(add.with(i, 1))).collect();
    kill(workers[0], libc::SIGKILL);
    for handle in handles {
        let error = handle.wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Broken(_) | ErrorKind::WorkerDied(_)), "{error}");
    }
    assert_broken(&pool, &workers);
    assert_eq!(started.arrivals(), 2, "a broken pool started a worker");
}

#[test]
fn an_idle_worker_that_is_killed_from_outside_breaks_the_pool_too() {
    let pool = breakable(2).build().unwrap();
    pool.run(add.with(1, 1)).wait().unwrap();
    eventually("both are up", || pool.worker_pids().len() == 2);
    let workers = pool.worker_pids();
    kill(workers[1], libc::SIGKILL);
    eventually("it is closed", || pool.try_run(add.with(1, 1)).is_err());
    assert_broken(&pool, &workers);
}

#[test]
fn a_broken_pool_retries_nothing() {
    let gate = Gate::new();
    let pool = breakable(1).build().unwrap();
    let call = prepare(announce_and_sleep.with(gate.path())).retry(Retry::times(3));
    let job = pool.run(call);
    kill(gate.wait_for_pid(), libc::SIGKILL);
    let error = job.wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
    assert_broken(&pool, &[]);
    assert_eq!(gate.arrivals(), 1);
}

#[test]
fn what_is_no_crash_breaks_no_pool() {
    let pool = breakable(1).max_tasks_per_child(3).grace(Duration::from_millis(50)).build().unwrap();
    for i in 0..10 {
        assert_eq!(pool.run(add.with(i, 1)).wait().unwrap(), i + 1);
    }
    pool.run(panics.with(String::new())).wait().unwrap_err();
    let gate = Gate::new();
    let cancelled = pool.run(announce_and_sleep.with(gate.path()));
    gate.wait_for_pid();
    drop(cancelled);
    let late = pool.run(prepare(ignore_sigterm.with()).run_timeout(Duration::from_millis(50)));
    assert!(matches!(late.wait().unwrap_err().kind(), ErrorKind::RunTimeout(_)));
    pool.resize(2);
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
    pool.resize(1);
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
}

#[test]
fn a_worker_that_does_not_come_up_breaks_the_pool_with_the_reason() {
    let refused = set_up_badly.with("no licence".to_owned(), false);
    for (builder, text) in [
        (breakable(2).initializer(&refused), "no licence"),
        (breakable(2).program("/bin/true"), "exited with status 0"),
    ] {
        let pool = builder.build().unwrap();
        let handle = pool.run(add.with(1, 1));
        let error = handle.wait().unwrap_err();
        match error.kind() {
            ErrorKind::Broken(why) => assert!(why.contains(text), "{why}"),
            // It was so quick that the pool was closed before it was asked.
            ErrorKind::Closed => {}
            _ => panic!("{error}"),
        }
        assert_broken(&pool, &[]);
    }
    // A program that cannot be started is no crash.
    let pool = breakable(1).program("/does/not/exist").build().unwrap();
    let error = pool.run(add.with(1, 1)).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error}");
}

#[test]
fn a_pool_that_is_broken_with_a_reason_ends_all_its_jobs_and_workers() {
    let pool = ProcessPool::builder().max_workers(1).grace(Duration::from_millis(100)).build().unwrap();
    let gate = Gate::new();
    let running = pool.run(prepare(announce_and_sleep.with(gate.path())).retry(Retry::times(3)));
    gate.wait_for_pid();
    let queued = pool.run(announce_and_sleep.with(gate.path()));
    let workers = pool.worker_pids();
    assert_eq!(pool.broken(), None);
    pool.break_with("a result could not be unpickled");
    pool.break_with("a later reason");
    for handle in [running, queued] {
        let error = handle.wait().unwrap_err();
        let ErrorKind::Broken(why) = error.kind() else { panic!("{error}") };
        assert_eq!(why, "a result could not be unpickled");
    }
    assert_eq!(pool.broken().as_deref(), Some("a result could not be unpickled"));
    assert_broken(&pool, &workers);
    assert_eq!(gate.arrivals(), 1, "a broken pool began something");
}

#[test]
fn a_pool_may_be_broken_while_it_is_idle_starting_closed_or_over() {
    let idle = pool(2);
    idle.run(add.with(1, 1)).wait().unwrap();
    let starting = pool(2);
    let closed = pool(1);
    closed.close();
    let over = pool(1);
    over.shutdown(Duration::from_secs(30)).wait().unwrap();
    for pool in [idle, starting, closed, over] {
        let workers = pool.worker_pids();
        pool.break_with("no reason");
        assert_broken(&pool, &workers);
        assert_eq!(pool.broken().as_deref(), Some("no reason"));
    }
}

#[test]
fn every_job_ends_if_a_pool_is_broken_at_the_moment_in_which_a_worker_dies() {
    for round in 0..20 {
        let pool = pool(2);
        // Short jobs, so that the next are given to workers ahead of time.
        for i in 0..50 {
            pool.run(add.with(i, 0)).wait().unwrap();
        }
        let workers = pool.worker_pids();
        for pid in &workers {
            kill(*pid, libc::SIGSTOP);
        }
        let handles: Vec<_> = (0..40).map(|i| pool.run(add.with(i, 1))).collect();
        kill(workers[0], libc::SIGKILL);
        std::thread::sleep(Duration::from_micros(100 * round));
        pool.break_with("in the middle");
        for handle in handles {
            // A replacement may have run some of them before.
            if let Err(error) = handle.wait() {
                assert!(matches!(error.kind(), ErrorKind::Broken(_) | ErrorKind::WorkerDied(_)), "{error}");
            }
        }
        drop(pool);
        eventually("the workers are gone", || workers.iter().all(|pid| is_gone(*pid)));
    }
}

#[test]
fn a_pool_with_min_workers_starts_workers_as_jobs_need_them() {
    let pool = ProcessPool::builder().min_workers(0).max_workers(3).build().unwrap();
    assert_eq!((pool.target_workers(), pool.worker_pids().len()), (0, 0));
    // One at a time: a single worker runs them all.
    for i in 0..20 {
        assert_eq!(pool.run(add.with(i, 1)).wait().unwrap(), i + 1);
    }
    assert_eq!((pool.target_workers(), pool.worker_pids().len()), (1, 1));
    // Each job that finds all workers busy starts another worker, up to three.
    let gate = Gate::new();
    let jobs: Vec<_> = (1..=5)
        .map(|count| {
            let job = pool.run(announce_and_sleep.with(gate.path()));
            assert_eq!(pool.target_workers(), count.min(3));
            job
        })
        .collect();
    eventually("three run at once", || gate.arrivals() == 3);
    let lost = pool.worker_pids();
    assert_eq!(lost.len(), 3);
    // The workers of running jobs are killed with them, and replaced. The pool does not shrink by itself.
    drop(jobs);
    eventually("three others have come", || {
        let pids = pool.worker_pids();
        pids.len() == 3 && pids.iter().all(|pid| !lost.contains(pid))
    });
    assert_eq!(pool.target_workers(), 3);
}

#[test]
fn min_workers_are_started_at_once_and_resize_ends_the_growth() {
    let pool = ProcessPool::builder().min_workers(1).max_workers(3).build().unwrap();
    eventually("one is started", || pool.worker_pids().len() == 1);
    pool.resize(2);
    let gate = Gate::new();
    let jobs: Vec<_> = (0..4).map(|_| pool.run(announce_and_nap.with(gate.path()))).collect();
    assert_eq!(pool.target_workers(), 2);
    for job in jobs {
        assert_eq!(job.wait().unwrap(), "finished");
    }
    assert_eq!(pool.worker_pids().len(), 2);
}

#[test]
fn a_pool_that_grows_on_demand_runs_what_it_has_accepted_when_it_is_dropped() {
    let pool = ProcessPool::builder().min_workers(0).max_workers(2).build().unwrap();
    let job = pool.run(add.with(1, 1));
    drop(pool);
    assert_eq!(job.wait().unwrap(), 2);
}

#[test]
fn cancelling_what_is_queued_leaves_what_runs_alone() {
    let pool = ProcessPool::builder().max_workers(1).queue_capacity(2).build().unwrap();
    let gate = Gate::new();
    let running = pool.run(announce_and_nap.with(gate.path()));
    let pid = gate.wait_for_pid();
    assert_eq!(pool.outstanding(), 1);
    let waiting: Vec<_> = (0..4).map(|_| pool.run(announce_and_nap.with(gate.path()))).collect();
    assert_eq!((pool.queued(), pool.outstanding()), (4, 5));
    // One of them by its handle; the running one by its handle, in vain.
    assert!(waiting[3].cancel_queued() && !waiting[3].cancel_queued());
    assert!(!running.cancel_queued());
    assert_eq!(pool.cancel_queued(), 3);
    assert_eq!((pool.cancel_queued(), pool.queued(), pool.outstanding()), (0, 0, 1));
    for handle in waiting {
        assert!(handle.wait().unwrap_err().is_cancelled());
    }
    assert_eq!(running.wait().unwrap(), "finished");
    assert_eq!(pool.run(process_id.with()).wait().unwrap(), pid, "the worker was lost on the way");
    assert_eq!((gate.arrivals(), pool.outstanding()), (1, 0));
}

#[test]
fn cancelling_what_is_queued_cancels_what_waits_for_another_attempt() {
    let pool = pool(1);
    let call = prepare(die.with(Death::Abort)).retry(Retry::times(4).backoff(Duration::from_secs(600)));
    let job = pool.run(call);
    eventually("it waits for its second attempt", || pool.queued() == 1 && pool.outstanding() == 1);
    assert_eq!(pool.cancel_queued(), 1);
    assert!(job.wait().unwrap_err().is_cancelled());
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
}

#[test]
fn a_closed_pool_runs_what_it_has_and_is_over_then() {
    let pool = pool(1);
    let handles: Vec<_> = (0..10).map(|i| pool.run(nap.with(i))).collect();
    pool.close();
    assert!(!pool.is_over());
    assert!(matches!(pool.run(add.with(1, 1)).wait().unwrap_err().kind(), ErrorKind::Closed));
    for (i, handle) in (0..).zip(handles) {
        assert_eq!(handle.wait().unwrap(), i);
    }
    eventually("it is over", || pool.is_over());
    assert_eq!((pool.worker_pids().len(), pool.outstanding()), (0, 0));
    pool.close();
    pool.resize(3);
    assert_eq!(pool.cancel_queued(), 0);
}

#[test]
fn what_a_pool_without_workers_has_accepted_is_run_when_it_is_closed() {
    for by_drop in [false, true] {
        let pool = pool(1);
        pool.resize(0);
        eventually("the worker has left", || pool.worker_pids().is_empty());
        let job = pool.run(add.with(1, 1));
        if by_drop {
            drop(pool);
            assert_eq!(job.wait().unwrap(), 2);
        } else {
            pool.close();
            pool.resize(0);
            assert_eq!(job.wait().unwrap(), 2);
            eventually("it is over", || pool.is_over());
        }
    }
}

#[test]
fn a_pool_may_be_resized_at_any_time() {
    let pool = pool(1);
    let handles: Vec<_> = (0..300).map(|i| pool.run(nap.with(i))).collect();
    let seen: HashSet<u32> = [3, 0, 2, 5, 1, 0, 4, 2]
        .into_iter()
        .flat_map(|workers| {
            pool.resize(workers);
            std::thread::sleep(Duration::from_millis(20));
            pool.worker_pids()
        })
        .collect();
    for (i, handle) in (0..).zip(handles) {
        assert_eq!(handle.wait().unwrap(), i, "a job was interrupted");
    }
    eventually("there are two", || pool.worker_pids().len() == 2);
    let going = pool.worker_pids();
    eventually("the others are gone", || {
        seen.iter().filter(|pid| !going.contains(pid)).all(|pid| is_gone(*pid))
    });
}

#[offloop::task]
fn fork_in_a_job(gate: &str, child_is_first: bool, value: u64) -> (u64, i32) {
    // SAFETY: the child does nothing but wait for a file, and return.
    let child = unsafe { libc::fork() };
    if child == 0 {
        if !child_is_first {
            while std::fs::read_to_string(gate).is_ok_and(|text| text.is_empty()) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        return (u64::MAX, -1);
    }
    let mut status = 0;
    if child_is_first {
        // SAFETY: `status` is a live local variable; the child is ours.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
    }
    (value, if child_is_first { status } else { child })
}

#[test]
fn only_the_worker_answers_a_job_that_forks() {
    let pool = pool(1);
    let gate = Gate::new();
    let worker = pool.run(process_id.with()).wait().unwrap();
    let mut children = Vec::new();
    for i in 0..10 {
        assert_eq!(pool.run(fork_in_a_job.with(gate.path(), true, i)).wait().unwrap(), (i, 0));
        let (value, child) = pool.run(fork_in_a_job.with(gate.path(), false, i)).wait().unwrap();
        assert_eq!(value, i);
        children.push(u32::try_from(child).unwrap());
    }
    // The others come back from their jobs while the worker is at the next ones.
    let handles: Vec<_> = (0..300).map(|i| pool.run(nap.with(i))).collect();
    note(gate.path(), "go on");
    for (i, handle) in (0..).zip(handles) {
        assert_eq!(handle.wait().unwrap(), i);
    }
    eventually("the children are gone", || children.iter().all(|pid| is_gone(*pid)));
    assert_eq!(pool.run(process_id.with()).wait().unwrap(), worker, "the worker was lost on the way");
}

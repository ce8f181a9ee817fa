//! Promises about signals: a program that a job has started ends with the job, a pool goes on when the system refuses
//! its signals, and workers end with their pool whatever rights they have given up.

#![cfg(all(feature = "process", target_os = "linux"))]

mod process_support;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use offloop::{ErrorKind, ProcessPool, ProcessPoolBuilder, WorkerExit, prepare};
use process_support::{
    Death, Gate, NOBODY, add, announce_and_sleep, become_nobody, die, eventually, ignore_sigterm, is_gone,
    is_root, kill, pool, process_id, this_test_again, this_test_in_the_background,
};

offloop::init_tests!();

/// A shell script that reports its process id, and goes on when it is told to end.
const STUBBORN: &str = "trap '' TERM; echo $$ >> $0; while :; do sleep 0.05; done";

/// One that cleans up when it is told to end, which takes a while, and says so.
const ORDERLY: &str = "trap 'sleep 0.2; echo on its way >&2; echo cleaned up >> $0; exit' TERM; echo $$ >> $0; while :; do sleep 0.01; done";

fn builder() -> ProcessPoolBuilder {
    ProcessPool::builder().max_workers(1).grace(Duration::from_secs(1))
}

fn script(script: &str, gate: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, gate]);
    command
}

#[offloop::task]
fn wait_for_a_program(text: &str, gate: &str) {
    script(text, gate).status().unwrap();
}

#[expect(clippy::zombie_processes, reason = "it outlives its worker on purpose")]
#[offloop::task]
fn leave_a_program(text: &str, gate: &str) {
    script(text, gate).spawn().unwrap();
}

#[expect(clippy::zombie_processes, reason = "it outlives its worker on purpose")]
#[offloop::task]
fn leave_a_program_in_a_group_of_its_own(text: &str, gate: &str) {
    script(text, gate).process_group(0).spawn().unwrap();
}

#[offloop::task]
fn leave_a_program_and_die(text: &str, gate: &str, way: Death) {
    script(text, gate).spawn().unwrap();
    eventually("the program has begun", || std::fs::read_to_string(gate).unwrap().ends_with('\n'));
    std::process::exit(if let Death::WorkerExit(status) = way { status } else { std::process::abort() });
}

#[offloop::task]
fn sleep_on() {
    std::thread::sleep(Duration::from_secs(600));
}

#[offloop::task]
fn process_group() -> i32 {
    // SAFETY: the call takes and returns plain numbers.
    unsafe { libc::getpgrp() }
}

#[offloop::task]
fn user() -> u32 {
    // SAFETY: the call returns a plain number.
    unsafe { libc::getuid() }
}

/// Closes all that ties the worker to its pool, and works on.
#[offloop::task]
fn cut_all_ties(gate: &str) {
    for descriptor in 3..1000 {
        // SAFETY: `close` takes a plain number. The test closes files that other code still holds on purpose; after
        // this the process writes to one file and sleeps.
        unsafe { libc::close(descriptor) };
    }
    std::fs::write(gate, format!("{}\n", std::process::id())).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[offloop::task]
fn give_up_root() {
    become_nobody();
}

#[offloop::task]
fn give_up_root_and_sleep(gate: &str) {
    let file = std::fs::OpenOptions::new().append(true).open(gate).unwrap();
    become_nobody();
    std::io::Write::write_all(&mut &file, format!("{}\n", std::process::id()).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

/// Makes the kernel refuse a system call to this thread, and to all threads and processes that it starts, with this
/// error. If there is an argument's number, only calls with a nonzero argument are refused.
fn forbid(call: libc::c_long, argument: Option<u32>, error: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code.try_into().unwrap(), jt: 0, jf: 0, k };
    let jump = |k: u32, jt: u8, jf: u8| {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K).try_into().unwrap();
        libc::sock_filter { code, jt, jf, k }
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(error).unwrap();
    // The fields of `seccomp_data`: the call's number, and its arguments of eight bytes from the 16th on.
    let mut filter = vec![statement(load, 0)];
    match argument {
        Some(argument) => {
            filter.push(jump(call.try_into().unwrap(), 0, 2));
            filter.push(statement(load, 16 + 8 * argument));
            filter.push(jump(0, 0, 1));
        }
        None => filter.push(jump(call.try_into().unwrap(), 1, 0)),
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    filter.push(statement(libc::BPF_RET | libc::BPF_K, refuse));
    let program = libc::sock_fprog { len: filter.len().try_into().unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: the pointers are to live local variables of the types that the calls read.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Runs a job and cancels it when it waits for this program. Returns the program's process id.
fn run_and_cancel(pool: &ProcessPool, text: &str, gate: &Gate) -> u32 {
    let job = pool.run(wait_for_a_program.with(text, gate.path()));
    let program = gate.wait_for_pid();
    drop(job);
    program
}

#[test]
fn a_program_that_a_job_started_ends_with_the_job() {
    let (pool, gate) = (builder().build().unwrap(), Gate::new());
    let program = run_and_cancel(&pool, "echo $$ >> $0; exec sleep 600", &gate);
    eventually("the program is gone", || is_gone(program));
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
}

#[test]
fn a_program_that_a_job_started_has_the_grace_period_and_no_longer() {
    let (stubborn, orderly) = (Gate::new(), Gate::new());
    let pool = builder().grace(Duration::from_secs(60)).build().unwrap();
    let program = run_and_cancel(&pool, ORDERLY, &orderly);
    eventually("the program is gone", || is_gone(program));
    assert_eq!(orderly.lines()[1..], ["cleaned up"]);
    let pool = builder().build().unwrap();
    let program = run_and_cancel(&pool, STUBBORN, &stubborn);
    eventually("the program is gone", || is_gone(program));
}

#[test]
fn a_shutdown_ends_what_the_jobs_that_it_kills_have_started() {
    let (pool, gate) = (builder().build().unwrap(), Gate::new());
    let job = pool.run(wait_for_a_program.with(STUBBORN, gate.path()));
    let program = gate.wait_for_pid();
    let report = pool.shutdown(Duration::ZERO).wait().unwrap();
    assert_eq!((report.killed, report.stuck.len()), (1, 0));
    eventually("the program is gone", || is_gone(program));
    assert!(job.wait().unwrap_err().is_cancelled());
}

#[test]
fn what_a_crashed_worker_leaves_is_ended() {
    let pool = builder().build().unwrap();
    for (way, exit) in
        [(Death::WorkerExit(0), WorkerExit::Code(0)), (Death::Abort, WorkerExit::Signal(libc::SIGABRT))]
    {
        let gate = Gate::new();
        let error = pool.run(leave_a_program_and_die.with(STUBBORN, gate.path(), way)).wait().unwrap_err();
        let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
        assert_eq!(died.exit, exit, "{error}");
        let program = gate.wait_for_pid();
        eventually("the program is gone", || is_gone(program));
    }
}

#[test]
fn a_program_in_the_background_outlives_a_worker_that_leaves() {
    let (gate, apart) = (Gate::new(), Gate::new());
    let pool = builder().max_tasks_per_child(1).build().unwrap();
    pool.run(leave_a_program.with(STUBBORN, gate.path())).wait().unwrap();
    let program = gate.wait_for_pid();
    pool.run(add.with(1, 2)).wait().unwrap();
    pool.shutdown(Duration::from_secs(60)).wait().unwrap();
    assert!(!is_gone(program));
    kill(program, libc::SIGKILL);

    // One that has left the group is left alone by a kill as well.
    let pool = builder().build().unwrap();
    pool.run(leave_a_program_in_a_group_of_its_own.with(STUBBORN, apart.path())).wait().unwrap();
    let program = apart.wait_for_pid();
    let job = prepare(ignore_sigterm.with()).run_timeout(Duration::from_millis(100));
    assert!(pool.run(job).wait().is_err());
    pool.shutdown(Duration::from_secs(60)).wait().unwrap();
    assert!(!is_gone(program));
    kill(program, libc::SIGKILL);
}

#[test]
fn with_kill_children_off_a_program_outlives_its_job_in_the_pools_group() {
    let (pool, gate) = (builder().kill_children(false).build().unwrap(), Gate::new());
    // SAFETY: the call takes and returns plain numbers.
    assert_eq!(pool.run(process_group.with()).wait().unwrap(), unsafe { libc::getpgrp() });
    let program = run_and_cancel(&pool, STUBBORN, &gate);
    pool.shutdown(Duration::ZERO).wait().unwrap();
    assert!(!is_gone(program));
    kill(program, libc::SIGKILL);
}

#[test]
fn what_a_killed_job_leaves_is_ended_on_kernels_that_cannot_signal_groups_by_pidfd() {
    this_test_again("ends_groups_on_an_old_kernel", &[]);
}

#[test]
#[ignore = "run by the test above"]
fn ends_groups_on_an_old_kernel() {
    // Linux knows no flags there before 6.9.
    forbid(libc::SYS_pidfd_send_signal, Some(3), libc::EINVAL);
    a_program_that_a_job_started_has_the_grace_period_and_no_longer();
    what_a_crashed_worker_leaves_is_ended();
    a_shutdown_ends_what_the_jobs_that_it_kills_have_started();
}

/// Has a job that runs away in a pool that may not signal its workers any more. Then uses the pool as if nothing had
/// happened, and shuts it down.
fn a_runaway_costs_nothing(pool: &ProcessPool) {
    let worker = pool.run(process_id.with()).wait().unwrap();
    let job = prepare(sleep_on.with()).run_timeout(Duration::from_millis(300));
    let error = pool.run(job).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(_)), "{error}");
    eventually("the runaway is gone", || is_gone(worker));
    let replacement = pool.run(process_id.with()).wait().unwrap();
    assert_ne!(replacement, worker);
    let restarts = pool.metrics().restarts;
    assert_eq!((restarts.job_ended, restarts.lost), (1, 0));

    let gate = Gate::new();
    let last = pool.run(announce_and_sleep.with(gate.path()));
    let worker = gate.wait_for_pid();
    let report = pool.shutdown(Duration::ZERO).wait().unwrap();
    assert_eq!((report.killed, report.stuck.len()), (1, 0));
    assert!(is_gone(worker));
    assert!(last.wait().unwrap_err().is_cancelled());
}

#[test]
fn a_pool_whose_signals_a_sandbox_refuses_ends_its_workers_nevertheless() {
    for call in ["pidfd_send_signal", "both"] {
        this_test_again("runs_in_a_sandbox_that_refuses_signals", &[("REFUSED", call)]);
    }
}

#[test]
#[ignore = "run by the test above"]
fn runs_in_a_sandbox_that_refuses_signals() {
    forbid(libc::SYS_pidfd_send_signal, None, libc::EPERM);
    if std::env::var("REFUSED").unwrap() == "both" {
        forbid(libc::SYS_kill, None, libc::EPERM);
    }
    a_runaway_costs_nothing(&pool(1));
    let gate = Gate::new();
    let program = run_and_cancel(&pool(1), "echo $$ >> $0; exec sleep 600", &gate);
    eventually("the program is gone", || is_gone(program));
}

#[test]
fn a_worker_that_cannot_be_ended_is_replaced_and_reported() {
    this_test_again("has_a_worker_that_cannot_be_ended", &[]);
}

#[test]
#[ignore = "run by the test above"]
fn has_a_worker_that_cannot_be_ended() {
    forbid(libc::SYS_pidfd_send_signal, None, libc::EPERM);
    forbid(libc::SYS_kill, None, libc::EPERM);
    let (pool, gate) = (pool(1), Gate::new());
    let job = prepare(cut_all_ties.with(gate.path())).name("an untouchable job");
    let error = pool.run(job).wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert_eq!(died.exit, WorkerExit::Lost, "{error}");
    let worker = gate.wait_for_pid();
    assert!(!is_gone(worker));
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
    assert_eq!(pool.metrics().restarts.lost, 1);
    let report = pool.shutdown(Duration::from_secs(60)).wait().unwrap();
    assert_eq!((report.drained, report.cancelled, report.killed), (0, 0, 0));
    let [stuck] = &report.stuck[..] else { panic!("{report:?}") };
    assert_eq!(stuck.name, "an untouchable job");
    assert!(stuck.worker.contains(&worker.to_string()), "{}", stuck.worker);
    assert!(stuck.worker.contains("Operation not permitted"), "{}", stuck.worker);
}

#[test]
fn a_pool_that_gives_up_root_ends_its_workers_and_starts_others() {
    if is_root() {
        this_test_again("gives_up_root", &[]);
    }
}

#[test]
#[ignore = "run by the test above"]
fn gives_up_root() {
    let pool = pool(1);
    assert_eq!(pool.run(user.with()).wait().unwrap(), 0);
    become_nobody();
    // The worker was started before.
    assert_eq!(pool.run(user.with()).wait().unwrap(), 0);
    let worker = pool.run(process_id.with()).wait().unwrap();
    let job = prepare(sleep_on.with()).run_timeout(Duration::from_millis(300));
    let error = pool.run(job).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(_)), "{error}");
    eventually("the runaway is gone", || is_gone(worker));
    assert_eq!(pool.run(user.with()).wait().unwrap(), NOBODY);
    let report = pool.shutdown(Duration::ZERO).wait().unwrap();
    assert_eq!(report.stuck, []);
}

#[test]
fn workers_that_give_up_root_die_with_their_parent() {
    if !is_root() {
        return;
    }
    for test in ["has_workers_that_gave_up_root", "has_a_worker_that_gives_up_root"] {
        let mut parent = this_test_in_the_background(test);
        let pids = parent.announced_pids(1);
        assert!(pids.iter().all(|pid| !is_gone(*pid)));
        kill(parent.pid(), libc::SIGKILL);
        eventually("the worker is gone", || pids.iter().all(|pid| is_gone(*pid)));
    }
}

#[test]
#[ignore = "run by the test above"]
fn has_workers_that_gave_up_root() {
    let pool = builder().initializer(&give_up_root.with()).build().unwrap();
    let gate = Gate::for_everybody();
    let _job = pool.run(announce_and_sleep.with(gate.path()));
    println!("pids [{}]", gate.wait_for_pid());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[ignore = "run by the test above"]
fn has_a_worker_that_gives_up_root() {
    let (pool, gate) = (pool(1), Gate::new());
    let _job = pool.run(give_up_root_and_sleep.with(gate.path()));
    println!("pids [{}]", gate.wait_for_pid());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn root_workers_die_with_a_parent_that_has_given_up_root() {
    if !is_root() {
        return;
    }
    let mut parent = this_test_in_the_background("gives_up_root_beside_a_worker");
    let pids = parent.announced_pids(1);
    kill(parent.pid(), libc::SIGKILL);
    eventually("the worker is gone", || is_gone(pids[0]));
}

#[test]
#[ignore = "run by the test above"]
fn gives_up_root_beside_a_worker() {
    let (pool, gate) = (pool(1), Gate::new());
    let _job = pool.run(announce_and_sleep.with(gate.path()));
    let worker = gate.wait_for_pid();
    become_nobody();
    println!("pids [{worker}]");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_job_that_has_ended_its_worker_is_not_blamed_for_the_link() {
    // The link's end is seen before the death, by a moment.
    let pool = pool(1);
    for status in [3, 7] {
        let error = pool.run(die.with(Death::WorkerExit(status))).wait().unwrap_err();
        let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
        assert_eq!(died.exit, WorkerExit::Code(status));
    }
}

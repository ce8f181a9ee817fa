//! Promises about workers that are forks of a template: what they inherit, how their ends are reported, and which process
//! dies with which.

#![cfg(all(feature = "process", target_os = "linux"))]

mod process_support;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use offloop::embed::{ProcessPoolBuilderExt, ProcessPoolExt, Template};
use offloop::{
    Blob, BlobMut, Captured, ErrorKind, OnCrash, ProcessPool, ProcessPoolBuilder, WorkerDied, WorkerExit,
    prepare,
};
use process_support::{
    Death, Gate, about_itself, add, announce_and_nap, announce_and_sleep, become_nobody, clean_up_on_sigterm,
    compute_for_ever, die, eventually, is_gone, is_root, kill, nap, process_id, reversed, set_up,
    set_up_badly, this_test_again, this_test_in_the_background, use_memory_and_abort, what_was_set_up,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The first argument of a copy of this program that is to be a template. The second one says which template.
const TEMPLATE: &str = "offloop-test-template";

/// Runs before `main`: in a template until that ends, and in the workers that the template has forked.
extern "C" fn begin() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(TEMPLATE) {
        let way = arguments.next().unwrap_or_default();
        std::process::exit(match be_a_template(&way) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("the template failed: {error}");
                1
            }
        });
    }
    offloop::init();
}

// SAFETY: the dynamic loader calls the functions of this section, with this signature, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// The process that has made the preparations which workers inherit.
static PREPARED_BY: AtomicU32 = AtomicU32::new(0);

/// The data that the template was started with.
static START_DATA: OnceLock<Vec<u8>> = OnceLock::new();

/// The socket on which a template and its workers make requests.
static DOOR: OnceLock<OwnedFd> = OnceLock::new();

/// True if the template was at rest before this process was forked.
static WAS_AT_REST: AtomicBool = AtomicBool::new(false);

/// Counts the workers that a template was asked for.
static FORKS: AtomicU64 = AtomicU64::new(0);

fn be_a_template(way: &str) -> io::Result<()> {
    if way == "fails" {
        return Err(io::Error::other("it has no licence"));
    }
    if way == "has-threads" {
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(600)));
    }
    let Some(mut template) = Template::connect()? else { return Ok(()) };
    START_DATA.set(template.start_data().to_vec()).unwrap();
    prepare_for_workers();
    match way {
        "asks" => DOOR.set(template.take_start_files().pop().unwrap()).unwrap(),
        "rests" => template = template.at_rest(|| WAS_AT_REST.store(true, Ordering::Relaxed)),
        _ => {}
    }
    if way == "never-serves" {
        std::thread::sleep(Duration::from_secs(600));
    }
    let forking = |fork: u64| match way {
        "cannot-fork" => Err(io::Error::other("out of processes")),
        "forks-three" if fork >= 3 => std::process::exit(7),
        _ => Ok(()),
    };
    let worker = template.serve(|| {
        forking(FORKS.fetch_add(1, Ordering::Relaxed))?;
        fork()
    })?;
    if let Some(worker) = worker {
        worker.serve();
    }
    Ok(())
}

fn prepare_for_workers() {
    PREPARED_BY.store(std::process::id(), Ordering::Relaxed);
    // The template uses shared memory. Its workers must not use the same.
    let mut bytes = BlobMut::zeroed(100_000);
    bytes.fill(1);
    std::mem::forget(bytes.freeze());
    // The template uses more memory than any worker will.
    drop(std::hint::black_box(vec![1_u8; 300 << 20]));
}

fn fork() -> io::Result<u32> {
    // SAFETY: this process has one thread, so the child finds everything as it was.
    let pid = unsafe { libc::fork() };
    u32::try_from(pid).map_err(|_| io::Error::last_os_error())
}

fn builder_of(way: &str) -> ProcessPoolBuilder {
    ProcessPool::builder().args([TEMPLATE, way]).template()
}

fn pool(workers: usize) -> ProcessPool {
    builder_of("").max_workers(workers).build().unwrap()
}

/// Waits until this many workers are up and have run something.
fn settle(pool: &ProcessPool, workers: usize) -> Vec<u32> {
    let mut seen = HashSet::new();
    eventually("all workers are up", || {
        let handles: Vec<_> = (0..workers).map(|i| pool.run(pid_after.with(2000 + i as u64))).collect();
        seen.extend(handles.into_iter().map(|handle| handle.wait().unwrap()));
        let current = pool.worker_pids();
        current.len() == workers && current.iter().all(|pid| seen.contains(pid))
    });
    pool.worker_pids()
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns the children of this process, including those that have not been collected.
fn children() -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        (parent == std::process::id()).then_some(pid)
    });
    processes.collect()
}

fn death(result: Result<impl std::fmt::Debug, offloop::Error>) -> WorkerDied {
    match result.unwrap_err().into_kind() {
        ErrorKind::WorkerDied(died) => died,
        other => panic!("{other:?}"),
    }
}

#[offloop::task]
fn pid_after(micros: u64) -> u32 {
    std::thread::sleep(Duration::from_micros(micros));
    std::process::id()
}

#[offloop::task]
fn prepared_by() -> u32 {
    PREPARED_BY.load(Ordering::Relaxed)
}

#[offloop::task]
fn start_data() -> Vec<u8> {
    START_DATA.get().unwrap().clone()
}

#[offloop::task]
fn was_at_rest() -> bool {
    WAS_AT_REST.load(Ordering::Relaxed)
}

/// Makes a request, and returns the answer.
#[offloop::task]
fn asks() -> String {
    let (mut here, there) = UnixStream::pair().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [there.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(DOOR.get().unwrap(), &[IoSlice::new(b"?")], &mut control, SendFlags::empty()).unwrap();
    drop(there);
    let mut answer = String::new();
    here.read_to_string(&mut answer).unwrap();
    answer
}

#[offloop::task]
fn shuts_the_door() {
    rustix::net::shutdown(DOOR.get().unwrap(), rustix::net::Shutdown::Both).unwrap();
}

/// Runs this program as a job might, and returns what it prints.
#[offloop::task]
fn lists_this_programs_tests() -> String {
    let output = std::process::Command::new("/proc/self/exe").arg("--list").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[offloop::task]
fn sockets() -> usize {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = files.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[offloop::task]
fn inverted(bytes: Blob) -> Blob {
    let mut result = BlobMut::zeroed(bytes.len());
    result.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = !from);
    result.freeze()
}

#[offloop::task]
fn print_and_die(text: &str) {
    eprintln!("{text}");
    std::process::abort();
}

#[offloop::task]
fn print(text: &str) {
    print!("{text}");
}

#[offloop::task]
fn nice_and_directory() -> (i32, PathBuf, Option<String>) {
    // SAFETY: it takes plain numbers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    (nice, std::env::current_dir().unwrap(), std::env::var("OFFLOOP_TEST").ok())
}

#[test]
fn many_workers_are_forks_of_one_template_that_was_prepared_once() {
    let pool = pool(16);
    let pids: HashSet<u32> = settle(&pool, 16).into_iter().collect();
    let templates: HashSet<u32> = pids.iter().map(|pid| parent_of(*pid)).collect();
    assert_eq!((pids.len(), templates.len()), (16, 1), "{pids:?} of {templates:?}");
    let template = templates.into_iter().next().unwrap();
    assert_eq!(parent_of(template), std::process::id());
    for _ in 0..32 {
        assert_eq!(pool.run(prepared_by.with()).wait().unwrap(), template);
    }
    assert!(!pids.contains(&std::process::id()) && !pids.contains(&template));
}

#[test]
fn forked_workers_do_all_that_others_do() {
    let pool = builder_of("")
        .max_workers(2)
        .initializer(&set_up.with(7))
        .nice(3)
        .env("OFFLOOP_TEST", "one")
        .current_dir("/");
    let pool = pool.build().unwrap();
    assert_eq!(pool.run(what_was_set_up.with()).wait().unwrap(), (7, 1));
    let (nice, directory, variable) = pool.run(nice_and_directory.with()).wait().unwrap();
    let (own_nice, ..) = nice_and_directory();
    assert_eq!((nice, directory, variable.as_deref()), (own_nice + 3, PathBuf::from("/"), Some("one")));
    let captured = Captured::new(100);
    pool.run(prepare(print.with("hello")).capture(&captured)).wait().unwrap();
    assert_eq!(captured.stdout(), b"hello");
    let (name, marker) = pool.run(about_itself.with()).wait().unwrap();
    assert!(name.unwrap().ends_with("::about_itself"));
    assert_eq!(marker, None, "programs started by a job would take themselves for workers");
    assert_eq!(
        pool.run(sockets.with()).wait().unwrap(),
        2,
        "a worker has its link and lifeline, and none of others"
    );
}

#[test]
fn large_payloads_arrive_whole_although_the_template_had_shared_memory_of_its_own() {
    let pool = pool(2);
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    for _ in 0..10 {
        let handles: Vec<_> = (0..4).map(|_| pool.run(inverted.with(bytes.clone().into()))).collect();
        for handle in handles {
            assert!(handle.wait().unwrap().iter().zip(&bytes).all(|(a, b)| *a == !b));
        }
        assert!(pool.run(reversed.with(&bytes)).wait().unwrap().iter().rev().eq(&bytes));
    }
}

#[test]
fn a_killed_worker_costs_its_own_job_alone_and_is_replaced() {
    let pool = pool(3);
    let gate = Gate::new();
    let victim = pool.run(prepare(announce_and_sleep.with(gate.path())).priority(9));
    let others: Vec<_> = (0..100).map(|i| pool.run(nap.with(i))).collect();
    let pid = gate.wait_for_pid();
    let template = parent_of(pid);
    kill(pid, libc::SIGKILL);
    let died = death(victim.wait());
    assert_eq!((died.pid, died.exit), (pid, WorkerExit::Signal(libc::SIGKILL)), "{died}");
    for (i, handle) in (0..).zip(others) {
        assert_eq!(handle.wait().unwrap(), i);
    }
    let workers = settle(&pool, 3);
    assert!(!workers.contains(&pid));
    assert!(workers.iter().all(|pid| parent_of(*pid) == template), "the template has stayed");
    assert!(std::fs::metadata(format!("/proc/{pid}")).is_err(), "it was collected");
}

#[test]
fn the_template_reports_how_its_workers_ended() {
    let pool = pool(1);
    assert_eq!(death(pool.run(die.with(Death::WorkerExit(3))).wait()).exit, WorkerExit::Code(3));
    assert_eq!(death(pool.run(die.with(Death::WorkerExit(0))).wait()).exit, WorkerExit::Code(0));
    assert_eq!(death(pool.run(die.with(Death::Abort)).wait()).exit, WorkerExit::Signal(libc::SIGABRT));
    assert_eq!(
        death(pool.run(die.with(Death::Signal(libc::SIGTERM))).wait()).exit,
        WorkerExit::Signal(libc::SIGTERM)
    );
    let died = death(pool.run(print_and_die.with("it was the butler")).wait());
    assert_eq!(died.stderr, "it was the butler");
    let died = death(pool.run(use_memory_and_abort.with(200 << 20)).wait());
    assert!((200 << 20..300 << 20).contains(&died.peak_memory), "{} MiB", died.peak_memory >> 20);
}

#[offloop::task]
fn wait_for_a_sleeping_program(gate: &str) {
    let script = "echo $$ >> $0; exec sleep 600";
    std::process::Command::new("/bin/sh").args(["-c", script, gate]).status().unwrap();
}

#[offloop::task]
fn wait_for_a_stubborn_program(gate: &str) {
    let script = "trap '' TERM; echo $$ >> $0; while :; do sleep 0.05; done";
    std::process::Command::new("/bin/sh").args(["-c", script, gate]).status().unwrap();
}

#[test]
fn a_program_that_a_job_started_ends_with_the_job_in_a_fork_too() {
    let (pool, gate) = (pool(1), Gate::new());
    let job = pool.run(wait_for_a_sleeping_program.with(gate.path()));
    let program = gate.wait_for_pid();
    drop(job);
    eventually("the program is gone", || is_gone(program));
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
}

#[test]
fn the_template_ends_workers_that_the_pool_may_not_signal() {
    if is_root() {
        this_test_again("gives_up_root_beside_a_template", &[]);
    }
}

#[test]
#[ignore = "run by the test above"]
fn gives_up_root_beside_a_template() {
    let gates = [Gate::new(), Gate::new()];
    let pool = builder_of("").max_workers(1).grace(Duration::from_secs(60)).build().unwrap();
    let other = builder_of("").max_workers(1).grace(Duration::from_secs(1)).build().unwrap();
    for pool in [&pool, &other] {
        assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
    }
    become_nobody();
    let orderly = pool.run(clean_up_on_sigterm.with(gates[0].path()));
    let worker = gates[0].wait_for_pid();
    drop(orderly);
    eventually("the worker is gone", || is_gone(worker));
    assert_eq!(gates[0].arrivals(), 2, "it got SIGTERM and cleaned up");

    // Its worker ends at SIGTERM, and the program must be killed.
    let stubborn = other.run(wait_for_a_stubborn_program.with(gates[1].path()));
    let program = gates[1].wait_for_pid();
    let report = other.shutdown(Duration::ZERO).wait().unwrap();
    assert_eq!((report.killed, report.stuck.len()), (1, 0));
    eventually("the program is gone", || is_gone(program));
    assert!(stubborn.wait().unwrap_err().is_cancelled());
}

#[test]
fn a_template_that_hangs_is_ended_even_if_the_pool_may_not_signal_it() {
    if is_root() {
        this_test_again("gives_up_root_beside_a_template_that_hangs", &[]);
    }
}

#[test]
#[ignore = "run by the test above"]
fn gives_up_root_beside_a_template_that_hangs() {
    let children = || {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let lists = threads.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("children")).ok());
        lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).next()
    };
    let pool =
        builder_of("never-serves").max_workers(1).setup_timeout(Duration::from_secs(2)).build().unwrap();
    eventually("there is a template", || children().is_some());
    let template = children().unwrap();
    become_nobody();
    eventually("the template is gone", || is_gone(template));
    drop(pool);
}

#[test]
fn a_killed_template_takes_its_workers_along_and_the_next_one_goes_on() {
    let pool = pool(2);
    let gate = Gate::new();
    for _ in 0..2 {
        settle(&pool, 2);
        let running = pool.run(announce_and_sleep.with(gate.path()));
        eventually("it runs", || gate.arrivals() > 0);
        let pid = gate.wait_for_pid();
        let workers = pool.worker_pids();
        let template = parent_of(pid);
        kill(template, libc::SIGKILL);
        let died = death(running.wait());
        assert_eq!(died.pid, pid);
        eventually("its workers are gone", || workers.iter().all(|pid| is_gone(*pid)));
        let next = pool.run(prepared_by.with()).wait().unwrap();
        assert_ne!(next, template);
        eventually("they are struck off", || !pool.worker_pids().iter().any(|pid| workers.contains(pid)));
        std::fs::write(gate.path(), "").unwrap();
    }
}

#[test]
fn jobs_survive_templates_that_die_again_and_again() {
    let pool = builder_of("forks-three").max_workers(2).build().unwrap();
    let mut templates = HashSet::new();
    // Every other death needs a fork, and every third fork costs the template, and the other worker with its job too.
    let is_excused = |error: &offloop::Error| {
        assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
    };
    for i in 0..20 {
        let sum = (0..100).find_map(|_| pool.run(add.with(i, 1)).wait().inspect_err(is_excused).ok());
        assert_eq!(sum, Some(i + 1), "one of a hundred runs between two deaths");
        let _ = pool.run(die.with(Death::WorkerExit(1))).wait().inspect_err(is_excused);
        let template =
            (0..100).find_map(|_| pool.run(prepared_by.with()).wait().inspect_err(is_excused).ok());
        templates.insert(template.expect("one of a hundred runs between two deaths"));
    }
    assert!(templates.len() > 2, "{templates:?}");
}

#[test]
fn a_template_that_cannot_start_is_the_jobs_error() {
    let not_executable = Gate::new();
    for (what, builder, text) in [
        ("it exits", builder_of("fails"), "the workers' template has ended"),
        ("it exits at once", ProcessPool::builder().program("/bin/false").template(), ""),
        ("it hangs", builder_of("never-serves"), "still getting ready"),
        ("it cannot fork", builder_of("cannot-fork"), "could not fork a worker: out of processes"),
        ("nobody", ProcessPool::builder().program("/does/not/exist").template(), "No such file"),
        ("no program", ProcessPool::builder().program(not_executable.path()).template(), "ermission denied"),
        ("no directory", builder_of("").current_dir("/does/not/exist"), "No such file"),
        ("an error", ProcessPool::builder().template_by(|_| Err(io::Error::other("not today"))), "not today"),
    ] {
        let patience = if what == "it hangs" { Duration::from_millis(300) } else { Duration::from_secs(20) };
        let pool = builder.max_workers(2).setup_timeout(patience).build().unwrap();
        for _ in 0..2 {
            let error = pool.run(add.with(1, 1)).wait().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{what}: {error}");
            assert!(error.to_string().contains(text), "{what}: {error}");
        }
        let report = pool.shutdown(Duration::from_secs(10)).wait().unwrap();
        assert!(report.stuck.is_empty() && pool.is_over(), "{what}: {report:?}");
    }
}

#[test]
fn an_initializer_that_fails_in_a_fork_is_the_jobs_error_and_spares_the_template() {
    let call = set_up_badly.with("no licence".to_owned(), false);
    let pool = builder_of("").max_workers(2).initializer(&call).build().unwrap();
    for _ in 0..2 {
        let error = pool.run(add.with(1, 1)).wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error}");
        assert!(error.to_string().contains("no licence"), "{error}");
    }
}

#[test]
fn a_stopped_template_delays_neither_its_workers_nor_the_shutdown() {
    let pool = pool(2);
    let workers = settle(&pool, 2);
    let template = parent_of(workers[0]);
    kill(template, libc::SIGSTOP);
    for i in 0..200 {
        assert_eq!(pool.run(add.with(i, 1)).wait().unwrap(), i + 1);
    }
    // Only the template could report how it ended.
    let gate = Gate::new();
    let victim = pool.run(announce_and_sleep.with(gate.path()));
    let pid = gate.wait_for_pid();
    kill(pid, libc::SIGKILL);
    let died = death(victim.wait());
    assert_eq!((died.pid, died.exit), (pid, WorkerExit::Unknown), "{died}");
    // The other worker goes on.
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
    let report = pool.shutdown(Duration::from_secs(30)).wait().unwrap();
    assert!(report.stuck.is_empty() && pool.is_over(), "{report:?}");
    assert!(is_gone(template) && workers.into_iter().all(is_gone));
}

#[test]
fn a_template_that_stays_stopped_is_replaced_when_a_worker_is_needed() {
    let pool = builder_of("").max_workers(1).start_timeout(Duration::from_secs(3)).build().unwrap();
    let worker = settle(&pool, 1)[0];
    let template = parent_of(worker);
    kill(template, libc::SIGSTOP);
    kill(worker, libc::SIGKILL);
    assert_ne!(pool.run(prepared_by.with()).wait().unwrap(), template);
    assert!(is_gone(template));
}

#[test]
fn ctrl_c_is_left_to_the_parent() {
    let pool = pool(1);
    let gate = Gate::new();
    let handle = pool.run(announce_and_nap.with(gate.path()));
    let worker = gate.wait_for_pid();
    let template = parent_of(worker);
    // The terminal sends the signal to all of them.
    kill(template, libc::SIGINT);
    kill(worker, libc::SIGINT);
    assert_eq!(handle.wait().unwrap(), "finished");
    assert_eq!(pool.run(prepared_by.with()).wait().unwrap(), template);
    kill(worker, libc::SIGKILL);
    let pid = pool.run(prepare(process_id.with()).retry(offloop::Retry::times(3))).wait().unwrap();
    assert_eq!(parent_of(pid), template, "it still forks");
}

#[test]
fn killed_parents_leave_neither_template_nor_worker_idle_or_busy() {
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let mut parent = this_test_in_the_background("has_a_template_with_idle_and_busy_workers");
        let pids = parent.announced_pids(5);
        assert!(pids.iter().all(|pid| !is_gone(*pid)), "round {round}");
        kill(parent.pid(), libc::SIGKILL);
        let killed = Instant::now();
        eventually("all are gone", || pids.iter().all(|pid| is_gone(*pid)));
        slowest = slowest.max(killed.elapsed());
    }
    println!("the slowest of five parents left somebody alive for {slowest:?}");
}

#[test]
#[ignore = "run by the test above"]
fn has_a_template_with_idle_and_busy_workers() {
    let pool = pool(4);
    let gates = [Gate::new(), Gate::new()];
    settle(&pool, 4);
    let _busy: Vec<_> = gates.iter().map(|gate| pool.run(compute_for_ever.with(gate.path()))).collect();
    for gate in &gates {
        gate.wait_for_pid();
    }
    let mut pids = pool.worker_pids();
    pids.push(parent_of(pids[0]));
    println!("pids {pids:?}");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_parent_leaves_no_template_that_is_still_getting_ready() {
    let mut parent = this_test_in_the_background("has_a_template_that_never_serves");
    let pids = parent.announced_pids(1);
    kill(parent.pid(), libc::SIGKILL);
    eventually("it is gone", || pids.iter().all(|pid| is_gone(*pid)));
}

#[test]
#[ignore = "run by the test above"]
fn has_a_template_that_never_serves() {
    let _pool =
        builder_of("never-serves").max_workers(1).start_timeout(Duration::from_secs(600)).build().unwrap();
    eventually("there is a template", || !children().is_empty());
    let pid = children()[0];
    // It has moved its socket away from there.
    let stdin = format!("/proc/{pid}/fd/0");
    eventually("it connects", || {
        std::fs::read_link(&stdin).is_ok_and(|target| target == std::path::Path::new("/dev/null"))
    });
    println!("pids {:?}", [pid]);
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_resized_pool_has_the_number_of_workers_that_was_set() {
    let pool = pool(1);
    settle(&pool, 1);
    pool.resize(4);
    let four = settle(&pool, 4);
    let gate = Gate::new();
    let running: Vec<_> = (0..4).map(|_| pool.run(announce_and_nap.with(gate.path()))).collect();
    eventually("all four are busy", || gate.arrivals() == 4);
    pool.resize(2);
    for handle in running {
        assert_eq!(handle.wait().unwrap(), "finished", "no job is interrupted");
    }
    eventually("two have left", || four.iter().filter(|pid| is_gone(**pid)).count() == 2);
    let two = settle(&pool, 2);
    assert!(two.iter().all(|pid| four.contains(pid)), "no other worker was started");
    pool.resize(0);
    eventually("all have left", || two.iter().all(|pid| is_gone(*pid)));
    let waits = pool.run(process_id.with());
    assert!(pool.worker_pids().is_empty());
    assert_eq!((pool.queued(), pool.outstanding()), (1, 1));
    pool.resize(1);
    assert!(!four.contains(&waits.wait().unwrap()));
}

#[test]
fn a_pool_of_no_workers_starts_its_template_when_it_is_given_some() {
    let started = std::sync::Arc::new(AtomicU64::new(0));
    let count = std::sync::Arc::clone(&started);
    let start = move |socket: OwnedFd| {
        count.fetch_add(1, Ordering::Relaxed);
        spawn_template(socket)
    };
    let pool = ProcessPool::builder().max_workers(0).template_by(start).build().unwrap();
    let job = pool.run(process_id.with());
    assert_eq!((started.load(Ordering::Relaxed), pool.outstanding()), (0, 1));
    pool.resize(2);
    assert_ne!(job.wait().unwrap(), std::process::id());
    assert_eq!(started.load(Ordering::Relaxed), 1);
}

#[test]
fn a_pool_of_forks_grows_on_demand() {
    let pool = builder_of("").min_workers(0).max_workers(2).build().unwrap();
    assert!(pool.worker_pids().is_empty());
    for _ in 0..5 {
        pool.run(process_id.with()).wait().unwrap();
    }
    assert_eq!(pool.worker_pids().len(), 1);
    let gate = Gate::new();
    let jobs: Vec<_> = (0..3).map(|_| pool.run(announce_and_sleep.with(gate.path()))).collect();
    eventually("two run", || gate.arrivals() == 2);
    assert_eq!((pool.worker_pids().len(), pool.queued()), (2, 1));
    drop(jobs);
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
}

/// Starts a program as a user of `template_by` might.
fn spawn_template(socket: OwnedFd) -> io::Result<u32> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args([TEMPLATE, ""]).env("OFFLOOP_WORKER", std::process::id().to_string()).stdin(socket);
    Ok(command.spawn()?.id())
}

#[test]
fn the_pool_answers_the_requests_of_each_worker() {
    let requests = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&requests);
    let answer = move |asker: OwnedFd| {
        let request = counted.fetch_add(1, Ordering::Relaxed);
        File::from(asker).write_all(format!("answer {request}").as_bytes()).unwrap();
    };
    // Each job has a worker of its own.
    let builder = builder_of("asks").max_workers(1).max_tasks_per_child(1);
    let pool = builder.on_request(answer).build().unwrap();
    for number in 0..3 {
        assert_eq!(pool.run(asks.with()).wait().unwrap(), format!("answer {number}"));
    }
    assert_eq!(requests.load(Ordering::Relaxed), 3);
}

#[test]
fn a_job_that_shuts_the_socket_for_requests_down_harms_neither_the_pool_nor_its_workers() {
    let pool = builder_of("asks").max_workers(1).on_request(drop).build().unwrap();
    pool.run(shuts_the_door.with()).wait().unwrap();
    assert_eq!(pool.run(add.with(2, 3)).wait().unwrap(), 5);
}

#[test]
fn an_answer_that_panics_harms_only_the_worker_that_has_asked() {
    let pool = builder_of("asks").max_workers(1).on_request(|_| panic!("no answer")).build().unwrap();
    assert_eq!(pool.run(asks.with()).wait().unwrap(), "");
    assert_eq!(pool.run(add.with(2, 3)).wait().unwrap(), 5);
}

#[test]
fn a_template_at_rest_prepares_for_later_workers_and_the_first_one_does_not_wait_for_that() {
    let pool = builder_of("rests").max_workers(1).max_tasks_per_child(1).build().unwrap();
    assert!(!pool.run(was_at_rest.with()).wait().unwrap());
    eventually("the template was at rest", || {
        // It is at rest when nothing has come for a while.
        std::thread::sleep(Duration::from_millis(50));
        pool.run(was_at_rest.with()).wait().unwrap()
    });
}

#[test]
fn a_template_may_be_forked_from_the_program_itself() {
    // From a process of its own, since a fork inherits the files of the other tests.
    assert!(this_test_again("forks_its_template", &[]).contains("all is well"));
}

#[test]
#[ignore = "run by the test above"]
fn forks_its_template() {
    // The program has shared memory, which the template inherits. Workers must not use it as theirs.
    let bytes = vec![3; 100_000];
    let parent = std::process::id();
    let start = move |socket: OwnedFd| {
        // SAFETY: no other thread of this test's process is active, so no lock is held at the fork.
        let pid = unsafe { libc::fork() };
        if pid != 0 {
            return u32::try_from(pid).map_err(|_| io::Error::last_os_error());
        }
        PREPARED_BY.store(std::process::id(), Ordering::Relaxed);
        let worker = Template::adopt(socket, parent).unwrap().unwrap().serve(fork).unwrap();
        if let Some(worker) = worker {
            worker.serve();
        }
        // SAFETY: leaves without running the parent's destructors.
        unsafe { libc::_exit(0) };
    };
    let blob = Blob::from(bytes.clone());
    let own = BlobMut::zeroed(100_000).freeze();
    let pool = ProcessPool::builder().max_workers(2).template_by(start).build().unwrap();
    for _ in 0..5 {
        assert!(pool.run(inverted.with(blob.clone())).wait().unwrap().iter().all(|byte| *byte == !3));
        assert!(pool.run(inverted.with(own.clone())).wait().unwrap().iter().all(|byte| *byte == !0));
    }
    let template = pool.run(prepared_by.with()).wait().unwrap();
    assert_eq!(parent_of(template), parent);
    pool.shutdown(Duration::from_secs(10)).wait().unwrap();
    assert!(is_gone(template) && children().is_empty());
    println!("all is well");
}

#[test]
fn closing_the_pool_leaves_no_process_file_or_thread() {
    // In a process of its own, as the other tests here have processes and files too.
    let printed = this_test_again("templates_come_and_go", &[]);
    assert!(printed.contains("nothing is left"), "{printed}");
    assert!(!printed.contains("the template failed"), "{printed}");
}

#[test]
#[ignore = "run by the test above"]
fn templates_come_and_go() {
    // SAFETY: both are open; from here on standard error goes to standard output, which the test above reads.
    unsafe { libc::dup2(1, 2) };
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // By their number and not by their names, since a thread names itself only when it first runs.
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let threads_before = threads();
    // The arena stays.
    let _arena = BlobMut::zeroed(10).freeze();
    pool(1).shutdown(Duration::from_secs(10)).wait().unwrap();
    eventually("no thread of the pool is left", || threads() == threads_before);
    let files_before = files();
    for round in 0..6 {
        let pool = pool(2);
        let worker = pool.run(process_id.with()).wait().unwrap();
        let template = parent_of(worker);
        match round {
            0 => drop(pool.run(die.with(Death::Abort)).wait()),
            1 => drop(pool.run(announce_and_sleep.with("/dev/null"))),
            2 => kill(template, libc::SIGKILL),
            3 => pool.resize(5),
            4 => pool.close(),
            // The template notices a worker's end only after the pool has gone, a moment after it is closed.
            _ => {
                kill(template, libc::SIGSTOP);
                kill(worker, libc::SIGKILL);
                pool.close();
                std::thread::sleep(Duration::from_millis(400));
                kill(template, libc::SIGCONT);
            }
        }
        if round % 2 == 0 {
            pool.shutdown(Duration::from_secs(10)).wait().unwrap();
            assert!(pool.is_over());
        } else {
            drop(pool);
        }
        eventually("all processes are gone and collected", || children().is_empty());
        assert!(is_gone(template) && is_gone(worker));
    }
    eventually("no file or thread is left", || (files(), threads()) == (files_before, threads_before));
    println!("nothing is left");
    io::stdout().flush().unwrap();
}

#[test]
fn each_fork_runs_exactly_as_many_jobs_as_it_may() {
    let pool = builder_of("").max_workers(2).max_tasks_per_child(5).build().unwrap();
    let handles: Vec<_> = (0..200).map(|_| pool.run(process_id.with())).collect();
    let mut counts = std::collections::HashMap::new();
    for handle in handles {
        *counts.entry(handle.wait().unwrap()).or_insert(0) += 1;
    }
    let going = pool.worker_pids();
    assert!(
        counts.iter().all(|(pid, count)| *count == 5 || (*count < 5 && going.contains(pid))),
        "{counts:?}"
    );
}

#[test]
fn a_broken_pool_of_forks_has_no_processes_and_starts_none() {
    let pool = builder_of("").max_workers(3).on_crash(OnCrash::Break).build().unwrap();
    let workers = settle(&pool, 3);
    let template = parent_of(workers[0]);
    let gate = Gate::new();
    let running = pool.run(announce_and_sleep.with(gate.path()));
    let crashing = pool.run(die.with(Death::WorkerExit(9)));
    let died = death(crashing.wait());
    assert_eq!(died.exit, WorkerExit::Code(9));
    assert!(matches!(running.wait().unwrap_err().kind(), ErrorKind::Broken(_)));
    eventually("it is over", || pool.is_over());
    assert!(is_gone(template) && workers.into_iter().all(is_gone));
}

#[test]
fn a_template_gets_data_of_any_length_that_nobody_can_read_in_proc() {
    let secret = b"a planted secret".repeat(200_000);
    let pool = builder_of("").max_workers(1).start_data(secret.clone()).build().unwrap();
    assert!(pool.run(start_data.with()).wait().unwrap() == secret);
    let worker = pool.worker_pids()[0];
    for pid in [worker, parent_of(worker)] {
        for file in ["environ", "cmdline"] {
            let content = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!content.is_empty());
            assert!(!content.windows(16).any(|bytes| bytes == b"a planted secret"), "{file} of {pid}");
        }
    }
}

#[test]
fn a_template_without_data_gets_none() {
    assert_eq!(pool(1).run(start_data.with()).wait().unwrap(), b"");
}

#[test]
fn a_template_that_has_threads_already_serves_and_its_jobs_may_start_this_program() {
    // The environment is not changed beside other threads, so what the job starts inherits the marker.
    let pool = builder_of("has-threads").max_workers(1).build().unwrap();
    let (_, marker) = pool.run(about_itself.with()).wait().unwrap();
    assert_eq!(marker.as_deref(), Some(&*std::process::id().to_string()));
    let printed = pool.run(lists_this_programs_tests.with()).wait().unwrap();
    assert!(printed.contains("a_template_that_has_threads_already"), "{printed}");
}

#[test]
fn a_program_in_the_wrong_role_says_so() {
    let printed = this_test_again("plays_the_wrong_role", &[]);
    assert!(printed.contains("wants it as a template, but it calls offloop::init()"), "{printed}");
    assert!(printed.contains("wants it as a worker, but it calls Template::connect()"), "{printed}");
}

#[test]
#[ignore = "run by the test above"]
fn plays_the_wrong_role() {
    // SAFETY: both are open; from here on standard error goes to standard output, which the test above reads.
    unsafe { libc::dup2(1, 2) };
    let is_worker = ProcessPool::builder().template();
    let is_template = ProcessPool::builder().args([TEMPLATE, ""]);
    for builder in [is_worker, is_template] {
        let pool = builder.max_workers(1).stderr_tail(0).build().unwrap();
        let error = pool.run(process_id.with()).wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error}");
    }
}

#[test]
fn a_process_that_no_pool_has_started_is_no_template() {
    let error = Template::connect().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    let (socket, other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(other.as_raw_fd() > 2);
    // Another process has started it than its marker says.
    let child = fork().unwrap();
    if child == 0 {
        let is_refused = matches!(Template::adopt(socket.into(), 1), Ok(None));
        // SAFETY: leaves without running the parent's destructors.
        unsafe { libc::_exit(i32::from(!is_refused)) };
    }
    let mut status = 0;
    let child = i32::try_from(child).unwrap();
    // SAFETY: `status` is a live local variable; the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}

//! Promises of the live view about worker processes: they are shown, their deaths are remembered, their jobs cancelled.

#![cfg(all(feature = "observe", feature = "process", target_os = "linux"))]

#[path = "process_support/mod.rs"]
mod processes;
#[path = "observe_support/mod.rs"]
mod support;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use offloop::observe::document::{Snapshot, Stack};
use offloop::observe::{self, Server};
use offloop::{ErrorKind, ProcessPool, prepare};
use processes::{Gate, add, announce_and_sleep, is_gone, kill, long_text};
use support::{Place, ask, ask_socket, eventually, get, pool_named, ready, snapshot_at};

offloop::init_tests!();

#[offloop::task]
fn request_of_the_job() -> Option<String> {
    offloop::job::request().as_deref().map(str::to_owned)
}

#[offloop::task]
fn says_something_and_waits(gate: &str, words: &str) {
    eprintln!("{words}");
    announce_and_sleep(gate);
}

#[offloop::task]
fn has_a_pool_of_its_own(gate: &str) {
    let pool = offloop::ThreadPool::builder().name("within").build().unwrap();
    let gate = gate.to_owned();
    pool.run(move || announce_and_sleep(&gate)).wait().unwrap();
}

/// Taken by the tests about deaths, of which the process remembers few.
static DEATHS: Mutex<()> = Mutex::new(());

fn pool(name: &'static str) -> ProcessPool {
    ProcessPool::builder().name(name).max_workers(2).queue_capacity(9).grace(Duration::ZERO).build().unwrap()
}

#[test]
fn workers_are_shown_with_their_memory_and_their_jobs() {
    let pool = pool("shown");
    let gate = Gate::new();
    let work =
        prepare(announce_and_sleep.with(gate.path())).request("r-9").run_timeout(Duration::from_secs(600));
    let job = pool.run(work);
    let pid = gate.wait_for_pid();
    eventually("both workers are up", || {
        pool_named(&observe::snapshot(), "shown").workers_by_state["starting"] == 0
    });
    let snapshot = observe::snapshot();
    let shown = pool_named(&snapshot, "shown");
    assert_eq!((shown.kind.as_str(), shown.max_workers, shown.capacity), ("processes", 2, Some(9)));
    let states: Vec<_> = shown.workers.iter().map(|worker| worker.state.as_str()).collect();
    assert!(states.contains(&"busy") && states.contains(&"idle"), "{states:?}");
    let worker = shown.workers.iter().find(|worker| worker.pid == Some(pid)).expect("it is listed");
    assert!(worker.rss.unwrap() > 100_000 && worker.age.unwrap() > 0.0, "{worker:?}");
    let [shown] = shown.jobs.as_slice() else { panic!("{:?}", shown.jobs) };
    assert_eq!((shown.id.to_string(), shown.pid), (job.id().to_string(), Some(pid)));
    assert_eq!((shown.name.as_deref(), shown.request.as_deref()), (Some(job.name()), Some("r-9")));
    assert!(shown.time_left.unwrap() > 500.0);
    eventually("the cores that it uses are known", || {
        let snapshot = observe::snapshot();
        let workers = &pool_named(&snapshot, "shown").workers;
        workers.iter().all(|worker| worker.cores_used.is_some())
    });
}

#[test]
fn a_job_in_another_process_learns_its_request() {
    let pool = pool("requests");
    let request = pool.run(prepare(request_of_the_job.with()).request("r-1")).wait().unwrap();
    assert_eq!(request.as_deref(), Some("r-1"));
    assert_eq!(pool.run(request_of_the_job.with()).wait().unwrap(), None);
}

#[test]
fn the_death_of_a_worker_is_remembered_with_its_last_words() {
    let _turn = DEATHS.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = pool("mortal");
    let gate = Gate::new();
    let job =
        pool.run(prepare(says_something_and_waits.with(gate.path(), "the disk is full")).name("saving"));
    let (pid, id) = (gate.wait_for_pid(), job.id().to_string());
    kill(pid, libc::SIGSEGV);
    assert!(matches!(job.wait().map_err(offloop::Error::into_kind), Err(ErrorKind::WorkerDied(_))));
    let deaths = observe::snapshot().deaths;
    let death = deaths.iter().find(|death| death.pid == pid).expect("it is remembered");
    assert_eq!((death.pool.as_str(), death.task.as_deref()), ("mortal", Some("saving")));
    assert_eq!(death.job.map(|job| job.to_string()), Some(id));
    assert!(death.how.contains("SIGSEGV"), "{}", death.how);
    assert_eq!(death.last_words.as_deref(), Some("the disk is full"));
    assert!(death.time > observe::snapshot().time - 60.0);
    eventually("it is replaced, for a reason that is shown", || {
        let snapshot = observe::snapshot();
        let shown = pool_named(&snapshot, "mortal");
        shown.restarts["crashed"] == 1 && shown.workers.len() == 2
    });

    // Workers that leave or are ended with their jobs have not died.
    let before = observe::snapshot().deaths.len();
    let gate = Gate::new();
    let job = pool.run(announce_and_sleep.with(gate.path()));
    let pid = gate.wait_for_pid();
    drop(job);
    eventually("the job's worker is gone", || is_gone(pid));
    pool.shutdown(Duration::from_secs(30)).wait().unwrap();
    assert_eq!(observe::snapshot().deaths.len(), before);
    assert!(observe::snapshot().pools.iter().all(|pool| pool.name != "mortal"));
}

#[test]
fn only_the_last_twenty_deaths_are_remembered_the_newest_first() {
    let _turn = DEATHS.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = ProcessPool::builder().name("frail").max_workers(1).build().unwrap();
    let mut pids = Vec::new();
    for _ in 0..22 {
        let gate = Gate::new();
        let job = pool.run(announce_and_sleep.with(gate.path()));
        pids.push(gate.wait_for_pid());
        kill(*pids.last().unwrap(), libc::SIGKILL);
        job.wait().unwrap_err();
    }
    let deaths = observe::snapshot().deaths;
    assert_eq!(deaths.len(), 20);
    let newest_of_pool = deaths.iter().find(|death| death.pool == "frail").unwrap();
    assert_eq!(newest_of_pool.pid, pids[21]);
    assert!(deaths.iter().all(|death| death.pid != pids[0] && death.pid != pids[1]));
    assert!(deaths.is_sorted_by(|one, other| one.time >= other.time));
}

#[test]
fn a_job_that_is_cancelled_from_the_view_is_killed() {
    let pool = pool("killed");
    let server = Server::builder().unix(false).http("127.0.0.1:0").allow_cancel(true).start().unwrap();
    let address = server.http_address().unwrap();
    let gate = Gate::new();
    let job = pool.run(announce_and_sleep.with(gate.path()));
    let pid = gate.wait_for_pid();
    let target = format!("/jobs/{}/{}", std::process::id(), job.id());
    let stack: Stack = serde_json::from_str(&get(address, &format!("{target}/stack")).body).unwrap();
    assert_eq!(stack.thread, format!("worker process {pid}"));
    assert!(stack.note.unwrap().contains("waits"));
    assert_eq!(ask(address, "POST", &format!("{target}/cancel"), &["X-Offloop: 1"]).status, 202);
    assert!(matches!(job.wait().map_err(offloop::Error::into_kind), Err(ErrorKind::Cancelled)));
    eventually("its worker is gone", || is_gone(pid));
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
    assert_eq!(ask(address, "POST", &format!("{target}/cancel"), &["X-Offloop: 1"]).status, 404);
}

#[test]
fn the_shared_memory_of_a_pool_is_shown() {
    let pool = pool("large");
    pool.run(long_text.with(4 << 20)).wait().unwrap();
    let blob = pool.blob(1 << 20);
    let arena = pool_named(&observe::snapshot(), "large").arena.clone().unwrap();
    assert!(arena.used >= 1 << 20, "{arena:?}");
    drop(blob);
}

/// A program whose worker has a pool of its own.
#[test]
#[ignore = "it is the program of another test"]
fn a_program_with_a_pool_in_a_worker() {
    let pool = pool("outer");
    let gate = Gate::new();
    let job = pool.run(has_a_pool_of_its_own.with(gate.path()));
    let worker = gate.wait_for_pid();
    ready(&worker.to_string());
    drop(job);
}

#[test]
fn a_worker_does_not_open_a_view_of_its_own() {
    let place = Place::new();
    let program = place.start("a_program_with_a_pool_in_a_worker", &[("OFFLOOP_OBSERVE", "1")]);
    assert_eq!(place.names(), [format!("{}.sock", program.pid())]);
    let snapshot: Snapshot = snapshot_at(&program.socket);
    let worker: u32 = program.words[0].parse().unwrap();
    assert_eq!(pool_named(&snapshot, "outer").jobs[0].pid, Some(worker));
    assert_eq!(ask_socket(&program.socket, "GET", "/metrics").status, 200);
    program.end();
}

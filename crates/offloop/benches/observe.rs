//! Measures the cost of the live view: of a look, of a server that nobody looks at, and of a job meanwhile.
//!
//! ```text
//! cargo bench -p offloop --features observe --bench observe              # a minute; results to quote
//! cargo bench -p offloop --features observe --bench observe -- --quick   # seconds; a smoke run
//! ```
//!
//! The program has two thread pools with 64 threads, all of which have a job, and a process pool with 8 workers. A *look*
//! is one snapshot: in the process, as JSON, or by the server's socket with all that carries it, the client included. Its
//! cost is CPU time of the whole process; at one look a second, a millisecond is 0.1 % of a core. A *job* is one of a
//! burst of calls that do nothing, on a further pool. The rounds of all settings take turns. A result is the median over
//! the rounds; of jobs it is the least, since other programs on the machine only add to it.

#[allow(dead_code, unused_imports, reason = "each bench uses its own part")]
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use offloop::observe::{self, Server};
use offloop::{Handle, ProcessPool, ThreadPool};
use support::{Effort, median};

/// The amount of work that is measured.
struct Plan {
    rounds: usize,
    looks: u32,
    idle: Duration,
    jobs: u32,
}

#[offloop::task]
fn nothing() {}

/// The pools to look at, with jobs that wait for the end.
struct Program {
    _ends: Vec<Sender<()>>,
    _jobs: Vec<Handle<()>>,
    _pools: (ThreadPool, ThreadPool, ProcessPool),
}

impl Program {
    fn start() -> Self {
        let pool = |name| ThreadPool::builder().name(name).max_workers(32).build().expect("valid settings");
        let (reads, writes) = (pool("reads"), pool("writes"));
        let (mut ends, mut jobs) = (Vec::new(), Vec::new());
        for number in 0..64 {
            let (send, receive) = channel();
            let pool = if number % 2 == 0 { &reads } else { &writes };
            let work = move || receive.recv().unwrap_or_default();
            jobs.push(pool.run(offloop::prepare(work).name("wait").request(format!("request-{number}"))));
            ends.push(send);
        }
        let processes =
            ProcessPool::builder().name("processes").max_workers(8).build().expect("valid settings");
        while reads.metrics().running + writes.metrics().running < 64 || processes.metrics().workers.idle < 8
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..100 {
            processes.run(nothing.with()).wait().expect("it does nothing");
        }
        Self { _ends: ends, _jobs: jobs, _pools: (reads, writes, processes) }
    }
}

fn main() {
    offloop::init();
    let effort = Effort::from_arguments();
    let plan = Plan {
        rounds: effort.pick(2, 9),
        looks: effort.pick(20, 200),
        idle: effort.pick(Duration::from_millis(300), Duration::from_secs(2)),
        jobs: effort.pick(5_000, 200_000),
    };
    let _program = Program::start();
    println!("| what | cost | of a core at one a second, % |");
    println!("| --- | --: | --: |");
    looks(&plan);
    idle(&plan);
    jobs(&plan);
}

fn looks(plan: &Plan) {
    let server = Server::builder().service("observe-bench").start().expect("a server");
    let path = server.socket_path().expect("it has a socket").to_owned();
    let looks: [(&str, &dyn Fn()); 3] = [
        ("a snapshot", &|| drop(observe::snapshot())),
        ("a snapshot as JSON", &|| drop(observe::snapshot().to_json())),
        ("a snapshot by the socket", &|| ask(&path)),
    ];
    let mut results = looks.map(|_| Vec::new());
    for _ in 0..=plan.rounds {
        for ((_, look), results) in looks.iter().zip(&mut results) {
            let before = cpu_time();
            (0..plan.looks).for_each(|_| look());
            results.push(cpu_time().saturating_sub(before).as_secs_f64() * 1e3 / f64::from(plan.looks));
        }
    }
    for ((name, _), results) in looks.iter().zip(results) {
        // The first round does not count.
        let millis = median(results[1..].to_vec());
        println!("| {name} | {millis:.3} ms | {:.4} |", millis / 10.0);
    }
}

/// Asks for a snapshot as `offloop top` does.
fn ask(path: &Path) {
    let mut stream = UnixStream::connect(path).expect("the server");
    stream.write_all(b"GET /snapshot HTTP/1.1\r\n\r\n").expect("the server reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server answers");
    assert!(answer.len() > 10_000, "it is about all pools");
}

/// Measures the CPU time of a process that does nothing, with and without a server.
fn idle(plan: &Plan) {
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..=plan.rounds {
        for (with, results) in [false, true].into_iter().zip(&mut results) {
            let _server = with.then(|| Server::builder().service("observe-bench").start().expect("a server"));
            let before = cpu_time();
            std::thread::sleep(plan.idle);
            results.push(cpu_time().saturating_sub(before).as_secs_f64() / plan.idle.as_secs_f64() * 100.0);
        }
    }
    let [without, with] = results.map(|results| median(results[1..].to_vec()));
    println!("| doing nothing, no server | {without:.4} % CPU | |");
    println!("| doing nothing, a server that nobody looks at | {with:.4} % CPU | |");
}

/// Measures the time of a job: without a server, with one, and while somebody looks each second.
fn jobs(plan: &Plan) {
    let pool = ThreadPool::builder().name("burst").max_workers(1).build().expect("valid settings");
    let mut results = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..=plan.rounds {
        for (at, results) in results.iter_mut().enumerate() {
            let _server =
                (at > 0).then(|| Server::builder().service("observe-bench").start().expect("a server"));
            let stop = AtomicBool::new(at < 2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        observe::snapshot();
                        std::thread::park_timeout(Duration::from_secs(1));
                    }
                });
                let begun = Instant::now();
                for _ in 0..plan.jobs / 1000 {
                    let handles: Vec<_> = (0..1000).map(|_| pool.run(|| ())).collect();
                    for handle in handles {
                        handle.wait().expect("it does nothing");
                    }
                }
                results.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(plan.jobs));
                stop.store(true, Ordering::Relaxed);
            });
        }
    }
    let names = ["a job, no server", "a job, a server that nobody looks at", "a job, one look a second"];
    for (name, results) in names.into_iter().zip(results) {
        let least = results[1..].iter().copied().fold(f64::INFINITY, f64::min);
        println!("| {name} | {least:.0} ns | |");
    }
}

/// Returns the CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}

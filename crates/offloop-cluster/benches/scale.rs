//! Shows where a cluster bends: 100 to 10,000 workers on one server, and on three that keep each stream together. The
//! servers, the clients and the workers are real. Only the jobs are not: a worker ends one at once, without a process, and
//! many workers share a program, each with a connection of its own.
//!
//! ```text
//! cargo bench -p offloop-cluster --bench scale                            # all sizes
//! cargo bench -p offloop-cluster --bench scale -- --workers 100,300      # these
//! cargo bench -p offloop-cluster --bench scale -- --queues 10            # with the workers divided among ten queues
//! cargo bench -p offloop-cluster --bench scale -- --quick                # a smoke run
//! ```
//!
//! - *There after*: from the start of the first program until the server knows all workers.
//! - *Idle*: the processor time of the servers, and of all workers together, while no job is there: presence, and requests
//!   for jobs.
//! - *A job each*: the same while each worker runs a job: it renews its hold on that every three seconds.
//! - *No-op*: the median round trip of one job at a time. *Jobs a second*: the best of three bursts of 2000.
//! - *Memory*: of the servers with all workers connected, as proportional set size (PSS).
//! - *Remembered job*: the growth of the servers' memory for each job that has ended, on each server.

#[allow(dead_code, reason = "each bench needs a part")]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use offloop::ErrorKind;
use offloop::remote::{Answer, NamedCall};
use offloop_cluster::records::Job;
use offloop_cluster::worker::{Offer, Performer, Ran, Run, Running, Worker};
use offloop_cluster::{Cluster, ClusterHandle, Connection};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Killed, PATIENCE, Servers, median, memory, processor_time, wait_for};

const NOOP: &str = "scale:noop";
const STAY: &str = "scale:stay";

/// The greatest number of workers in a program.
const IN_PROGRAM: usize = 2500;

const BURST: usize = 2000;

/// The amount of work.
struct Plan {
    servers: Vec<usize>,
    workers: Vec<usize>,
    /// The number of queues among which the workers and the jobs are divided.
    queues: usize,
    trips: usize,
    bursts: usize,
    /// The number of jobs whose memory is measured, with the fewest workers.
    remembered: usize,
    /// The time for which processor time is counted.
    watch: Duration,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |option: &str| {
        let at = words.iter().position(|word| word == option)?;
        words.get(at + 1).cloned()
    };
    allow_connections();
    if let Some(count) = after("--agents") {
        let url = after("--url").expect("the URL of the servers");
        let number = |option| after(option).and_then(|it| it.parse().ok()).expect("a number");
        let count = count.parse().expect("a number");
        return host(count, &url, number("--replicas"), number("--queues"));
    }
    let has = |option: &str| words.iter().any(|word| word == option);
    if !support::has_server() {
        return println!("skipped: `nats-server` is not installed");
    }
    let mut plan = if has("--bench") && !has("--quick") {
        Plan {
            servers: vec![1, 3],
            workers: vec![100, 300, 1000, 3000, 10_000],
            queues: 1,
            trips: 50,
            bursts: 3,
            remembered: 20_000,
            watch: Duration::from_secs(15),
        }
    } else {
        Plan {
            servers: vec![1],
            workers: vec![20],
            queues: 2,
            trips: 5,
            bursts: 1,
            remembered: 200,
            watch: Duration::from_secs(1),
        }
    };
    let numbers = |text: String| text.split(',').map(|it| it.parse().expect("a number")).collect();
    if let Some(workers) = after("--workers") {
        plan.workers = numbers(workers);
    }
    if let Some(servers) = after("--servers") {
        plan.servers = numbers(servers);
    }
    if let Some(queues) = after("--queues") {
        plan.queues = queues.parse().expect("a number");
    }
    println!(
        "| servers | queues | workers | all there after, s | idle: servers, % of a core | idle: a worker, µs/s | no-op p50, ms | \
         jobs a second | a job each: servers, % of a core | a job each: a worker, µs/s | memory of a server, MiB | \
         memory of a remembered job, B |"
    );
    println!("| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |");
    for servers in &plan.servers {
        for (number, workers) in plan.workers.iter().enumerate() {
            let remembered = if number == 0 { plan.remembered } else { 0 };
            println!("{}", row(*servers, *workers, remembered, &plan));
        }
    }
}

/// Lets this program, and those that it starts, open as many connections as the system allows.
fn allow_connections() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit that is allowed");
}

fn row(count: usize, workers: usize, remembered: usize, plan: &Plan) -> String {
    let servers = Servers::start(count);
    let begun = Instant::now();
    let programs = programs(workers, &servers.url(), count, plan.queues);
    let cluster = Cluster::builder(servers.url()).name("scale").build().expect("a cluster");
    let mut known = 0;
    while known < workers {
        assert!(
            begun.elapsed() < PATIENCE * 5,
            "{known} of {workers} workers are there after {:?}",
            begun.elapsed()
        );
        // Without an answer in time there is the next one.
        known = cluster.workers().map_or(known, |workers| workers.len());
        sleep(Duration::from_millis(200));
    }
    let there = begun.elapsed();
    eprintln!("{count} servers, {workers} workers: all there after {there:?}");
    let agents: Vec<u32> = programs.iter().map(|it| it.0.id()).collect();
    let load = |what: &str| {
        let before = (processor(&servers.pids()), processor(&agents));
        let begun = Instant::now();
        sleep(plan.watch);
        let passed = begun.elapsed().as_secs_f64();
        let ours = processor(&servers.pids()).saturating_sub(before.0).as_secs_f64() / passed * 100.0;
        let each = processor(&agents).saturating_sub(before.1).as_secs_f64() / passed * 1e6 / number(workers);
        eprintln!("{count} servers, {workers} workers, {what}: {ours:.1} %, {each:.0} µs/s");
        (ours, each)
    };
    let idle = load("idle");
    let held = memory(&servers.pids()) / number(count);
    let submit = |task: &str, count: usize| -> Vec<ClusterHandle<()>> {
        let call = |at: usize| cluster.submit(NamedCall::new(task, &())).queue(queue(at % plan.queues));
        (0..count).map(|at| call(at).send()).collect()
    };
    let run = |count: usize| {
        let handles = submit(NOOP, count);
        for handle in handles {
            handle.into_handle().wait().expect("a result");
        }
    };
    run(20);
    let trips = (0..plan.trips).map(|_| timed(|| run(1))).collect();
    let trip = median(trips) * 1e3;
    let rates = (0..plan.bursts).map(|_| number(BURST) / timed(|| run(BURST)));
    let rate = rates.fold(0.0, f64::max);
    let each = (remembered > 0).then(|| {
        let before = memory(&servers.pids());
        (0..remembered.div_ceil(BURST)).for_each(|_| run(BURST.min(remembered)));
        sleep(Duration::from_secs(2));
        let jobs = remembered.div_ceil(BURST) * BURST.min(remembered);
        (memory(&servers.pids()) - before) * 1024.0 / number(count) / number(jobs)
    });
    let stay = submit(STAY, workers);
    wait_for("the start of a job on each worker", || (cluster.running() == workers).then_some(()));
    let busy = load("a job each");
    drop(stay);
    let each = each.map_or_else(|| "–".to_owned(), |each| format!("{each:.0}"));
    format!(
        "| {count} | {} | {workers} | {:.1} | {:.1} | {:.0} | {trip:.2} | {rate:.0} | {:.1} | {:.0} | {:.0} | {each} |",
        plan.queues,
        there.as_secs_f64(),
        idle.0,
        idle.1,
        busy.0,
        busy.1,
        held / 1024.0,
    )
}

fn processor(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| processor_time(*pid)).sum()
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Returns the name of a queue.
fn queue(at: usize) -> String {
    format!("queue-{at}")
}

/// Starts programs that have this number of workers together.
fn programs(workers: usize, url: &str, replicas: usize, queues: usize) -> Vec<Killed> {
    let own = std::env::current_exe().expect("the path of this program");
    let count = workers.div_ceil(IN_PROGRAM);
    let shares = (0..count).map(|at| workers / count + usize::from(at < workers % count));
    shares
        .map(|share| {
            let mut command = Command::new(&own);
            command.args(["--agents", &share.to_string(), "--url", url]);
            command.args(["--replicas", &replicas.to_string(), "--queues", &queues.to_string()]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
            let mut program = Killed(child.expect("a program with workers"));
            // So that not all lay the streams out at once.
            let mut ready = String::new();
            let output = program.0.stdout.as_mut().expect("a pipe");
            BufReader::new(output).read_line(&mut ready).expect("a line");
            program
        })
        .collect()
}

/// Runs this number of workers, until the program is killed.
fn host(count: usize, url: &str, replicas: usize, queues: usize) {
    let replicas = u32::try_from(replicas).expect("few servers");
    let worker = |number: usize| {
        let builder = Worker::builder(Connection::to(url).replicas(replicas)).slots(1).performer(Nothing);
        let builder = builder.queue(queue(number % queues), 1);
        builder.name(format!("{}-{number}", std::process::id())).build().expect("a worker")
    };
    let _workers: Vec<Worker> = (0..count).map(worker).collect();
    println!("ready");
    std::io::stdout().flush().expect("a reader");
    loop {
        std::thread::park();
    }
}

/// Ends jobs at once, or not until they are killed.
struct Nothing;

impl Performer for Nothing {
    fn offers(&self) -> Vec<Offer> {
        [NOOP, STAY].map(|task| Offer { task: task.to_owned(), signature: None }).into()
    }

    fn has(&self, job: &Job) -> bool {
        [NOOP, STAY].contains(&&*job.task)
    }

    fn perform(&self, job: &Job, _arguments: Vec<u8>, run: Run) -> Result<Box<dyn Running>, ErrorKind> {
        if job.task == STAY {
            return Ok(Box::new(Stays(Mutex::new(Some(run)))));
        }
        // Nil in MessagePack, which is what `()` is there.
        run.end(Ran::new(Ok(Answer::new(vec![0xc0]))));
        Ok(Box::new(Stays(Mutex::default())))
    }
}

/// A job that stays until it is killed.
struct Stays(Mutex<Option<Run>>);

impl Running for Stays {
    fn kill(&self, _at_once: bool) {
        if let Some(run) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            run.end(Ran::new(Err(ErrorKind::Cancelled)));
        }
    }
}

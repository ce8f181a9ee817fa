//! Shows that nothing grows faster than the work: more queued jobs, more workers, more threads.
//!
//! ```text
//! cargo bench -p offloop --bench growth              # a minute; results to quote
//! cargo bench -p offloop --bench growth -- --quick   # seconds; a smoke run
//! ```
//!
//! *Queued jobs*: all workers of a pool of two are held, no-ops are submitted, and the workers are let go. The memory is
//! what the program has grown by for each job and its handle, all of which are kept. *Workers* and *threads*: the pool
//! has that many, each of which has run a job, and is given a burst of no-ops. The memory is what a worker or a thread
//! has for itself. *Pools made and shut down*: one after another, each with a worker that runs a no-op. The memory is
//! what the program has grown by for each pool, after the first ones. A *shutdown* with queued jobs removes them; without,
//! it ends the idle workers. Each setting is measured in a process of its own. The rounds of all settings of a kind take
//! turns; a result is the median.

#[allow(dead_code, unused_imports, reason = "each bench uses its own part")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread::sleep;
use std::time::{Duration, Instant};

use offloop::{Handle, ProcessPool, ThreadPool};
use support::{Effort, field, median};

/// The number of jobs of a burst that is given to a number of workers.
const BURST: usize = 20_000;
const WORKERS: usize = 2;
/// More than any row queues.
const CAPACITY: usize = 4_000_000;
const LONG: Duration = Duration::from_secs(600);

#[offloop::task]
fn nothing() {}

/// Returns when a file is gone.
#[offloop::task]
fn held_by(file: PathBuf) {
    while file.exists() {
        sleep(Duration::from_millis(1));
    }
}

/// The costs of a setting in one round.
struct Cost {
    /// KiB for each job, worker or thread.
    memory: f64,
    /// Microseconds from the submission of all jobs to the last result, for each job, but for the time that workers are held.
    job: f64,
    /// Milliseconds.
    shutdown: f64,
}

/// A kind of row: its name, its sizes, of which a quick run takes the first, and how it is measured.
type Kind = (&'static str, &'static [usize], fn(usize) -> Cost);

/// The numbers of queued jobs.
const JOBS: &[usize] = &[1000, 2000, 10_000, 100_000, 1_000_000];

/// The numbers of pools that are made one after another.
const POOLS: &[usize] = &[20, 100, 500];
/// The pools that are made before the memory is measured, because the next ones use what they leave.
const FIRST_POOLS: usize = 10;

const KINDS: [Kind; 6] = [
    ("jobs queued for threads", JOBS, queued_for_threads),
    ("jobs queued for processes", JOBS, queued_for_processes),
    ("threads", &[1, 4, 16, 64, 256, 512], threads),
    ("worker processes", &[1, 4, 16, 64, 256], workers),
    ("thread pools made and shut down", POOLS, thread_pools),
    ("process pools made and shut down", POOLS, process_pools),
];

fn main() {
    offloop::init();
    let arguments: Vec<_> = std::env::args().skip_while(|it| it != MEASURE).skip(1).collect();
    if let [at, size] = &arguments[..] {
        let (at, size) = (at.parse::<usize>().expect("a number"), size.parse().expect("a number"));
        let Cost { memory, job, shutdown } = KINDS[at].2(size);
        println!("{memory} {job} {shutdown}");
        return;
    }
    let effort = Effort::from_arguments();
    println!("| what | how many | memory for each, KiB | µs a job | shutdown, ms |");
    println!("| --- | --: | --: | --: | --: |");
    for (at, (name, sizes, _)) in KINDS.iter().enumerate() {
        let sizes = &sizes[..effort.pick(2, sizes.len())];
        let rounds = effort.pick(1, 5);
        let costs: Vec<Vec<_>> =
            (0..rounds).map(|_| sizes.iter().map(|size| measured(at, *size)).collect()).collect();
        for (at, size) in sizes.iter().enumerate() {
            let of = |value: fn(&Cost) -> f64| median(costs.iter().map(|round| value(&round[at])));
            let (memory, job, shutdown) = (of(|it| it.memory), of(|it| it.job), of(|it| it.shutdown));
            println!("| {name} | {size} | {memory:.2} | {job:.2} | {shutdown:.1} |");
        }
    }
}

/// The argument of a process that measures one setting.
const MEASURE: &str = "--measure";

/// Measures in a process of its own, so that no memory is there to be used again.
fn measured(kind: usize, size: usize) -> Cost {
    let program = std::env::current_exe().expect("this program");
    let arguments = [MEASURE, &kind.to_string(), &size.to_string()];
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output().expect("it starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = printed.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [memory, job, shutdown] = numbers[..] else { panic!("it prints three numbers, not {printed:?}") };
    Cost { memory, job, shutdown }
}

fn thread_pool(threads: usize) -> ThreadPool {
    let builder = ThreadPool::builder().min_workers(threads).max_workers(threads);
    builder.queue_capacity(CAPACITY).build().expect("valid settings")
}

fn process_pool(workers: usize) -> ProcessPool {
    let builder = ProcessPool::builder().min_workers(workers).max_workers(workers);
    builder.queue_capacity(CAPACITY).build().expect("a pool")
}

fn queued_for_threads(jobs: usize) -> Cost {
    let hold = |pool: &ThreadPool| {
        let barrier = Arc::new(Barrier::new(WORKERS + 1));
        for _ in 0..WORKERS {
            let barrier = Arc::clone(&barrier);
            pool.run(move || {
                barrier.wait();
            })
            .detach();
        }
        while pool.metrics().running < WORKERS {
            sleep(Duration::from_millis(1));
        }
        move || {
            barrier.wait();
        }
    };
    queued(
        jobs,
        || thread_pool(WORKERS),
        hold,
        |pool| pool.run(|| ()),
        |pool, drain| drop(pool.shutdown(drain).wait()),
    )
}

fn queued_for_processes(jobs: usize) -> Cost {
    let hold = |pool: &ProcessPool| {
        let file = std::env::temp_dir().join(format!("offloop-growth-{}", process::id()));
        fs::write(&file, "").expect("a file");
        (0..WORKERS).for_each(|_| pool.run(held_by.with(file.clone())).detach());
        while pool.metrics().running < WORKERS {
            sleep(Duration::from_millis(1));
        }
        move || fs::remove_file(file).expect("the file")
    };
    queued(
        jobs,
        || process_pool(WORKERS),
        hold,
        |pool| pool.run(nothing.with()),
        |pool, drain| drop(pool.shutdown(drain).wait()),
    )
}

/// Measures a pool with queued jobs. `hold` makes its workers wait, until what it returns is called.
fn queued<P, G: FnOnce()>(
    jobs: usize,
    make: impl Fn() -> P,
    hold: impl Fn(&P) -> G,
    submit: impl Fn(&P) -> Handle<()>,
    shutdown: impl Fn(&P, Duration),
) -> Cost {
    let pool = make();
    let let_go = hold(&pool);
    let mut handles = Vec::with_capacity(jobs);
    let before = own_memory();
    let begun = Instant::now();
    handles.extend((0..jobs).map(|_| submit(&pool)));
    let submitting = begun.elapsed();
    let memory = (own_memory() - before) / to_f64(jobs);
    let begun = Instant::now();
    let_go();
    for handle in handles {
        handle.wait().expect("it does nothing");
    }
    let job = (submitting + begun.elapsed()).as_secs_f64() * 1e6 / to_f64(jobs);
    shutdown(&pool, LONG);

    // Another one, which is shut down with all jobs in its queue.
    let pool = make();
    let let_go = hold(&pool);
    let handles: Vec<_> = (0..jobs).map(|_| submit(&pool)).collect();
    let begun = Instant::now();
    let_go();
    shutdown(&pool, Duration::ZERO);
    let shutdown = begun.elapsed().as_secs_f64() * 1e3;
    drop(handles);
    Cost { memory, job, shutdown }
}

fn threads(count: usize) -> Cost {
    let before = own_memory();
    let pool = thread_pool(count);
    let barrier = Arc::new(Barrier::new(count));
    // Each of them has run a job.
    let jobs = (0..count).map(|_| {
        let barrier = Arc::clone(&barrier);
        pool.run(move || {
            barrier.wait();
        })
    });
    for job in jobs.collect::<Vec<_>>() {
        job.wait().expect("it waits");
    }
    let memory = (own_memory() - before) / to_f64(count);
    let job = burst(|| pool.run(|| ()));
    let begun = Instant::now();
    drop(pool.shutdown(LONG).wait());
    Cost { memory, job, shutdown: begun.elapsed().as_secs_f64() * 1e3 }
}

fn workers(count: usize) -> Cost {
    let pool = process_pool(count);
    while pool.metrics().workers.idle < count {
        sleep(Duration::from_millis(1));
    }
    let job = burst(|| pool.run(nothing.with()));
    let memory =
        pool.worker_pids().into_iter().map(|pid| memory_of(Path::new(&format!("/proc/{pid}")))).sum::<f64>();
    let begun = Instant::now();
    drop(pool.shutdown(LONG).wait());
    Cost { memory: memory / to_f64(count), job, shutdown: begun.elapsed().as_secs_f64() * 1e3 }
}

fn thread_pools(count: usize) -> Cost {
    let job = |pool: &ThreadPool| pool.run(|| ()).wait().expect("it does nothing");
    pools(count, || thread_pool(1), job, |pool| drop(pool.shutdown(LONG).wait()))
}

fn process_pools(count: usize) -> Cost {
    let job = |pool: &ProcessPool| pool.run(nothing.with()).wait().expect("it does nothing");
    pools(count, || process_pool(1), job, |pool| drop(pool.shutdown(LONG).wait()))
}

/// Measures pools that are made one after another. The time of a job has the making of its pool.
fn pools<P>(count: usize, make: impl Fn() -> P, run: impl Fn(&P), shutdown: impl Fn(P)) -> Cost {
    let one = || {
        let begun = Instant::now();
        let pool = make();
        run(&pool);
        let job = begun.elapsed();
        let begun = Instant::now();
        shutdown(pool);
        (job, begun.elapsed())
    };
    for _ in 0..FIRST_POOLS {
        one();
    }
    let before = own_memory();
    let times: Vec<_> = (0..count).map(|_| one()).collect();
    let memory = (own_memory() - before) / to_f64(count);
    let (job, shutdown) =
        times.into_iter().fold((Duration::ZERO, Duration::ZERO), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    Cost {
        memory,
        job: job.as_secs_f64() * 1e6 / to_f64(count),
        shutdown: shutdown.as_secs_f64() * 1e3 / to_f64(count),
    }
}

/// Returns the microseconds that a job takes in a burst.
fn burst(submit: impl Fn() -> Handle<()>) -> f64 {
    let begun = Instant::now();
    let handles: Vec<_> = (0..BURST).map(|_| submit()).collect();
    for handle in handles {
        handle.wait().expect("it does nothing");
    }
    begun.elapsed().as_secs_f64() * 1e6 / to_f64(BURST)
}

/// Returns the KiB of memory that this process has for itself.
fn own_memory() -> f64 {
    memory_of(Path::new("/proc/self"))
}

fn memory_of(process: &Path) -> f64 {
    let file = process.join("smaps_rollup").display().to_string();
    field(&file, "Private_Dirty:").unwrap_or_default()
}

fn to_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

//! The contenders, behind one trait, and the workloads that each of them runs.

use std::future::Future;
use std::hint::black_box;
use std::process::Command;
use std::sync::{Arc, Barrier, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use offloop::ThreadPool;
use tokio::runtime::Runtime;

use crate::support::{Spread, field, median, per_second};

pub(crate) const OURS: [&str; 3] = [Run::NAME, RunCpu::NAME, Pool::NAME];
pub(crate) const PEERS: [&str; 3] = [SpawnBlocking::NAME, Unblock::NAME, TokioRayon::NAME];
pub(crate) const BOUNDS: [&str; 1] = [RayonWithLocks::NAME];
pub(crate) const CONTENDERS: [&dyn Contender; 7] =
    [&Run, &RunCpu, &Pool, &SpawnBlocking, &Unblock, &TokioRayon, &RayonWithLocks];

const BURST: u32 = 1000;
const SUBMITTERS: u32 = 16;

/// A way to run a closure on another thread.
trait Way: Copy + Send + Sync + 'static {
    const NAME: &str;
    type Job: Future<Output: Settled> + Send;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job;

    /// Allows for `threads` threads. It is called before anything else in a fresh process. Returns whether there can be
    /// that many.
    fn make_room(self, threads: usize) -> bool;
}

/// The result of awaiting a job. A failed job ends the bench, since it would seem fast.
trait Settled {
    fn settle(self);
}

impl Settled for () {
    fn settle(self) {}
}

impl<E: std::error::Error> Settled for Result<(), E> {
    fn settle(self) {
        self.expect("a no-op succeeds");
    }
}

/// `offloop::run`: the I/O lane.
#[derive(Clone, Copy)]
struct Run;

impl Way for Run {
    const NAME: &str = "run";
    type Job = offloop::Handle<()>;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job {
        offloop::run(work)
    }

    fn make_room(self, threads: usize) -> bool {
        threads <= 512
    }
}

/// `offloop::run_cpu`: the CPU lane.
#[derive(Clone, Copy)]
struct RunCpu;

impl Way for RunCpu {
    const NAME: &str = "run_cpu";
    type Job = offloop::Handle<()>;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job {
        offloop::run_cpu(work)
    }

    fn make_room(self, _: usize) -> bool {
        false
    }
}

/// A thread pool of its own, with two threads.
#[derive(Clone, Copy)]
struct Pool;

impl Way for Pool {
    const NAME: &str = "ThreadPool(2)";
    type Job = offloop::Handle<()>;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job {
        static POOL: OnceLock<ThreadPool> = OnceLock::new();
        // The lanes keep their queues of 10,000 jobs, in which 16 bursts do not fit.
        let build = || ThreadPool::builder().max_workers(2).queue_capacity(100_000).build().expect("a pool");
        POOL.get_or_init(build).run(work)
    }

    fn make_room(self, _: usize) -> bool {
        false
    }
}

/// `tokio::task::spawn_blocking`.
#[derive(Clone, Copy)]
struct SpawnBlocking;

impl Way for SpawnBlocking {
    const NAME: &str = "spawn_blocking";
    type Job = tokio::task::JoinHandle<()>;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job {
        tokio::task::spawn_blocking(work)
    }

    fn make_room(self, threads: usize) -> bool {
        threads <= 512
    }
}

/// `blocking::unblock`.
#[derive(Clone, Copy)]
struct Unblock;

impl Way for Unblock {
    const NAME: &str = "unblock";
    type Job = blocking::Task<()>;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job {
        blocking::unblock(work)
    }

    fn make_room(self, threads: usize) -> bool {
        threads <= 500
    }
}

/// `tokio_rayon::spawn`: rayon's global pool, with one thread per core.
#[derive(Clone, Copy)]
struct TokioRayon;

impl Way for TokioRayon {
    const NAME: &str = "tokio-rayon";
    type Job = tokio_rayon::AsyncRayonHandle<()>;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job {
        tokio_rayon::spawn(work)
    }

    fn make_room(self, threads: usize) -> bool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().is_ok()
    }
}

/// tokio-rayon, with as many locked instructions and readings of the clock for each job as a job of offloop has, so that it
/// can be cancelled, limited and measured.
#[derive(Clone, Copy)]
struct RayonWithLocks;

impl RayonWithLocks {
    /// The number of locks that are taken and released on each side.
    const LOCKS: usize = 7;

    fn lock() {
        let lock = Mutex::new(0u64);
        for _ in 0..Self::LOCKS {
            *black_box(&lock).lock().expect("no holder panics") += 1;
        }
    }
}

impl Way for RayonWithLocks {
    const NAME: &str = "rayon + locks";
    type Job = tokio_rayon::AsyncRayonHandle<()>;

    fn submit(self, work: impl FnOnce() + Send + 'static) -> Self::Job {
        black_box(Instant::now());
        Self::lock();
        tokio_rayon::spawn(|| {
            black_box(Instant::now());
            work();
            black_box(Instant::now());
            Self::lock();
        })
    }

    fn make_room(self, _: usize) -> bool {
        false
    }
}

/// A way with its type erased. It costs one virtual call per measurement and none per job.
pub(crate) trait Contender: Sync {
    fn name(&self) -> &'static str;
    /// Measures jobs that are submitted and awaited one after another.
    fn round_trips(&self, runtime: &Runtime, trips: usize) -> Spread;
    /// Returns the number of jobs per second: the median of some bursts from one task.
    fn bursts(&self, runtime: &Runtime, bursts: usize) -> f64;
    /// Returns the number of jobs per second, for bursts from several tasks of the runtime at the same time.
    fn crowd_of_tasks(&self, runtime: &Runtime, bursts: u32) -> f64;
    /// Returns the number of jobs per second, for bursts from several threads outside of the runtime at the same time.
    fn crowd_of_threads(&self, runtime: &Runtime, bursts: u32) -> f64;
    /// Returns the memory of an idle thread, measured in a process of its own. Returns `None` if this way cannot have
    /// that many threads.
    fn idle_thread_kib(&self, threads: usize) -> Option<f64>;
    /// Measures that memory, in the child process.
    fn measure_memory(&self, threads: usize) -> Option<f64>;
}

impl<W: Way> Contender for W {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn round_trips(&self, runtime: &Runtime, trips: usize) -> Spread {
        let way = *self;
        runtime.block_on(async move {
            let mut times = Vec::with_capacity(trips);
            for _ in 0..trips {
                let begin = Instant::now();
                way.submit(|| ()).await.settle();
                times.push(begin.elapsed());
            }
            Spread::of(times)
        })
    }

    fn bursts(&self, runtime: &Runtime, bursts: usize) -> f64 {
        let way = *self;
        runtime.block_on(async move {
            let mut rates = Vec::with_capacity(bursts);
            for _ in 0..bursts {
                let begin = Instant::now();
                burst(way).await;
                rates.push(per_second(BURST, begin.elapsed()));
            }
            median(rates)
        })
    }

    fn crowd_of_tasks(&self, runtime: &Runtime, bursts: u32) -> f64 {
        let way = *self;
        runtime.block_on(async move {
            let begin = Instant::now();
            let submitter = |_| {
                tokio::spawn(async move {
                    for _ in 0..bursts {
                        burst(way).await;
                    }
                })
            };
            let submitters: Vec<_> = (0..SUBMITTERS).map(submitter).collect();
            for submitter in submitters {
                submitter.await.expect("a submitter does not panic");
            }
            per_second(SUBMITTERS * bursts * BURST, begin.elapsed())
        })
    }

    fn crowd_of_threads(&self, runtime: &Runtime, bursts: u32) -> f64 {
        let way = *self;
        let start = Barrier::new(SUBMITTERS as usize + 1);
        let begin = thread::scope(|scope| {
            for _ in 0..SUBMITTERS {
                scope.spawn(|| {
                    let _context = runtime.enter();
                    start.wait();
                    for _ in 0..bursts {
                        block_on(burst(way));
                    }
                });
            }
            // The clock is read before the barrier, since this thread may be the last to run after it.
            let begin = Instant::now();
            start.wait();
            begin
        });
        per_second(SUBMITTERS * bursts * BURST, begin.elapsed())
    }

    fn idle_thread_kib(&self, threads: usize) -> Option<f64> {
        let this = std::env::current_exe().expect("a running program has a path");
        let arguments = [MEMORY_OF, W::NAME, &threads.to_string()];
        let output = Command::new(this).args(arguments).output().expect("the bench starts itself");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    }

    fn measure_memory(&self, threads: usize) -> Option<f64> {
        let way = *self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (memory, others) = (anonymous_kib()?, thread_count()?);
        if !way.make_room(threads) {
            return None;
        }
        let gate = Arc::new(Gate::default());
        runtime.block_on(async {
            let job = |_| {
                let gate = Arc::clone(&gate);
                way.submit(move || gate.pass(threads))
            };
            let jobs: Vec<_> = (0..threads).map(job).collect();
            for job in jobs {
                job.await.settle();
            }
        });
        // The threads have run their jobs, but they may not be idle yet.
        thread::sleep(Duration::from_millis(200));
        Some((anonymous_kib()? - memory) / (thread_count()? - others))
    }
}

async fn burst(way: impl Way) {
    let jobs: Vec<_> = (0..BURST).map(|_| way.submit(|| ())).collect();
    for job in jobs {
        job.await.settle();
    }
}

const MEMORY_OF: &str = "--memory-of";

/// Measures and prints, if this process is a child started by [`Contender::idle_thread_kib`]. Returns whether it is.
pub(crate) fn measure_memory_if_asked() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, name, threads] = &arguments[..] else { return false };
    if flag != MEMORY_OF {
        return false;
    }
    let contender = CONTENDERS.iter().find(|contender| contender.name() == name).expect("a contender's name");
    match contender.measure_memory(threads.parse().expect("a number of threads")) {
        Some(kib) => println!("{kib}"),
        None => println!("–"),
    }
    true
}

/// A gate that opens when a given number of jobs wait at it, so that each of them has a thread of its own.
#[derive(Default)]
struct Gate {
    inside: Mutex<usize>,
    full: Condvar,
}

impl Gate {
    /// Waits until `threads` jobs wait here, or for 5 s, in case the pool does not start that many threads.
    fn pass(&self, threads: usize) {
        let mut inside = self.inside.lock().expect("no holder panics");
        *inside += 1;
        self.full.notify_all();
        let limit = Duration::from_secs(5);
        drop(self.full.wait_timeout_while(inside, limit, |inside| *inside < threads));
    }
}

/// Returns the size of the anonymous pages of this process: heaps and stacks, without the program's code.
fn anonymous_kib() -> Option<f64> {
    field("/proc/self/smaps_rollup", "Anonymous:")
}

fn thread_count() -> Option<f64> {
    field("/proc/self/status", "Threads:")
}

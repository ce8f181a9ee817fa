//! Two jobs in five places each, with the greatest lateness of the event loop beside each.
//!
//! `cargo run --release --example quickstart`

mod support;

use std::error::Error;
use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

use offloop::{Executor, Job, ProcessPool, Rejected, ThreadPool};
use support::{Heartbeat, milliseconds};

/// A blocking call. A device cannot be read without blocking.
fn blocking_io() -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 100];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The same as a task, for another process. An error is sent as text.
#[offloop::task]
fn blocking_io_task() -> Result<Vec<u8>, String> {
    blocking_io().map_err(|error| error.to_string())
}

/// A call that computes. The sum for 10,000,000 does not fit into 64 bits.
#[offloop::task]
fn cpu_bound(n: u64) -> u128 {
    // The compiler would replace this sum by a formula. The black box prevents that.
    (0..n).map(|i| u128::from(black_box(i)).pow(2)).sum()
}

const N: u64 = 10_000_000;

/// An executor of your own: it passes each job on and prints how long the job took.
struct Timed<E>(E);

impl<E: Executor> Executor for Timed<E> {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        let name = job.name().to_owned();
        self.0.execute(job.around(move |run| {
            let began = Instant::now();
            run();
            eprintln!("  (the custom executor ran `{name}` in {})", milliseconds(began.elapsed()));
        }))
    }
}

struct Row {
    place: &'static str,
    job: &'static str,
    result: String,
    took: Duration,
    late: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    // A process that was started as a worker of a pool runs its jobs here and never returns.
    offloop::init();
    let rows = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure())?;
    print(&rows);
    Ok(())
}

async fn measure() -> Result<Vec<Row>, Box<dyn Error>> {
    let threads = ThreadPool::builder().max_workers(4).build()?;
    let processes = ProcessPool::builder().max_workers(2).build()?;
    let custom = Timed(threads.clone());
    // The workers start in the background. A first job waits for that, so that the table shows calls and not starts.
    processes.run(cpu_bound.with(1)).await?;

    let heart = Heartbeat::start();
    let mut rows = Vec::new();
    let mut io = |place, (bytes, took, late): (Vec<u8>, _, _)| {
        rows.push(Row { place, job: "read 100 bytes", result: format!("{} bytes", bytes.len()), took, late });
    };
    let flat = |(result, took, late): (Result<std::io::Result<Vec<u8>>, offloop::Error>, _, _)| {
        Ok::<_, Box<dyn Error>>((result??, took, late))
    };
    io("directly on the loop", flat(heart.measure(async { Ok(blocking_io()) }).await)?);
    io("default executor", flat(heart.measure(offloop::run(blocking_io)).await)?);
    io("thread pool", flat(heart.measure(offloop::run_in_executor(&threads, blocking_io)).await)?);
    let (bytes, took, late) =
        heart.measure(offloop::run_in_executor(&processes, blocking_io_task.with())).await;
    io("process pool", (bytes??, took, late));
    io("custom executor", flat(heart.measure(offloop::run_in_executor(&custom, blocking_io)).await)?);

    let mut cpu = |place, (sum, took, late): (u128, _, _)| {
        rows.push(Row { place, job: "sum of squares", result: sum.to_string(), took, late });
    };
    cpu("directly on the loop", heart.measure(async { cpu_bound(N) }).await);
    let flat =
        |(sum, took, late): (Result<u128, offloop::Error>, _, _)| Ok::<_, offloop::Error>((sum?, took, late));
    cpu("default executor", flat(heart.measure(offloop::run_cpu(|| cpu_bound(N))).await)?);
    cpu("thread pool", flat(heart.measure(offloop::run_in_executor(&threads, || cpu_bound(N))).await)?);
    cpu("process pool", flat(heart.measure(offloop::run_in_executor(&processes, cpu_bound.with(N))).await)?);
    cpu("custom executor", flat(heart.measure(offloop::run_in_executor(&custom, || cpu_bound(N))).await)?);
    Ok(rows)
}

fn print(rows: &[Row]) {
    println!("{:<22}{:<16}{:>24}{:>12}{:>20}", "where", "job", "result", "took", "loop late at worst");
    for Row { place, job, result, took, late } in rows {
        let (took, late) = (milliseconds(*took), milliseconds(*late));
        println!("{place:<22}{job:<16}{result:>24}{took:>12}{late:>20}");
    }
}

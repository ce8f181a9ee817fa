//! A watch on both runtimes of tokio finds three blocking calls, while they block.
//!
//! ```text
//! cargo run --release --features watch-stacks --example watchdog
//! ```
//!
//! Each report names the thread and the task, the duration so far, whether the thread computes or waits, and the call that
//! belongs in its place. The stack shows the line.

use std::error::Error;
use std::hint::black_box;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use offloop::watch::{RuntimeWatch, RuntimeWatchBuilder, Stall, StallPhase};
use tokio::runtime::{self, Runtime};

fn main() -> Result<(), Box<dyn Error>> {
    println!("A current-thread runtime:\n");
    let watching = watching();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = watching.start(runtime.handle())?;
    block_the_loop(&watch, &runtime)?;

    println!("A multi-thread runtime:\n");
    let watching = self::watching();
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_park(watching.on_thread_park()) // so that each worker's thread is known
        .enable_all()
        .build()?;
    let watch = watching.start(runtime.handle())?;
    block_the_loop(&watch, &runtime)
}

fn watching() -> RuntimeWatchBuilder {
    RuntimeWatchBuilder::new().threshold(Duration::from_millis(100)).stacks(true).on_stall(print)
}

/// Is called by the watch's thread. (With the feature `tracing` the same goes to the program's subscriber.)
fn print(stall: &Stall) {
    if stall.phase != StallPhase::Ongoing {
        println!("{stall}");
    }
    if stall.phase == StallPhase::Began {
        let ours = |name: &&String| name.contains("watchdog::");
        let functions = stall.stack.iter().filter_map(|frame| Some((frame.function.as_ref()?, frame)));
        for (_, frame) in functions.filter(|(name, _)| ours(name)).take(2) {
            println!("    {frame}");
        }
    }
}

/// Does what a loop must not do, each in a task of its own, and then the same the right way.
fn block_the_loop(watch: &RuntimeWatch, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    watch.block_on(runtime, async {
        breathe().await;
        let sleeps = watch.task(async { sleep() }).named("sleeps");
        watch.runtime().spawn(sleeps).await?;
        breathe().await;
        let computes = watch.task(async { black_box(compute()) }).named("computes");
        watch.runtime().spawn(computes).await?;
        breathe().await;
        let reads = watch.task(async { read_a_socket() }).named("reads");
        watch.runtime().spawn(reads).await??;
        breathe().await;

        println!("\nThe same off the loop: nothing to report.\n");
        offloop::run(sleep).await?;
        black_box(offloop::run_cpu(compute).await?);
        offloop::run(read_a_socket).await??;
        Ok(())
    })
}

/// Lets the loop make progress.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

const LONG: Duration = Duration::from_millis(300);

fn sleep() {
    std::thread::sleep(LONG);
}

fn compute() -> u64 {
    let begun = Instant::now();
    let mut sum = 0;
    while begun.elapsed() < LONG {
        sum = (0..1000).fold(sum, |sum, i| black_box(sum ^ i));
    }
    sum
}

/// A peer that takes its time to answer.
fn read_a_socket() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let peer = std::thread::spawn(move || {
        let _peer = listener.accept();
        std::thread::sleep(LONG);
    });
    client.read_to_end(&mut Vec::new())?;
    peer.join().map_err(|_| std::io::ErrorKind::Other.into())
}

//! Torture of the process pool: a mixed load on several pools while faults are injected. An oracle checks every job.
//!
//! ```text
//!   plan: random choices, all from the seed
//!    │
//!    ▼                                faults: kills and stops workers
//! clients ──jobs──▶ pools ──▶ worker processes ◀──┘
//!    │             (used, ended                │
//!    │ outcomes     and replaced)              │ tasks: what jobs do
//!    ▼                                         ▼
//!  oracle ◀──── how often each job ran ──── run_log, in shared memory
//!               when, and beside which others
//! ```
//!
//! A watchdog ends the program when one of the `waits` is a hang, by a `clock` that stands still while the program gets
//! no computing time. What the process holds (`proc`) is compared before and
//! after: processes, descriptors, mappings, threads. The seed replays the choices, but not the timing.

mod clients;
mod clock;
mod faults;
mod handles;
mod havoc;
mod oracle;
mod os;
mod payload;
mod places;
mod plan;
mod pools;
mod proc;
mod report;
mod run_log;
mod tasks;
mod values;
mod waits;
mod world;

use std::io;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use clap::Parser;
use fastrand::Rng;
use rustix::process::{Resource, Rlimit, setrlimit};

use clock::{Meter, Moment, poll_fairly, poll_until};
use os::say;
use proc::Holdings;
use world::{SLOTS, World};

const CLIENTS: usize = 4;

/// The fair time in which processes, threads and descriptors disappear after the run.
const UNTIL_GONE: Duration = Duration::from_secs(15);

#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// The duration of the load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Replays the choices of another run, but not its timing. Default: a random seed, which is printed.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    offloop::init();
    let Arguments { seconds, seed } = Arguments::parse();
    let world: &'static World = Box::leak(Box::new(World::new(seed.unwrap_or_else(|| fastrand::u64(..)))));
    if let Err(error) = prepare(world) {
        say(format!("the torture could not be prepared: {error}"));
        return ExitCode::FAILURE;
    }
    say(format!(
        "torture for {seconds} s with --seed {} (it replays the choices, not the timing)",
        world.seed
    ));
    let (before, memory_before) = (Holdings::now(), proc::memory());
    let began = Moment::now();
    run(world, Duration::from_secs(seconds));
    pools::check_metrics(world);
    let mut surplus = Vec::new();
    poll_fairly(UNTIL_GONE, Duration::from_millis(50), || {
        surplus = Holdings::now().surplus(&before);
        surplus.is_empty()
    });
    for line in surplus {
        world.oracle().report(line);
    }
    world.oracle().audit(run_log::read);
    world.oracle().check_crowds();
    report::print(world, &memory_before, began)
}

/// Prepares what workers inherit while there is only one thread, then starts the watchdog.
fn prepare(world: &'static World) -> io::Result<()> {
    // Used to wait until the watchdog has its name, by which the leak check knows it.
    static STARTED: Barrier = Barrier::new(2);
    os::claim_output()?;
    run_log::create()?;
    // For a backtrace, a process would read tens of megabytes of debug information and keep them.
    for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: this is the only thread.
        unsafe { std::env::remove_var(variable) };
    }
    // Jobs that abort must not fill the disk with core files.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A panic of this process is a discrepancy, unless a job that runs here planned it.
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        if !text.contains(tasks::PLANNED_PANIC) {
            let thread = std::thread::current();
            let text = format!("thread {} {text}", thread.name().unwrap_or("without a name"));
            world::lock(&world.panics).push(text);
        }
    }));
    Builder::new().name("watchdog".to_owned()).spawn(move || {
        STARTED.wait();
        watch(world)
    })?;
    STARTED.wait();
    Ok(())
}

/// Runs the load for this long, then shuts the pools down.
fn run(world: &'static World, duration: Duration) {
    type Body = fn(&'static World, usize, Rng);
    let start = |name: &str, count, body: Body| -> Vec<JoinHandle<()>> {
        let start = |index| {
            let name = format!("{name}-{index}");
            let rng = plan::generator(world.seed, &name);
            let thread = Builder::new().name(name).spawn(move || body(world, index, rng));
            thread.expect("a thread of the torture starts")
        };
        (0..count).map(start).collect()
    };
    // An error of `join` is a panic, which the hook has recorded.
    let join = |threads: Vec<JoinHandle<()>>| threads.into_iter().for_each(|thread| drop(thread.join()));
    let keepers = start("keeper", SLOTS, pools::keep);
    let clients = start("client", CLIENTS, clients::run);
    let faults = start("faults", 1, faults::inject);
    poll_until(duration, Duration::from_millis(50), || world.load_over.load(SeqCst));
    world.load_over.store(true, SeqCst);
    join(clients);
    join(faults);
    world.pools_over.store(true, SeqCst);
    join(keepers);
}

/// Runs the watchdog: moves the fair clock on, and ends the program with a report when a wait is a hang.
fn watch(world: &'static World) -> ! {
    let mut meter = Meter::new();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        meter.tick();
        let overdue = world.waits.overdue();
        if overdue.is_empty() {
            continue;
        }
        say("HUNG");
        let pending = world.oracle().pending(run_log::read);
        for line in [overdue, pending, world.discrepancies(), proc::thread_states()].concat() {
            say(format!("- {line}"));
        }
        // On a thread of its own: asking a pool for its state may hang as well.
        std::thread::spawn(|| {
            for open in (0..SLOTS).filter_map(|slot| world.pool(slot)) {
                say(format!("- pool {}: {:?}", open.number, open.pool));
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        say(format!("--seed {}", world.seed));
        std::process::exit(1);
    }
}

//! The torture of the process pool: a mixed load on several pools while everything goes wrong, then the books.
//!
//! ```text
//!   plan: what is chosen, from the seed alone
//!    │
//!    ▼                                 havoc: kills and stops workers
//!   load ──jobs──▶ pools ──▶ worker processes ◀──┘
//!    │            (kept, ended                │
//!    │ verdicts    and replaced)              │ tasks: what jobs do
//!    ▼                                        ▼
//!   ledger ◀────── who ran how often ────── book, in shared memory
//! ```
//!
//! Beside it a `watchdog` sees to it that nobody waits for ever, and a `census` at both ends that nothing is left: no
//! process, descriptor, mapping or thread. The seed replays the same choices; when each thing happens it cannot replay.

mod autopsy;
mod book;
mod census;
mod clock;
mod havoc;
mod ledger;
mod load;
mod payload;
mod plan;
mod pools;
mod reception;
mod table;
mod tasks;
mod terminal;
mod watchdog;
mod world;

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread::{Builder, Scope};
use std::time::Duration;

use clap::Parser;

use census::Census;
use load::{CLIENTS, Client};
use pools::SLOTS;
use terminal::say;
use world::World;

/// How long the last remains may take to disappear.
const UNTIL_GONE: Duration = Duration::from_secs(15);

#[derive(Parser)]
#[command(about = "Runs a mixed load on process pools while everything goes wrong, then checks the books")]
struct Arguments {
    /// How long the load lasts.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Replays the choices of another run, though not its timing. Default: a random one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    offloop::init();
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    if let Err(error) = prepare() {
        say(&format!("the torture could not be set up: {error}"));
        return ExitCode::FAILURE;
    }
    say(&format!(
        "torture for {} s with --seed {seed} (it replays the choices; timing cannot be replayed)",
        arguments.seconds
    ));
    let world: &'static World = Box::leak(Box::new(World::new(seed)));
    report_panics(world);
    if let Err(error) = start_watch(world) {
        say(&format!("the watchdog did not start: {error}"));
        return ExitCode::FAILURE;
    }
    let before = Census::take();
    let memory_before = memory();
    run(world, Duration::from_secs(arguments.seconds));
    for surplus in remains(&before) {
        world.ledger.complain(surplus);
    }
    world.ledger.audit(book::read);
    report(world, &memory_before)
}

/// Sets up what workers inherit, while there is one thread only.
fn prepare() -> io::Result<()> {
    terminal::claim()?;
    book::open()?;
    // To tell where it panicked, a process reads tens of megabytes of itself and keeps them.
    for backtraces in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: this is the only thread.
        unsafe { std::env::remove_var(backtraces) };
    }
    // Those that abort shall not fill the disk.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live local variable.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Panics of this process are faults, unless a job was told to raise them and runs here.
fn report_panics(world: &'static World) {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        if !text.contains(tasks::ORDERED_PANIC) {
            let thread = std::thread::current();
            world.note_panic(format!("thread {} {text}", thread.name().unwrap_or("without a name")));
        }
    }));
}

/// The load for so long, then the end of all.
fn run(world: &'static World, duration: Duration) {
    std::thread::scope(|scope| {
        let keepers =
            (0..SLOTS).map(|slot| start(scope, format!("keeper-{slot}"), move || pools::keep(world, slot)));
        let keepers: Vec<_> = keepers.collect();
        let clients =
            (0..CLIENTS).map(|i| start(scope, format!("client-{i}"), move || Client::new(world, i).run()));
        let mut others: Vec<_> = clients.collect();
        others.push(start(scope, "havoc".to_owned(), move || havoc::rage(world)));

        clock::poll_until(duration, Duration::from_millis(50), || world.load_is_to_end());
        world.end_load();
        // Whoever panicked is known by its message.
        for thread in others {
            let _ = thread.join();
        }
        world.end_pools();
        for thread in keepers {
            let _ = thread.join();
        }
    });
    pools::audit(world);
}

fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    life: impl FnOnce() + Send + 'scope,
) -> std::thread::ScopedJoinHandle<'scope, ()> {
    Builder::new().name(name).spawn_scoped(scope, life).expect("a thread of the torture starts")
}

/// What is still there when it has had time to go.
fn remains(before: &Census) -> Vec<String> {
    let mut surplus = Vec::new();
    clock::poll_until(UNTIL_GONE, Duration::from_millis(50), || {
        surplus = Census::take().surplus(before);
        surplus.is_empty()
    });
    surplus
}

/// Starts the watchdog; when this returns it has its name, by which the census knows it.
fn start_watch(world: &'static World) -> io::Result<()> {
    let up = Arc::new(Barrier::new(2));
    let is_up = Arc::clone(&up);
    Builder::new().name("torture-watch".into()).spawn(move || {
        is_up.wait();
        watch(world)
    })?;
    up.wait();
    Ok(())
}

/// The life of the watchdog: ends the whole program when somebody waits for too long.
fn watch(world: &'static World) -> ! {
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let overdue = world.watchdog.overdue();
        if overdue.is_empty() {
            continue;
        }
        say("HUNG");
        for line in overdue
            .into_iter()
            .chain(world.ledger.pending())
            .chain(world.faults().0)
            .chain(autopsy::threads())
        {
            say(&format!("- {line}"));
        }
        // A pool that is asked for its state may hang as well.
        std::thread::spawn(|| {
            for open in (0..SLOTS).filter_map(|slot| world.slots.get(slot)) {
                say(&format!("- {}: {:?}", open.number, open.pool));
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        say(&format!("--seed {}", world.seed));
        std::process::exit(1);
    }
}

fn memory() -> String {
    format!("{}, heap in use {}", census::resident(), census::heap_in_use())
}

fn report(world: &World, memory_before: &str) -> ExitCode {
    let totals = world.ledger.totals();
    say(&format!("\n{}", table::render(&totals)));
    say(&format!(
        "workers killed from outside: {} ({} jobs were told of it, {} of them before they had begun), stopped: {}",
        totals.kills, totals.kills_felt, totals.kills_felt_unbegun, totals.stops
    ));
    say(&format!("pools opened: {}, of these shut down: {}, else dropped", totals.pools, totals.shut_down));
    say(&format!("cancelled or dropped while certainly queued, and not run: {}", totals.queued_for_certain));
    if let Some((longest, wait)) = world.watchdog.longest() {
        say(&format!("longest wait: {longest:.1?}, for {wait}"));
    }
    say(&format!("memory at the beginning: {memory_before}, at the end: {}", memory()));
    say(&format!("--seed {}", world.seed));
    let (faults, left_out) = world.faults();
    if faults.is_empty() {
        say("books: clean");
        return ExitCode::SUCCESS;
    }
    say(&format!("books: {} discrepancies", faults.len() + left_out));
    for fault in faults {
        say(&format!("- {fault}"));
    }
    if left_out > 0 {
        say(&format!("and {left_out} more"));
    }
    ExitCode::FAILURE
}

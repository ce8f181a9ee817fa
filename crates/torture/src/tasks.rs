//! The jobs: each records its begin and end in the run log and does what its kind says.

use std::time::Duration;

use offloop::{Blob, ProcessPool};

use crate::clock::wait_fairly;
use crate::havoc;
use crate::payload::{self, mix};
use crate::plan::Kind;
use crate::run_log::{self, record};
use crate::values::{self, Value};

/// How the message of every planned panic begins.
pub(crate) const PLANNED_PANIC: &str = "as planned, job ";

/// The exit status of a job whose worker should have been killed for what it did, and was not within [`LINGER`].
pub(crate) const NOT_KILLED: i32 = 117;

/// A worker may take this long to start. On an overloaded machine it takes long, and that is no fault.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(300);

const LINGER: Duration = Duration::from_millis(500);

#[offloop::task]
pub(crate) fn set_up() {
    std::hint::black_box(std::process::id());
}

#[offloop::task]
pub(crate) fn echo(number: u64, argument: &[u8], sent: usize, wanted: usize) -> Vec<u8> {
    record(number, || {
        if let Err(fault) = payload::check_argument(argument, number, sent) {
            panic!("the argument of job {number} is damaged: {fault}");
        }
        payload::result(number, wanted)
    })
}

#[offloop::task]
pub(crate) fn nap(number: u64, millis: u64) -> Vec<u8> {
    record(number, || {
        std::thread::sleep(Duration::from_millis(millis));
        payload::result(number, 0)
    })
}

#[offloop::task]
pub(crate) fn compute(number: u64, millis: u64) -> Vec<u8> {
    record(number, || {
        let rounds = millis * 100_000;
        std::hint::black_box((0..rounds).fold(number, |value, round| mix(value ^ round)));
        payload::result(number, 0)
    })
}

#[offloop::task]
pub(crate) fn chatter(number: u64, lines: u64) -> Vec<u8> {
    record(number, || {
        for line in 0..lines {
            println!("job {number} prints line {line}");
            eprintln!("job {number} prints error line {line}");
        }
        print!("and this line does not end");
        for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let _ = rustix::io::write(stream, &[0xff; 3000]);
        }
        payload::result(number, 0)
    })
}

/// Runs the job `inner` in a pool of its own, which it shuts down or drops. A forked child may drop its copy before.
#[offloop::task]
pub(crate) fn nest(number: u64, inner: u64, shuts_down: bool, forks: bool) -> Vec<u8> {
    record(number, || {
        if havoc::has_lost_privileges() {
            // It may not start this program any more.
            return record(inner, || payload::result(number, 0));
        }
        let pool = ProcessPool::builder().max_workers(1).start_timeout(START_TIMEOUT).build();
        let pool = pool.expect("a worker can have a pool of its own");
        // A child of the program itself would stay as a zombie.
        if forks && std::process::id() != run_log::main_process() {
            let inherited = pool.clone();
            havoc::fork(move || drop(inherited));
        }
        let mut result = pool.run(nap.with(inner, 1));
        let result = wait_fairly(Duration::from_secs(20), |slice| result.wait_timeout(slice));
        let value = result.expect("the inner job ends in time").expect("the inner job returns");
        assert_eq!(value, payload::result(inner, 0), "the inner job returned another job's value");
        if shuts_down {
            let mut report = pool.shutdown(Duration::from_secs(5));
            let report = wait_fairly(Duration::from_secs(20), |slice| report.wait_timeout(slice));
            report.expect("the inner pool shuts down in time").expect("the inner pool reports");
        }
        payload::result(number, 0)
    })
}

/// Forks a child that lives for this time beside the job, and perhaps longer.
#[offloop::task]
pub(crate) fn fork(number: u64, argument: &[u8], sent: usize, millis: u64) -> Vec<u8> {
    record(number, || {
        let time = Duration::from_millis(millis);
        havoc::fork(|| std::thread::sleep(time));
        if millis % 2 == 0 {
            std::thread::sleep(time);
            havoc::collect_children();
        }
        if let Err(fault) = payload::check_argument(argument, number, sent) {
            panic!("the argument of job {number} is damaged: {fault}");
        }
        payload::result(number, 0)
    })
}

/// Forks a child that drops its copy of the argument, which this job goes on to use.
#[offloop::task]
pub(crate) fn fork_and_drop(number: u64, argument: Blob, sent: usize, millis: u64) -> Vec<u8> {
    record(number, || {
        let mut argument = Some(argument);
        havoc::fork(|| drop(argument.take()));
        std::thread::sleep(Duration::from_millis(millis));
        let bytes = argument.as_deref().unwrap_or_default();
        if let Err(fault) = payload::check_argument(bytes, number, sent) {
            panic!("the argument of job {number} is damaged: {fault}");
        }
        payload::result(number, 0)
    })
}

/// Returns a value of more than bytes.
#[offloop::task]
pub(crate) fn give(number: u64, kind: Kind, variant: u64) -> Value {
    record(number, || values::value(kind, number, variant))
}

/// Leaves its process in another state than it found it, for the jobs after it.
#[offloop::task]
pub(crate) fn degrade(number: u64, kind: Kind, variant: u64) -> Vec<u8> {
    record(number, || {
        match kind {
            Kind::DropPrivileges => havoc::drop_privileges(),
            _ => havoc::lose_signals(variant),
        }
        payload::result(number, 0)
    })
}

/// Does what a job should not do.
#[offloop::task]
pub(crate) fn misbehave(number: u64, kind: Kind, status: i32) -> Vec<u8> {
    record(number, || match kind {
        Kind::Panic => panic!("{PLANNED_PANIC}{number}"),
        Kind::Exit => std::process::exit(status),
        Kind::Abort => std::process::abort(),
        Kind::Segfault => havoc::raise(libc::SIGSEGV),
        Kind::KillSelf => havoc::raise(libc::SIGKILL),
        Kind::Exhaust => havoc::exhaust_memory(),
        Kind::CloseAllReturn => {
            havoc::close_all();
            payload::result(number, 0)
        }
        Kind::CloseAll => {
            havoc::close_all();
            wait_to_be_killed()
        }
        Kind::Garbage => {
            havoc::write_garbage(number);
            wait_to_be_killed()
        }
        Kind::Overrun | Kind::Stubborn | Kind::LeaveBehind => {
            match kind {
                Kind::Stubborn => havoc::ignore_sigterm(),
                Kind::LeaveBehind => havoc::leave_a_process_behind(number),
                _ => {}
            }
            loop {
                std::thread::sleep(Duration::from_secs(600));
            }
        }
        other => unreachable!("{other:?} has a task of its own"),
    })
}

fn wait_to_be_killed() -> ! {
    std::thread::sleep(LINGER);
    // SAFETY: ends this process at once; no code runs afterwards.
    unsafe { libc::_exit(NOT_KILLED) }
}

//! procspawn's pool.

use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use ipc_channel::ipc::IpcSharedMemory;
use procspawn::{JoinHandle, Pool};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_bytes::ByteBuf;

use super::{BURST, Contender, Life, WORKERS, check, life, make, pages};
use crate::support::{Spread, median, per_second};

pub(crate) const PROCSPAWN: &str = "procspawn";
pub(crate) const PROCSPAWN_SHM: &str = "procspawn shm";

fn pool(workers: usize) -> Pool {
    Pool::builder(workers).build().expect("a pool")
}

/// The pool. Bytes travel as one block, the fastest of serde's values.
pub(crate) struct Procspawn {
    pool: Pool,
}

impl Procspawn {
    pub(crate) fn start() -> Self {
        // Each call opens two channels, so a burst has thousands of descriptors open.
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
            .expect("up to the maximum is allowed");
        Self { pool: pool(WORKERS) }
    }
}

impl Contender for Procspawn {
    fn name(&self) -> &'static str {
        PROCSPAWN
    }

    fn round_trips(&mut self, trips: usize) -> Option<Spread> {
        let times = (0..trips).map(|_| {
            let begin = Instant::now();
            settle(self.pool.spawn((), |()| ()));
            begin.elapsed()
        });
        Some(Spread::of(times.collect()))
    }

    fn bursts(&mut self, bursts: usize) -> Option<f64> {
        let rates = (0..bursts).map(|_| {
            let begin = Instant::now();
            let handles: Vec<_> = (0..BURST).map(|_| self.pool.spawn((), |()| ())).collect();
            handles.into_iter().for_each(settle);
            per_second(BURST, begin.elapsed())
        });
        Some(median(rates))
    }

    fn argument(&mut self, bytes: &[u8]) -> Option<Duration> {
        let argument = ByteBuf::from(bytes);
        let begin = Instant::now();
        let pages = self.pool.spawn(argument, |bytes: ByteBuf| pages(&bytes)).join().expect("it counts");
        let time = begin.elapsed();
        check(pages, bytes.len());
        Some(time)
    }

    fn result(&mut self, length: usize) -> Option<Duration> {
        let begin = Instant::now();
        let bytes = self.pool.spawn(length, |length| ByteBuf::from(make(length))).join().expect("it makes");
        let pages = pages(&bytes);
        let time = begin.elapsed();
        check(pages, length);
        Some(time)
    }

    fn life(&mut self) -> Option<Life> {
        let begin = Instant::now();
        let pool = pool(1);
        Some(life(begin, |limit| {
            let mut handle = quietly(|| pool.spawn((), |()| std::process::id()))?;
            handle.join_timeout(limit).map_err(|error| error.to_string())
        }))
    }
}

/// Waits for a no-op. Once in a few million no-ops the pool lost a worker, and a no-op with it, for an unknown reason.
/// This does not end the bench. It does not look fast either, since the measured time then includes the worker's
/// replacement.
fn settle(no_op: JoinHandle<()>) {
    if let Err(error) = no_op.join() {
        eprintln!("{PROCSPAWN} lost a no-op: {error}");
    }
}

/// Turns a panic into an error, and prints nothing. After the loss of a worker `spawn` sometimes panics, if the pool
/// notices the loss before it has sent the arguments (procspawn 1.0.2).
fn quietly<R>(submit: impl FnOnce() -> R) -> Result<R, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(submit));
    panic::set_hook(hook);
    result.map_err(|_| "it panicked".to_owned())
}

/// The same pool. Bytes travel in shared memory that is created for each call.
///
/// It uses the type of the channels below. procspawn's wrapper for it, `Shmem`, cannot be an argument: the workers of a
/// pool do not understand it (procspawn 1.0.2).
pub(crate) struct Shared {
    pool: Pool,
}

impl Shared {
    pub(crate) fn start() -> Self {
        Self { pool: pool(WORKERS) }
    }
}

impl Contender for Shared {
    fn name(&self) -> &'static str {
        PROCSPAWN_SHM
    }

    fn argument(&mut self, bytes: &[u8]) -> Option<Duration> {
        let begin = Instant::now();
        let argument = IpcSharedMemory::from_bytes(bytes);
        let pages =
            self.pool.spawn(argument, |bytes: IpcSharedMemory| pages(&bytes)).join().expect("it counts");
        let time = begin.elapsed();
        check(pages, bytes.len());
        Some(time)
    }

    fn result(&mut self, length: usize) -> Option<Duration> {
        let begin = Instant::now();
        let job = |length| IpcSharedMemory::from_bytes(&make(length));
        let bytes = self.pool.spawn(length, job).join().expect("it makes");
        let pages = pages(&bytes);
        let time = begin.elapsed();
        check(pages, length);
        Some(time)
    }
}

//! The settings of a process pool.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::desk::Desk;
use super::{ProcessPool, is_initialised, sys};
use crate::backlog::OnFull;
use crate::error::{BuildError, ErrorKind};
use crate::task::{Call, Encoded, check_registry, decode};

/// Sets up a [`ProcessPool`].
#[must_use = "a builder does nothing until `build`"]
pub struct ProcessPoolBuilder {
    config: Config,
    invalid: Option<BuildError>,
}

pub(super) struct Config {
    pub(super) workers: usize,
    pub(super) queue_capacity: usize,
    pub(super) on_full: OnFull,
    pub(super) grace: Duration,
    pub(super) start_timeout: Duration,
    pub(super) max_payload: u32,
    pub(super) program: PathBuf,
    pub(super) initializer: Option<Initializer>,
}

/// A call that each worker runs before its first job.
pub(super) struct Initializer {
    pub(super) call: Encoded,
    /// Tells from the encoded result whether it went well.
    pub(super) verdict: fn(&[u8]) -> Result<(), String>,
}

/// What an initializer task may return: nothing, or a result whose error keeps the worker from starting.
pub trait Initialised: Serialize + DeserializeOwned + 'static {
    #[doc(hidden)]
    fn verdict(self) -> Result<(), String>;
}

impl Initialised for () {
    fn verdict(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display + Serialize + DeserializeOwned + 'static> Initialised for Result<(), E> {
    fn verdict(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

impl ProcessPoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: Config {
                workers: crate::sync::cores(),
                queue_capacity: 10_000,
                on_full: OnFull::Wait,
                grace: Duration::from_millis(500),
                start_timeout: Duration::from_secs(10),
                max_payload: 1 << 30,
                program: sys::this_program(),
                initializer: None,
            },
            invalid: None,
        }
    }

    /// How many worker processes; at least 1. They are started at once. Default: as many as this process may
    /// use cores.
    pub fn workers(mut self, workers: usize) -> Self {
        self.config.workers = workers;
        self
    }

    /// How many jobs may be queued, beside the running ones; at least 1. Default 10,000.
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.config.queue_capacity = jobs;
        self
    }

    /// What happens to new work when the queue is full. Default `OnFull::Wait`. With `OnFull::CallerRuns` the
    /// task runs in this process, on the thread that submits it.
    pub fn on_full(mut self, policy: OnFull) -> Self {
        self.config.on_full = policy;
        self
    }

    /// How long a job has between SIGTERM and SIGKILL when it is to end. A task may handle SIGTERM to clean
    /// up; by default it ends the worker at once. Default 500 ms.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// How long a worker may take to start and to run its initializer, before it counts as failed.
    /// Default 10 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.config.start_timeout = timeout;
        self
    }

    /// The longest encoded arguments and results, in bytes; longer ones are an error of their job. Default
    /// 1 GiB.
    pub fn max_payload(mut self, bytes: u32) -> Self {
        self.config.max_payload = bytes;
        self
    }

    /// Runs `call` in each worker before its first job. A worker whose initializer panics or returns an error
    /// is not used; when none can be had the jobs end with [`ErrorKind::CouldNotStart`] and that reason.
    pub fn initializer<R: Initialised>(mut self, call: &Call<'_, R>) -> Self {
        match call.encode() {
            Ok(call) => {
                let verdict = |result: &[u8]| decode::<R>(result).map_err(|e| e.to_string())?.verdict();
                self.config.initializer = Some(Initializer { call, verdict });
            }
            Err(error) => {
                self.invalid = Some(BuildError::Setting(format!("the initializer: {error}").into()));
            }
        }
        self
    }

    /// The program to start as worker. Default: this one, even if its file has been replaced meanwhile. Another
    /// one is refused at the handshake unless it is the same file.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.program = path.into();
        self
    }

    /// Builds the pool and starts its workers in the background.
    pub fn build(self) -> Result<ProcessPool, BuildError> {
        if let Some(error) = self.invalid {
            return Err(error);
        }
        let config = self.config;
        if config.workers == 0 {
            return Err(BuildError::Setting("workers is 0: nothing could ever run; give at least 1".into()));
        }
        if config.queue_capacity == 0 {
            return Err(BuildError::Setting(
                "queue_capacity is 0: no job could wait for a worker; give at least 1".into(),
            ));
        }
        if !is_initialised() {
            return Err(BuildError::NotInitialised);
        }
        check_registry()?;
        Ok(ProcessPool::from_desk(Desk::open(config)?))
    }
}

impl Config {
    pub(super) fn check_size(&self, call: Encoded) -> Result<Encoded, ErrorKind> {
        // The task's index travels with the arguments.
        let size = call.arguments.len() + size_of::<u32>();
        if size <= self.max_payload as usize {
            return Ok(call);
        }
        Err(ErrorKind::Encode(format!(
            "the arguments of `{}`: {size} bytes, more than the pool's max_payload of {}",
            call.task.name, self.max_payload
        )))
    }
}

impl fmt::Debug for ProcessPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessPoolBuilder")
            .field("workers", &self.config.workers)
            .field("queue_capacity", &self.config.queue_capacity)
            .field("on_full", &self.config.on_full)
            .field("grace", &self.config.grace)
            .finish_non_exhaustive()
    }
}

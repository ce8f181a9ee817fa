//! The settings of a process pool.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pool::{ProcessPool, is_initialised};
use crate::core::backlog::OnFull;
use crate::core::error::{BuildError, ErrorKind};
use crate::metrics::{Advice, OnAdvice};
use crate::processes::limits::{Limits, Surroundings};
use crate::processes::os::process as sys;
use crate::processes::pool::dispatcher::Desk;
use crate::processes::pool::template::{self, Template};
use crate::processes::pool::worker::{Member, Phase};
use crate::wire::payload::Incoming;
use crate::wire::task::{Call, Encoded, decode};

/// Sets up a [`ProcessPool`].
#[must_use = "a builder does nothing until `build`"]
pub struct ProcessPoolBuilder {
    config: Config,
    invalid: Option<BuildError>,
    uses_template: bool,
}

type Carry = dyn Fn() -> Option<Vec<u8>> + Send + Sync;

pub(crate) struct Config {
    pub(crate) name: Cow<'static, str>,
    pub(crate) on_advice: Option<OnAdvice>,
    pub(crate) carry: Option<Box<Carry>>,
    pub(crate) workers: usize,
    pub(crate) queue_capacity: usize,
    pub(crate) on_full: OnFull,
    pub(crate) on_crash: OnCrash,
    pub(crate) grace: Duration,
    pub(crate) start_timeout: Duration,
    pub(crate) max_payload: u32,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// How the template is started of which workers are forks, if they are.
    pub(crate) template: Option<template::Start>,
    pub(crate) initializer: Option<Initializer>,
    /// A worker is replaced when it has run so many jobs, or is so old.
    pub(crate) max_jobs: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    /// What a worker may have resident, in bytes.
    pub(crate) max_rss: Option<u64>,
    pub(crate) limits: Limits,
    pub(crate) surroundings: Surroundings,
    /// How much of the end of each worker's standard error is kept, in bytes.
    pub(crate) stderr_tail: usize,
}

/// What a worker's crash means to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCrash {
    /// It costs the job that the worker ran, and the worker is replaced.
    #[default]
    Isolate,
    /// It ends the pool and all its jobs, with [`ErrorKind::Broken`].
    Break,
}

/// How much workers give way by default: enough for the loop to come first where cores are short.
const NICE: i32 = 5;

/// How much memory a worker keeps for later results by default, in bytes.
const RETAINED: u64 = 256 << 20;

/// The system's masks of cores have room for so many.
const MOST_CORES: usize = 1024;

/// A call that each worker runs before its first job.
pub(crate) struct Initializer {
    pub(crate) call: Encoded,
    /// Tells from the encoded result whether it went well.
    pub(crate) verdict: fn(Incoming<'_>) -> Result<(), String>,
}

/// What an initializer task may return: nothing, or a result whose error keeps the worker from starting.
pub trait InitializerResult: Serialize + DeserializeOwned + 'static {
    #[doc(hidden)]
    fn verdict(self) -> Result<(), String>;
}

impl InitializerResult for () {
    fn verdict(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display + Serialize + DeserializeOwned + 'static> InitializerResult for Result<(), E> {
    fn verdict(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

impl ProcessPoolBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config {
                name: "offloop-processes".into(),
                on_advice: None,
                carry: None,
                workers: crate::base::sync::cores(),
                queue_capacity: 10_000,
                on_full: OnFull::Wait,
                on_crash: OnCrash::Isolate,
                grace: Duration::from_millis(500),
                start_timeout: Duration::from_secs(10),
                max_payload: 1 << 30,
                program: sys::this_program(),
                arguments: Vec::new(),
                template: None,
                initializer: None,
                max_jobs: None,
                max_age: None,
                max_rss: None,
                limits: Limits {
                    nice: NICE,
                    cores: Vec::new(),
                    max_data: None,
                    open_files: None,
                    retained: RETAINED,
                },
                surroundings: Surroundings::default(),
                stderr_tail: 4096,
            },
            invalid: None,
            uses_template: false,
        }
    }

    /// The pool's name, for its [metrics](crate::metrics). Default `offloop-processes`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Is called once a task that only waits instead of computing, which a thread could do: see
    /// [`Advice`]. On the thread that took the job's answer; it must not block. Without this
    /// the advice stands in the [metrics](ProcessPool::metrics), and with the feature `tracing` it is a warning of the
    /// target `offloop`. A panic in it is caught and printed.
    pub fn on_advice(mut self, hook: impl Fn(&Advice) + Send + Sync + 'static) -> Self {
        self.config.on_advice = Some(Arc::new(hook));
        self
    }

    /// Is called at each submission, on the thread that submits: the bytes that it returns travel with the job, unless
    /// that [carries](crate::job::Prepared::carry) others. So the context of a trace reaches the worker, where
    /// [`job::surround`](crate::job::surround) takes it up. A panic in it is caught and printed; the job carries nothing.
    pub fn carry(mut self, hook: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self.config.carry = Some(Box::new(hook));
        self
    }

    /// How many worker processes; at least 1. They are started at once. Default: as many as this process may
    /// use cores.
    pub fn max_workers(mut self, workers: usize) -> Self {
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

    /// What a worker's crash means to the pool. Default `OnCrash::Isolate`.
    pub fn on_crash(mut self, policy: OnCrash) -> Self {
        self.config.on_crash = policy;
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

    /// Replaces a worker when it has run so many jobs; at least 1. Default: never.
    ///
    /// Its replacement is started when it is given its last job. So leaks are contained, and nobody is interrupted.
    pub fn max_tasks_per_child(mut self, jobs: u64) -> Self {
        self.config.max_jobs = Some(jobs);
        self
    }

    /// Replaces a worker when it has lived for so long. Default: never.
    ///
    /// Its replacement is started first and takes over when it is ready; meanwhile the old one goes on.
    pub fn max_worker_age(mut self, age: Duration) -> Self {
        self.config.max_age = Some(age);
        self
    }

    /// The most memory that a worker may have resident for itself while it runs jobs, in bytes. It is measured
    /// every 50 ms; a worker that exceeds it is killed, and its job ends with [`ErrorKind::WorkerDied`], which says
    /// so and how much it was. If the job has not run for so long yet, the worker is replaced as one that is worn
    /// out is. Shared memory is not counted.
    /// Default: no limit.
    pub fn max_rss(mut self, bytes: u64) -> Self {
        self.config.max_rss = Some(bytes);
        self
    }

    /// A cap on each worker's own memory, in bytes: what exceeds it is refused by the system (`RLIMIT_DATA`), which
    /// mostly means that the worker aborts. Catches what grows faster than `max_rss` is measured; address space
    /// that is reserved but not used counts too. Default: that of this process.
    pub fn max_data(mut self, bytes: u64) -> Self {
        self.config.limits.max_data = Some(bytes);
        self
    }

    /// How much more freed shared memory each worker keeps for its next large results, in bytes. When it has been
    /// idle for 2 s it keeps none. This process keeps 256 MiB for arguments, likewise. Default 256 MiB.
    pub fn idle_memory(mut self, bytes: u64) -> Self {
        self.config.limits.retained = bytes;
        self
    }

    /// How much workers give way to other processes on the same cores, this one above all: added to its own nice
    /// level. Default 5, so that the event loop comes first where cores are short. Negative values need privileges
    /// and are ignored without them.
    pub fn nice(mut self, increment: i32) -> Self {
        self.config.limits.nice = increment;
        self
    }

    /// The cores that workers may run on, by their numbers. Default: those of this process.
    pub fn cpu_affinity(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.config.limits.cores = cores.into_iter().collect();
        if self.config.limits.cores.is_empty() {
            self.refuse("cpu_affinity names no core: workers could run nowhere");
        } else if let Some(core) = self.config.limits.cores.iter().find(|core| **core >= MOST_CORES) {
            let message = format!("cpu_affinity names core {core}; numbers go up to {}", MOST_CORES - 1);
            self.refuse(message);
        }
        self
    }

    /// How many files each worker may have open; it needs about 16 for itself. Default: as many as this process.
    pub fn max_open_files(mut self, files: u64) -> Self {
        self.config.limits.open_files = Some(files);
        self
    }

    /// The workers' working directory. Default: that of this process when they are started.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.config.surroundings.directory = Some(directory.into());
        self
    }

    /// Sets an environment variable in the workers. Default: they have those of this process when they are started.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.config.surroundings.variables.push((name.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable from the workers.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.config.surroundings.variables.push((name.into(), None));
        self
    }

    /// Gives the workers no environment variables but those that are set here before or after.
    pub fn env_clear(mut self) -> Self {
        self.config.surroundings.cleared = true;
        self
    }

    /// How much of the end of each worker's standard error is kept for the error of a crash, in bytes. What workers
    /// write there is passed on to this process's standard error in any case; with 0 they write to it directly.
    /// Default 4096.
    pub fn stderr_tail(mut self, bytes: usize) -> Self {
        self.config.stderr_tail = bytes;
        self
    }

    fn refuse(&mut self, message: impl Into<Cow<'static, str>>) {
        self.invalid.get_or_insert(BuildError::Setting(message.into()));
    }

    /// Runs `call` in each worker before its first job. A worker whose initializer panics or returns an error
    /// is not used; when none can be had the jobs end with [`ErrorKind::WorkerStart`] and that reason.
    pub fn initializer<R: InitializerResult>(mut self, call: &Call<'_, R>) -> Self {
        match call.encode(None) {
            Ok(call) => {
                let verdict =
                    |result: Incoming<'_>| decode::<R>(result).map_err(|e| e.to_string())?.verdict();
                self.config.initializer = Some(Initializer { call, verdict });
            }
            Err(error) => {
                self.refuse(format!("the initializer: {error}"));
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

    /// The arguments of the program. Default: none.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.config.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Starts the program only once, as a template of which the workers are forks: for programs that take long to get
    /// ready. It becomes one by [`embed::Template`](crate::embed::Template). It should have one thread.
    pub fn template(mut self) -> Self {
        self.uses_template = true;
        self
    }

    pub(crate) fn template_by(
        mut self,
        start: impl Fn(OwnedFd) -> io::Result<u32> + Send + Sync + 'static,
    ) -> Self {
        self.config.template = Some(Box::new(start));
        self
    }

    /// Builds the pool and starts its workers in the background.
    pub fn build(self) -> Result<ProcessPool, BuildError> {
        if let Some(error) = self.invalid {
            return Err(error);
        }
        let mut config = self.config;
        if config.queue_capacity == 0 {
            return Err(BuildError::Setting(
                "queue_capacity is 0: no job could wait for a worker; give at least 1".into(),
            ));
        }
        if config.max_jobs == Some(0) {
            return Err(BuildError::Setting(
                "max_tasks_per_child is 0: workers would only be replaced; give at least 1".into(),
            ));
        }
        if self.uses_template {
            let (program, arguments) = (config.program.clone(), std::mem::take(&mut config.arguments));
            let surroundings = config.surroundings.clone();
            config.template = Some(Template::of_program(program, arguments, surroundings));
        }
        if config.template.is_none() {
            if config.workers == 0 {
                return Err(BuildError::Setting(
                    "workers is 0: nothing could ever run; give at least 1".into(),
                ));
            }
            if !is_initialised() {
                return Err(BuildError::NotInitialised);
            }
        }
        Ok(ProcessPool::from_desk(Desk::open(config)?))
    }
}

impl Config {
    /// Whether a worker is to be replaced.
    pub(crate) fn is_worn(&self, member: &Member, now: Instant) -> bool {
        let is_old = self.worn_at(member).is_some_and(|time| now >= time);
        member.phase == Phase::Ready && (member.is_spent() || is_old || member.is_fat)
    }

    /// When a worker will be too old.
    pub(crate) fn worn_at(&self, member: &Member) -> Option<Instant> {
        member.born.checked_add(self.max_age?)
    }

    pub(crate) fn check_size(&self, call: Encoded) -> Result<Encoded, ErrorKind> {
        let size = call.arguments.size();
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

//! The builder of a process pool.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::config::{Config, Initializer, InitializerResult, OnCrash, OnRequest, Requests, StartTemplate};
use super::dispatcher::Dispatcher;
use super::output::Output;
use super::pool::ProcessPool;
use super::supervisor::Supervisor;
use super::template;
use crate::base::cores::cores;
use crate::base::spawn::spawn;
use crate::base::sync::thread;
use crate::core::backlog::{OnFull, QueueConfig};
use crate::core::error::BuildError;
use crate::metrics::{Advice, Measured};
use crate::processes::handshake::{self, StartData};
use crate::processes::limits::Limits;
use crate::processes::os::fd;
use crate::processes::os::process::SpawnEnv;
use crate::processes::os::start;
use crate::wire::call::Call;
use crate::wire::decode::{decode, is_plain};
use crate::wire::payload::Received;
use crate::wire::pool_memory::PoolMemory;
use crate::wire::registry::check_names;

/// The increment of the workers' nice level by default: enough for the event loop to come first if cores are short.
const NICE: i32 = 5;

/// The amount of memory that a worker keeps for later results by default, in bytes.
const IDLE_MEMORY: u64 = 256 << 20;

/// The number of cores for which the system's masks have room.
const MOST_CORES: usize = 1024;

/// Sets up a [`ProcessPool`].
#[must_use = "a builder does nothing until `build`"]
pub struct ProcessPoolBuilder {
    config: Config,
    /// The first setting that was refused. `build` returns it.
    invalid: Option<BuildError>,
    /// The program is to be a template: set by `template`.
    uses_template: bool,
    /// The bytes that the template gets.
    start_data: StartData,
    /// Answers the requests of the template and its workers, if they may make some.
    on_request: Option<OnRequest>,
}

impl ProcessPool {
    /// Returns a builder for a new pool.
    pub fn builder() -> ProcessPoolBuilder {
        ProcessPoolBuilder::new()
    }
}

impl ProcessPoolBuilder {
    fn new() -> Self {
        Self {
            config: Config {
                name: "offloop-processes".into(),
                on_advice: None,
                carry: None,
                min_workers: None,
                idle_timeout: None,
                max_workers: cores(),
                memory: Arc::new(PoolMemory::new()),
                queue: QueueConfig::default(),
                on_crash: OnCrash::Isolate,
                kill_children: true,
                grace: Duration::from_millis(500),
                start_timeout: Duration::from_secs(10),
                setup_timeout: Duration::from_secs(600),
                load_timeout: None,
                decodes_here: false,
                max_payload: 1 << 30,
                program: start::this_program(),
                arguments: Vec::new(),
                env: SpawnEnv::default(),
                template: None,
                initializer: None,
                max_tasks_per_child: None,
                max_worker_age: None,
                max_rss: None,
                limits: Limits {
                    nice: NICE,
                    cores: Vec::new(),
                    max_data: None,
                    open_files: None,
                    recycle_rss: None,
                    idle_memory: IDLE_MEMORY,
                },
                stderr_tail: 4096,
            },
            invalid: None,
            uses_template: false,
            start_data: StartData::default(),
            on_request: None,
        }
    }

    /// Sets the pool's name in its [metrics](crate::metrics). Default `offloop-processes`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sets a hook that is called once for each task that only waits instead of computing, so that a thread could run
    /// it.
    ///
    /// It is called on the thread that took the job's answer, so it must not block. A panic in it is caught and
    /// printed. Without a hook the advice is part of the [metrics](ProcessPool::metrics), and with the feature
    /// `tracing` it is a warning of the target `offloop`.
    pub fn on_advice(mut self, hook: impl Fn(&Advice) + Send + Sync + 'static) -> Self {
        self.config.on_advice = Some(Arc::new(hook));
        self
    }

    /// Sets a hook that is called at each submission, on the thread that submits. The bytes that it returns travel with
    /// the job, unless the job [carries](crate::Prepared::carry) bytes of its own.
    ///
    /// In this way the context of a trace reaches the worker, where [`job::surround`](crate::job::surround) takes it
    /// up. A panic in the hook is caught and printed. The job carries nothing then.
    pub fn carry(mut self, hook: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self.config.carry = Some(Box::new(hook));
        self
    }

    /// Sets the number of worker processes; at least 1. Default: the number of cores that this process may use.
    ///
    /// All of them are started when the pool is built, unless there are [`min_workers`](Self::min_workers).
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.config.max_workers = workers;
        self
    }

    /// Makes the pool grow on demand: it starts with this many workers, which may be 0. It adds one whenever a job is
    /// submitted while all workers have one, up to [`max_workers`](Self::max_workers). It shrinks if it has an
    /// [`idle_timeout`](Self::idle_timeout).
    ///
    /// Default: all `max_workers` are started when the pool is built. [`ProcessPool::resize`] ends the growth.
    pub fn min_workers(mut self, workers: usize) -> Self {
        self.config.min_workers = Some(workers);
        self
    }

    /// Sets the time without a job after which a worker leaves, in a pool that grows on demand. The one that has been idle
    /// for the longest time leaves first, and [`min_workers`](Self::min_workers) stay. Default: none leaves.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.config.idle_timeout = Some(limit);
        self
    }

    /// Sets the number of jobs that may be queued, in addition to the running ones; at least 1. Default 10,000.
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.config.queue.capacity = jobs;
        self
    }

    /// Sets the policy for new work when the queue is full. Default `OnFull::Wait`.
    ///
    /// With `OnFull::CallerRuns` the task runs in this process, on the thread that submits it.
    pub fn on_full(mut self, policy: OnFull) -> Self {
        self.config.queue.on_full = policy;
        self
    }

    /// Sets what a worker's crash does to the pool. Default `OnCrash::Isolate`.
    pub fn on_crash(mut self, policy: OnCrash) -> Self {
        self.config.on_crash = policy;
        self
    }

    /// Sets the time between SIGTERM and SIGKILL when a running job is ended. Default 500 ms.
    ///
    /// A task may handle SIGTERM to clean up. By default SIGTERM ends the worker at once.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// Sets whether the programs that a job has started are ended with it. Default true.
    ///
    /// Each worker leads a process group then, to which the programs that its jobs start belong as well. If a job is
    /// cancelled or out of time, all of the group gets SIGTERM, and what is left of it after the [`grace`](Self::grace)
    /// SIGKILL. If a worker crashes, what is left of its group is ended in the same way. This includes programs that
    /// earlier jobs of the worker have left in the background. A worker that leaves by itself, because it is recycled
    /// or the pool is closed, leaves such programs running. A program that has left the group, for a session of its own
    /// for instance, is never ended.
    ///
    /// Since it is another group than that of this process, Ctrl-C does not reach those programs. They end with their
    /// jobs.
    ///
    /// With false, workers stay in the group of this process, and only they are ended, never what their jobs have
    /// started.
    pub fn kill_children(mut self, kill: bool) -> Self {
        self.config.kill_children = kill;
        self
    }

    /// Sets the time that a worker's process may take to start, up to its greeting. One that takes longer counts as a
    /// failed start. Default 10 s. The [`initializer`](Self::initializer) has a limit of its own,
    /// [`setup_timeout`](Self::setup_timeout).
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.config.start_timeout = timeout;
        self
    }

    /// Sets the time that the [`initializer`](Self::initializer) may take in a worker, and that a
    /// [`template`](Self::template) may take to get ready once it has connected. What takes longer is ended and counts as a
    /// failed start. Default 10 min.
    pub fn setup_timeout(mut self, timeout: Duration) -> Self {
        self.config.setup_timeout = timeout;
        self
    }

    pub(crate) fn load_timeout(mut self, limit: Duration) -> Self {
        self.config.load_timeout = Some(limit);
        self
    }

    pub(crate) fn decode_here(mut self) -> Self {
        self.config.decodes_here = true;
        self
    }

    /// Sets the largest encoded arguments and results, in bytes. Larger ones are an error of their job. Default 1 GiB.
    pub fn max_payload(mut self, bytes: u32) -> Self {
        self.config.max_payload = bytes;
        self
    }

    /// Sets the number of jobs after which a worker is replaced; at least 1. Default: never.
    ///
    /// The replacement is started when the worker is given its last job. In this way leaks are contained, and no job is
    /// interrupted.
    pub fn max_tasks_per_child(mut self, jobs: u64) -> Self {
        self.config.max_tasks_per_child = Some(jobs);
        self
    }

    /// Sets the age at which a worker is replaced. Default: never.
    ///
    /// The replacement is started first and takes over when it is ready. Until then the old worker goes on.
    pub fn max_worker_age(mut self, age: Duration) -> Self {
        self.config.max_worker_age = Some(age);
        self
    }

    /// Sets the most memory that a worker may have resident for itself while it runs jobs, in bytes. Shared memory is
    /// not included. Default: no limit.
    ///
    /// It is measured every 50 ms. A worker that exceeds the limit is killed, and its job ends with
    /// [`ErrorKind::WorkerDied`](crate::ErrorKind::WorkerDied), which reports the measured memory. If the job began
    /// after the last measurement, it is not the cause. Then the worker finishes the job and is replaced.
    pub fn max_rss(mut self, bytes: u64) -> Self {
        self.config.max_rss = Some(bytes);
        self
    }

    /// Sets the memory that a worker may have resident for itself *between* two jobs, in bytes. Shared memory is not
    /// included. Default: no limit.
    ///
    /// A worker that has more after a job is replaced, as with [`max_worker_age`](Self::max_worker_age): no job is
    /// interrupted. It is measured by the worker itself, after a job, at most every 10 ms. Against jobs that need too much
    /// themselves there is [`max_rss`](Self::max_rss).
    pub fn recycle_rss(mut self, bytes: u64) -> Self {
        self.config.limits.recycle_rss = Some(bytes);
        self
    }

    /// Sets the most memory of its own that the system gives each worker, in bytes (`RLIMIT_DATA`). Default: the limit
    /// of this process.
    ///
    /// The system refuses what exceeds the limit, which mostly means that the worker aborts. This catches growth that
    /// is too fast for the measurements of [`max_rss`](Self::max_rss). Address space that is reserved but not used is
    /// included.
    pub fn max_data(mut self, bytes: u64) -> Self {
        self.config.limits.max_data = Some(bytes);
        self
    }

    /// Sets the most freed shared memory that each worker keeps for its next large results, in bytes. Default 256 MiB.
    ///
    /// A worker that has been idle for 2 s keeps none. This process keeps up to 256 MiB for arguments in the same way.
    pub fn idle_memory(mut self, bytes: u64) -> Self {
        self.config.limits.idle_memory = bytes;
        self
    }

    /// Sets the increment of the workers' nice level over that of this process. Default 5, so that the event loop comes
    /// first if cores are short.
    ///
    /// Negative values need privileges and are ignored without them.
    pub fn nice(mut self, increment: i32) -> Self {
        self.config.limits.nice = increment;
        self
    }

    /// Sets the cores that workers may run on, by their numbers. Default: those of this process.
    pub fn cpu_affinity(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.config.limits.cores = cores.into_iter().collect();
        if self.config.limits.cores.is_empty() {
            self.refuse("cpu_affinity names no core, so workers could run nowhere; name at least one");
        } else if let Some(core) = self.config.limits.cores.iter().find(|core| **core >= MOST_CORES) {
            let message = format!("cpu_affinity names core {core}; numbers go up to {}", MOST_CORES - 1);
            self.refuse(message);
        }
        self
    }

    /// Sets the number of files that each worker may have open. It needs about 16 for itself. Default: the limit of
    /// this process.
    pub fn max_open_files(mut self, files: u64) -> Self {
        self.config.limits.open_files = Some(files);
        self
    }

    /// Sets the workers' working directory. Default: that of this process when they are started.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.config.env.directory = Some(directory.into());
        self
    }

    /// Sets an environment variable in the workers. Default: they have those of this process when they are started, or,
    /// with a [`template`](Self::template), when the pool is built.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.config.env.variables.push((name.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable from the workers.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.config.env.variables.push((name.into(), None));
        self
    }

    /// Gives the workers no environment variables but those that are set here, before or after this call.
    pub fn env_clear(mut self) -> Self {
        self.config.env.cleared = true;
        self
    }

    /// Sets the length of the end of each worker's standard error that is kept for the error of a crash, in bytes.
    /// Default 4096.
    ///
    /// What workers write there is also passed on to the standard error of this process. With 0 they write to that
    /// directly.
    pub fn stderr_tail(mut self, bytes: usize) -> Self {
        self.config.stderr_tail = bytes;
        self
    }

    fn refuse(&mut self, message: impl Into<Cow<'static, str>>) {
        self.invalid.get_or_insert(BuildError::Setting(message.into()));
    }

    /// Sets a call that each worker runs before its first job.
    ///
    /// A worker whose initializer panics or returns an error is not used. If the pool cannot get any worker, the jobs
    /// end with [`ErrorKind::WorkerStart`](crate::ErrorKind::WorkerStart) and the reason.
    pub fn initializer<R: InitializerResult>(mut self, call: &Call<'_, R>) -> Self {
        match call.encode(None, &*self.config.memory) {
            Ok(call) => {
                let into_result =
                    |result: Received<'_>| decode::<R>(result).map_err(|e| e.to_string())?.into_result();
                self.config.initializer = Some(Initializer { call, into_result, is_plain: is_plain::<R>() });
            }
            Err(error) => {
                self.refuse(format!("the initializer: {error}"));
            }
        }
        self
    }

    /// Sets the program to start as a worker. Default: this one, even if its file has been replaced meanwhile.
    ///
    /// Another program is refused at the handshake, unless it is the same file.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.program = path.into();
        self
    }

    /// Sets the arguments of the program. Default: none.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.config.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Starts the program only once, as a template of which the workers are forks. For programs that take long to get
    /// ready: the template starts right after the pool is built, and gets ready while this program goes on. So redirect
    /// standard streams before.
    ///
    /// The program becomes the template by [`embed::Template`](crate::embed::Template). It should have one thread.
    pub fn template(mut self) -> Self {
        self.uses_template = true;
        self
    }

    pub(crate) fn template_by(
        mut self,
        start: impl Fn(OwnedFd) -> io::Result<u32> + Send + Sync + 'static,
    ) -> Self {
        self.config.template = Some(StartTemplate::by(start));
        self
    }

    pub(crate) fn start_data(mut self, data: Vec<u8>) -> Self {
        self.start_data.bytes = data;
        self
    }

    pub(crate) fn start_files(mut self, files: Vec<OwnedFd>) -> Self {
        self.start_data.files = files;
        self
    }

    pub(crate) fn on_request(mut self, answer: impl Fn(OwnedFd) + Send + Sync + 'static) -> Self {
        self.on_request = Some(Box::new(answer));
        self
    }

    pub(crate) fn start_preamble(mut self, preamble: Vec<u8>) -> Self {
        self.start_data.preamble = preamble;
        self
    }

    /// Builds the pool and starts its workers in the background.
    pub fn build(self) -> Result<ProcessPool, BuildError> {
        if let Some(error) = self.invalid {
            return Err(error);
        }
        let mut config = self.config;
        let setting = |message: &'static str| Err(BuildError::Setting(message.into()));
        config.queue.check()?;
        check_names().map_err(|conflict| BuildError::Setting(conflict.into()))?;
        if config.max_tasks_per_child == Some(0) {
            return setting("max_tasks_per_child is 0, so workers could run nothing; give at least 1");
        }
        if config.max_payload == 0 {
            return setting(
                "max_payload is 0, so no call could be sent; give the size of the largest one in bytes",
            );
        }
        if config.min_workers.is_some_and(|least| least > config.max_workers) {
            return setting("min_workers is larger than max_workers; give at most as many");
        }
        if config.idle_timeout.is_some() && config.min_workers.is_none() {
            return setting(
                "idle_timeout is set, but the pool does not grow on demand; set min_workers, 0 for instance",
            );
        }
        if self.uses_template {
            // The template starts on another thread, when the program may be changing its variables already.
            config.env.inherit_now();
            let (program, arguments) = (config.program.clone(), std::mem::take(&mut config.arguments));
            config.template = Some(template::start_program(program, arguments, config.env.clone()));
        }
        let most_files = StartData::MAX_FILES - usize::from(self.on_request.is_some());
        if self.start_data.files.len() > most_files {
            let given = self.start_data.files.len();
            return Err(BuildError::Setting(
                format!("the template is given {given} files; give at most {most_files}").into(),
            ));
        }
        if let Some(template) = &mut config.template {
            template.data = self.start_data;
            if let Some(answer) = self.on_request {
                let what = "opening the socket for the workers' requests";
                let (socket, theirs) =
                    fd::message_sockets().map_err(|source| BuildError::System { what, source })?;
                template.data.files.push(theirs);
                template.requests = Some(Requests { socket, answer });
            }
        } else {
            if config.max_workers == 0 {
                return setting("max_workers is 0, so no job could ever run; give at least 1");
            }
            if !handshake::is_initialised() {
                return Err(BuildError::NotInitialised);
            }
        }
        Ok(ProcessPool::new(open(config)?))
    }
}

/// Makes the dispatcher of a new pool, and starts the pool's threads.
fn open(mut config: Config) -> Result<Arc<Dispatcher>, BuildError> {
    let system = |what| move |source| BuildError::System { what, source };
    // Without /dev/null, workers do not start, and their error says why.
    let _ = start::open_standard_descriptors();
    let tail = config.stderr_tail;
    let start = config.template.take();
    let dispatcher = Dispatcher::new(config).map_err(system("opening the pool's eventfds"))?;
    crate::metrics::register(Arc::downgrade(&dispatcher) as Weak<dyn Measured>);
    let output = Output::open(tail).map_err(system("starting the thread that reads the workers' output"))?;
    let supervisor = Supervisor::new(Arc::clone(&dispatcher), Arc::clone(&output), start)
        .inspect_err(|_| output.close())
        .map_err(system("opening the pool's set of descriptors"))?;
    spawn(thread::Builder::new().name("offloop-supervisor".into()), move || supervisor.run())
        .inspect_err(|_| output.close())
        .map_err(system("starting the pool's supervisor thread"))?;
    Ok(dispatcher)
}

impl fmt::Debug for ProcessPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessPoolBuilder")
            .field("min_workers", &self.config.min_workers)
            .field("max_workers", &self.config.max_workers)
            .field("queue_capacity", &self.config.queue.capacity)
            .field("on_full", &self.config.queue.on_full)
            .field("grace", &self.config.grace)
            .finish_non_exhaustive()
    }
}

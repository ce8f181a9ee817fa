//! The settings of a process pool.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::backlog::QueueConfig;
use crate::core::error::ErrorKind;
use crate::metrics::OnAdvice;
use crate::processes::handshake::StartData;
use crate::processes::limits::Limits;
use crate::processes::os::process::SpawnEnv;
use crate::wire::call::Encoded;
use crate::wire::payload::Received;
use crate::wire::pool_memory::PoolMemory;

/// Returns the bytes that travel with a job. Called at each submission.
pub(super) type Carry = dyn Fn() -> Option<Vec<u8>> + Send + Sync;

/// Starts a template on the given end of a socket. Returns its process id. The template is a child of the calling
/// thread.
type Start = Box<dyn Fn(OwnedFd) -> io::Result<u32> + Send + Sync>;

/// The way in which a pool starts its template.
pub(super) struct StartTemplate {
    pub(super) start: Start,
    /// It is started with the pool, not with the first worker, so that it gets ready while the program goes on.
    pub(super) at_once: bool,
    /// The data that the template gets over its socket.
    pub(super) data: StartData,
    /// The requests that the template and its workers make. `None`: they make none.
    pub(super) requests: Option<Requests>,
}

/// Answers a request, which is the other end of a socket. Called by the supervisor. Must not block.
pub(super) type OnRequest = Box<dyn Fn(OwnedFd) + Send + Sync>;

/// The requests of the template and of its workers.
pub(super) struct Requests {
    /// The end of the socket on which they come. It does not block.
    pub(super) socket: OwnedFd,
    pub(super) answer: OnRequest,
}

impl StartTemplate {
    /// Calls `start` for the first worker, and sends no data.
    pub(super) fn by(start: impl Fn(OwnedFd) -> io::Result<u32> + Send + Sync + 'static) -> Self {
        Self { start: Box::new(start), at_once: false, data: StartData::default(), requests: None }
    }
}

/// The effect of a worker's crash on its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCrash {
    /// Ends the job that the worker ran. The worker is replaced.
    #[default]
    Isolate,
    /// Ends the pool and all its jobs with [`ErrorKind::Broken`].
    Break,
}

/// The settings of one pool. They do not change after the pool is built.
pub(super) struct Config {
    pub(super) name: Cow<'static, str>,
    pub(super) on_advice: Option<OnAdvice>,
    pub(super) carry: Option<Box<Carry>>,
    /// The number of workers that are started at once, for a pool that grows on demand. `None`: all `max_workers`.
    pub(super) min_workers: Option<usize>,
    /// The time without a job after which a worker leaves, if there are more than `min_workers`. `None`: never.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_workers: usize,
    /// The memory that calls are encoded to.
    pub(super) memory: Arc<PoolMemory>,
    pub(super) queue: QueueConfig,
    pub(super) on_crash: OnCrash,
    /// The processes that a worker's jobs have started are ended with it, unless it ends by itself.
    pub(super) kill_children: bool,
    /// The time between SIGTERM and SIGKILL.
    pub(super) grace: Duration,
    /// The time that a worker's process, or the template's, may take to start.
    pub(super) start_timeout: Duration,
    /// The time that the user's code may take to set up the template, and that the initializer may take in a worker.
    pub(super) setup_timeout: Duration,
    /// The time that a job with a run timeout may take until it says that its function begins. `None`: jobs do not say so,
    /// and their run timeouts count from when a worker is given them.
    pub(super) load_timeout: Option<Duration>,
    /// All results are known to be decoded quickly, so that the thread that takes an answer decodes it.
    pub(super) decodes_here: bool,
    /// The largest encoded arguments and results, in bytes.
    pub(super) max_payload: u32,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) env: SpawnEnv,
    /// Starts the template of which the workers are forks. `None`: the workers are started one by one. The supervisor takes
    /// it.
    pub(super) template: Option<StartTemplate>,
    pub(super) initializer: Option<Initializer>,
    /// The number of jobs after which a worker is replaced.
    pub(super) max_tasks_per_child: Option<u64>,
    /// The age at which a worker is replaced.
    pub(super) max_worker_age: Option<Duration>,
    /// The most memory that a worker may have resident, in bytes.
    pub(super) max_rss: Option<u64>,
    /// The limits that each worker imposes on itself.
    pub(super) limits: Limits,
    /// The length of the end of each worker's standard error that is kept, in bytes. 0: standard error is inherited.
    pub(super) stderr_tail: usize,
}

impl Config {
    /// Returns the number of workers that are started when the pool is built.
    pub(super) fn first_workers(&self) -> usize {
        self.min_workers.unwrap_or(self.max_workers)
    }

    /// Returns the call unless its arguments are too large.
    pub(super) fn check_size(&self, call: Encoded) -> Result<Encoded, ErrorKind> {
        let size = call.arguments.size();
        if size <= self.max_payload as usize {
            return Ok(call);
        }
        Err(ErrorKind::Encode(format!(
            "the arguments: they have {size} bytes, more than the pool's max_payload of {}",
            self.max_payload
        )))
    }
}

/// A call that each worker runs before its first job.
pub(super) struct Initializer {
    pub(super) call: Encoded,
    /// Decodes the call's result. An error is the reason why the worker cannot be used.
    pub(super) into_result: fn(Received<'_>) -> Result<(), String>,
    /// The result is of a type that is known to be decoded quickly. Otherwise another thread than the supervisor does.
    pub(super) is_plain: bool,
}

/// A type that an initializer task may return: nothing, or a result whose error keeps the worker from starting.
pub trait InitializerResult: Serialize + DeserializeOwned + 'static {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), String>;
}

impl InitializerResult for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display + Serialize + DeserializeOwned + 'static> InitializerResult for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

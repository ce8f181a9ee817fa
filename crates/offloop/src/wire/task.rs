//! Tasks: functions with a name, so that another process can be told to call them.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::fork::PerProcess;
use crate::base::panic::Panic;
use crate::core::error::ErrorKind;
use crate::core::work::{Work, sealed};
use crate::wire::payload::{Bytes, EncodeError, Incoming, Payload};

/// The call of a task with its arguments, made by the task's `with`.
///
/// Given to a process pool it is encoded at once, on the thread that submits it; borrowed arguments are read
/// only until then. Given to threads it is an ordinary call, for which its arguments must be `'static`.
#[must_use = "a call does nothing until an executor is given it"]
pub struct Call<'a, R> {
    task: &'static Task,
    bound: Box<dyn Bound<R> + 'a>,
}

/// A task's function with its arguments.
trait Bound<R>: Send {
    fn encode(&self, context: Option<&Context<'_>>) -> Result<Payload, EncodeError>;
    fn call(self: Box<Self>) -> R;
}

struct Arguments<A, R> {
    arguments: A,
    body: fn(A) -> R,
}

impl<A: Serialize + Send, R> Bound<R> for Arguments<A, R> {
    fn encode(&self, context: Option<&Context<'_>>) -> Result<Payload, EncodeError> {
        match context {
            Some(context) => Payload::encode(&(context, &self.arguments)),
            None => Payload::encode(&self.arguments),
        }
    }

    fn call(self: Box<Self>) -> R {
        (self.body)(self.arguments)
    }
}

/// Not public API: what `#[offloop::task]` makes of `f.with(…)`.
pub fn call<'a, A, R>(task: &'static Task, arguments: A, body: fn(A) -> R) -> Call<'a, R>
where
    A: Serialize + Send + 'a,
    R: 'a,
{
    Call { task, bound: Box::new(Arguments { arguments, body }) }
}

impl<R> Call<'_, R> {
    /// The task's path, `crate::module::function`.
    pub fn task_name(&self) -> &'static str {
        self.task.name
    }

    pub(crate) fn encode(&self, context: Option<&Context<'_>>) -> Result<Encoded, ErrorKind> {
        match self.bound.encode(context) {
            Ok(arguments) => {
                Ok(Encoded { task: self.task, arguments, has_context: context.is_some(), kind: 0 })
            }
            Err(error) => Err(ErrorKind::Encode(format!("the arguments of `{}`: {error}", self.task.name))),
        }
    }
}

impl<R> fmt::Debug for Call<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Call").field(&self.task.name).finish()
    }
}

impl<R> sealed::Sealed for Call<'static, R> {}

impl<R: Send + 'static> Work for Call<'static, R> {
    type Output = R;

    fn perform(self) -> Result<R, ErrorKind> {
        Ok(self.bound.call())
    }

    fn label(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.task.name)
    }
}

/// What a worker learns of a job beside its arguments, which this precedes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Context<'a> {
    /// Its name, if that is not the task's.
    pub(crate) name: Option<&'a str>,
    /// The name of the submitter's span.
    pub(crate) parent: Option<&'a str>,
    #[serde(borrow)]
    pub(crate) carried: Option<Bytes<'a>>,
}

impl<'a> Context<'a> {
    /// Takes it off the front of what has come.
    pub(crate) fn take(incoming: Incoming<'a>) -> Result<(Self, Incoming<'a>), postcard::Error> {
        let (context, body) = postcard::take_from_bytes(incoming.body)?;
        Ok((context, Incoming { body, ..incoming }))
    }
}

/// A call as it travels to a worker process.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) task: &'static Task,
    pub(crate) arguments: Payload,
    /// A [`Context`] precedes the arguments.
    pub(crate) has_context: bool,
    /// Which jobs are expected to take as long as this one.
    pub(crate) kind: u8,
}

/// How many kinds of jobs are told apart.
pub(crate) const KINDS: usize = 256;

impl Encoded {
    /// Calls the task on this thread.
    pub(crate) fn run(&self) -> Outcome {
        let mut incoming = Incoming::from(&self.arguments);
        if self.has_context {
            incoming = Context::take(incoming).map_err(|error| Fault::Arguments(error.to_string()))?.1;
        }
        (self.task.run)(incoming)
    }

    /// Says how the job is called: those of one task and name are of one kind.
    pub(crate) fn named(mut self, name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.task.index(), name).hash(&mut hasher);
        self.kind = hasher.finish().to_le_bytes()[0];
        self
    }
}

/// Not public API: an entry of the registry.
pub struct Task {
    pub(crate) name: &'static str,
    signature: &'static str,
    place: (&'static str, u32, u32),
    /// Tells tasks apart that look the same: those of a crate that is linked twice, or of one macro.
    marker: fn() -> TypeId,
    pub(crate) run: fn(Incoming<'_>) -> Outcome,
    /// Its place in the sorted registry, by which it is called over a link. Written by `registry`.
    index: AtomicU32,
}

/// Not public API: a task's encoded result.
pub type Outcome = Result<Payload, Fault>;

/// Not public API: why a task was not run, or has no result that could be sent.
#[derive(Debug)]
pub enum Fault {
    /// Its arguments did not decode.
    Arguments(String),
    /// Its result did not encode.
    Result(String),
    /// It panicked.
    Panicked(Panic),
}

impl Fault {
    pub(crate) fn into_kind(self, task: &str) -> ErrorKind {
        match self {
            Self::Arguments(reason) => ErrorKind::Decode(format!("the arguments of `{task}`: {reason}")),
            Self::Result(reason) => ErrorKind::Encode(format!("the result of `{task}`: {reason}")),
            Self::Panicked(panic) => ErrorKind::Panicked(panic),
        }
    }
}

impl Task {
    /// Not public API.
    pub const fn new(
        name: &'static str,
        signature: &'static str,
        place: (&'static str, u32, u32),
        marker: fn() -> TypeId,
        run: fn(Incoming<'_>) -> Outcome,
    ) -> Self {
        Self { name, signature, place, marker, run, index: AtomicU32::new(u32::MAX) }
    }

    pub(crate) fn index(&self) -> u32 {
        registry();
        self.index.load(Ordering::Relaxed)
    }

    fn identity(&self) -> impl Ord + Hash + use<> {
        (self.name, self.place, self.signature, (self.marker)())
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task").field(&self.name).finish()
    }
}

/// Not public API: every task that is linked into this program.
#[linkme::distributed_slice]
pub static TASKS: [Task];

/// All tasks, in an order that two processes of the same build agree on.
pub(crate) fn registry() -> &'static [&'static Task] {
    static REGISTRY: PerProcess<Vec<&'static Task>> = PerProcess::new();
    REGISTRY.get(|| {
        let mut tasks: Vec<&'static Task> = TASKS.iter().collect();
        tasks.sort_by_key(|task| task.identity());
        for (index, task) in (0..).zip(&tasks) {
            task.index.store(index, Ordering::Relaxed);
        }
        tasks
    })
}

/// What two processes must share to understand each other: this crate's version, the tasks with their
/// signatures, and the very file that they run.
pub(crate) fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for task in registry() {
        task.identity().hash(&mut hasher);
    }
    if let Ok(exe) = std::fs::metadata("/proc/self/exe") {
        (exe.dev(), exe.ino(), exe.size(), exe.mtime(), exe.mtime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

/// Not public API: decodes arguments, calls, encodes the result. What is borrowed borrows from `input`.
pub fn run<'a, A, R>(input: Incoming<'a>, body: impl FnOnce(A) -> R) -> Outcome
where
    A: Deserialize<'a>,
    R: Serialize + 'static,
{
    let arguments = input.decode().map_err(|error| Fault::Arguments(error.to_string()))?;
    let result = body(arguments);
    let encoded = match (&result as &dyn Any).downcast_ref::<Vec<u8>>() {
        // The same bytes as by the general way, but as one block.
        Some(bytes) => Payload::encode(&Bytes(bytes)),
        None => Payload::encode(&result),
    };
    encoded.map_err(|error| Fault::Result(error.to_string()))
}

/// Decodes a result.
pub(crate) fn decode<R: DeserializeOwned + 'static>(encoded: Incoming<'_>) -> Result<R, postcard::Error> {
    let mut result: Option<R> = None;
    if let Some(bytes) = (&mut result as &mut dyn Any).downcast_mut::<Option<Vec<u8>>>() {
        // As in `run`: a block.
        *bytes = Some(encoded.decode::<Bytes>()?.0.to_vec());
        return Ok(result.expect("it was just set"));
    }
    encoded.decode()
}

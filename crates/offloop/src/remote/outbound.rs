//! One accepted call, as it leaves for another place and as it arrives there.

use std::fmt;
use std::time::Duration;

use crate::core::captured::Captured;
use crate::core::id::JobId;
use crate::core::options::{Options, Retry};
use crate::core::signature::Signature;
use crate::wire::msgpack;

/// The longest name of a task, in bytes.
const MAX_TASK: usize = 1024;

/// The longest name of a job and the longest id of a request, in bytes.
const MAX_NAME: usize = 4096;

/// The largest context that a job may carry, in bytes.
const MAX_CARRIED: usize = 64 * 1024;

/// The largest part of each output stream that may be kept, in bytes.
const MAX_CAPTURE: usize = 64 * 1024 * 1024;

/// The largest number of items that may wait to be read.
const MAX_STREAM: usize = 64 * 1024;

/// One accepted call: what another place needs in order to run it.
///
/// The place where the call was submitted makes it and gives it to a [`Carrier`](super::Carrier). At the other end
/// [`received`](Self::received) makes it again of its parts, and [`perform`](super::perform) runs it.
pub struct Outbound {
    id: JobId,
    task: String,
    signature: Signature,
    arguments: Vec<u8>,
    instructions: Instructions,
}

/// The submitter's instructions for a job beside its function. See [`Prepared`](crate::Prepared).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Instructions {
    /// The job's name in errors and reports. Empty: the task's name.
    pub name: String,
    /// Jobs of a higher priority run first.
    pub priority: i8,
    /// The limit on the time that the job may wait to start. The submitter's side keeps it: when it has passed, the job
    /// ends there and is cancelled.
    pub queue_timeout: Option<Duration>,
    /// The limit on the time that the job may run. The side that runs it keeps it.
    pub run_timeout: Option<Duration>,
    /// The rule by which the job is started again when its worker has died. `None`: it is not.
    pub retry: Option<Retry>,
    /// Keep what the job prints, up to this number of bytes of each of its two streams.
    pub capture: Option<usize>,
    /// Bytes that the job carries along.
    pub carried: Option<Box<[u8]>>,
    /// The id of the request that the job works for.
    pub request: Option<String>,
    /// The job may send items, of which so many may wait to be read.
    pub stream: Option<usize>,
    /// The submitter wants an answer at once: a full queue refuses the job, whatever the policy.
    pub never_wait: bool,
}

impl Instructions {
    pub(super) fn of_options(options: &Options, has_name: bool, stream: Option<usize>) -> Self {
        let extras = options.extras();
        Self {
            name: if has_name { options.name.clone().into_owned() } else { String::new() },
            priority: options.priority,
            queue_timeout: extras.queue_timeout,
            run_timeout: extras.run_timeout,
            retry: extras.retry,
            capture: extras.capture.as_ref().map(Captured::limit),
            carried: extras.carried.clone(),
            request: extras.request.as_deref().map(str::to_owned),
            stream,
            never_wait: options.never_wait,
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        let Self { name, carried, request, capture, stream, .. } = self;
        at_most("the job's name", name.len(), MAX_NAME)?;
        at_most("the request's id", request.as_deref().map_or(0, str::len), MAX_NAME)?;
        at_most("what the job carries", carried.as_deref().map_or(0, <[u8]>::len), MAX_CARRIED)?;
        at_most("the limit for captured output", capture.unwrap_or(0), MAX_CAPTURE)?;
        at_most("the buffer of the stream", stream.unwrap_or(0), MAX_STREAM)
    }
}

/// Fails if a size that has come from elsewhere exceeds its limit.
fn at_most(what: &str, size: usize, limit: usize) -> Result<(), Malformed> {
    if size <= limit { Ok(()) } else { Err(Malformed(format!("{what} is {size}, more than {limit}"))) }
}

impl Outbound {
    pub(super) fn new(
        id: JobId,
        task: &str,
        signature: Signature,
        arguments: Vec<u8>,
        instructions: Instructions,
    ) -> Self {
        Self { id, task: task.to_owned(), signature, arguments, instructions }
    }

    /// Makes a call of parts that have come from elsewhere, none of which is believed.
    ///
    /// # Errors
    ///
    /// A part is larger than it may be, or `arguments` are not whole values of MessagePack, nested up to 128 levels. The
    /// limits: 1 KiB for the task's name, 4 KiB for the job's name and the request's id, 64 KiB for what the job carries,
    /// 64 MiB for captured output, 65,536 items. The size of the arguments is the pool's matter (its `max_payload`).
    pub fn received(
        task: impl Into<String>,
        signature: Signature,
        arguments: Vec<u8>,
        instructions: Instructions,
    ) -> Result<Self, Malformed> {
        let task = task.into();
        at_most("the length of the task's name", task.len(), MAX_TASK)?;
        instructions.check()?;
        msgpack::check(&arguments).map_err(|error| Malformed(format!("the arguments: {error}")))?;
        Ok(Self { id: JobId::next(), task, signature, arguments, instructions })
    }

    /// Returns the identity of the job in this process: the handle's, or a new one if the call was received.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Returns the name of the task.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Returns the task's signature in the program that submitted the call.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// Returns the encoded arguments: values of MessagePack, one after the other, with the names of fields. Without
    /// arguments it is empty.
    pub fn arguments(&self) -> &[u8] {
        &self.arguments
    }

    pub(super) fn into_parts(self) -> (String, Signature, Vec<u8>, Instructions) {
        (self.task, self.signature, self.arguments, self.instructions)
    }

    /// Returns the encoded arguments by value.
    pub fn into_arguments(self) -> Vec<u8> {
        self.arguments
    }

    /// Returns what the submitter has asked for.
    pub fn instructions(&self) -> &Instructions {
        &self.instructions
    }

    /// Returns the same to be changed. A place that itself counts attempts takes `retry` out before it performs the call,
    /// for instance.
    pub fn instructions_mut(&mut self) -> &mut Instructions {
        &mut self.instructions
    }
}

/// The arguments may be secret or large, so only their size is shown.
impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("id", &self.id)
            .field("task", &self.task)
            .field("signature", &self.signature)
            .field("arguments", &self.arguments.len())
            .field("instructions", &self.instructions)
            .finish()
    }
}

/// The reason why what has come from elsewhere cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub(super) String);

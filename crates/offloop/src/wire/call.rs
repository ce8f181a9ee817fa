//! Calls of tasks, and how they are encoded.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Serialize, Serializer};

use super::msgpack::Error;
use super::payload::{Bytes, Incoming, Payload, answer_whole};
use super::pool_memory::Memory;
use super::registry::find;
use super::task::{EncodedResult, Fault, Task};
use crate::core::error::ErrorKind;
use crate::core::work::{Work, sealed};

/// The call of a task with its arguments, made by the task's `with`.
///
/// A process pool encodes it at once, on the thread that submits it. Borrowed arguments are not read after that. On
/// threads it is an ordinary call, for which its arguments must be `'static`.
#[must_use = "a call does nothing until an executor is given it"]
pub struct Call<'a, R> {
    task: &'static Task,
    bound: Box<dyn BoundCall<R> + 'a>,
}

/// A task's function with its arguments, whatever their types.
trait BoundCall<R>: Send {
    fn encode(&self, context: Option<&CallContext<'_>>, memory: &dyn Memory) -> Result<Payload, Error>;
    fn encode_whole(&self) -> Result<Vec<u8>, Error>;
    fn call(self: Box<Self>) -> R;
}

struct Arguments<A, R> {
    arguments: A,
    body: fn(A) -> R,
}

impl<A: Serialize + Send, R> BoundCall<R> for Arguments<A, R> {
    fn encode(&self, context: Option<&CallContext<'_>>, memory: &dyn Memory) -> Result<Payload, Error> {
        Payload::encode_call(context, &self.arguments, memory)
    }

    fn encode_whole(&self) -> Result<Vec<u8>, Error> {
        Payload::encode_whole_call(&self.arguments)
    }

    fn call(self: Box<Self>) -> R {
        (self.body)(self.arguments)
    }
}

/// Makes the call of a task: arguments, and the function that takes them.
pub(crate) fn call<'a, A, R>(task: &'static Task, arguments: A, body: fn(A) -> R) -> Call<'a, R>
where
    A: Serialize + Send + 'a,
    R: 'a,
{
    Call { task, bound: Box::new(Arguments { arguments, body }) }
}

impl<R> Call<'_, R> {
    /// Returns the name of the task: the one that the program has given it, else its path, `crate::module::function`.
    pub fn task_name(&self) -> &'static str {
        self.task.name
    }

    pub(crate) fn task(&self) -> &'static Task {
        self.task
    }

    /// Encodes the call for the workers of a pool, which read `memory`.
    pub(crate) fn encode(
        &self,
        context: Option<&CallContext<'_>>,
        memory: &dyn Memory,
    ) -> Result<Encoded, ErrorKind> {
        self.task.check_registered()?;
        match self.bound.encode(context, memory) {
            Ok(arguments) => {
                let has_context = context.is_some();
                Ok(Encoded { task: self.task, arguments, has_context, is_whole: false, kind: 0 })
            }
            Err(error) => Err(self.task.wrong_arguments(&error)),
        }
    }

    /// Encodes the arguments into bytes that are complete by themselves, for a call by the task's name.
    pub(crate) fn encode_whole(&self) -> Result<Vec<u8>, ErrorKind> {
        self.task.check_registered()?;
        find(self.task.name).map_err(|conflict| {
            ErrorKind::Encode(format!("a call of `{}` by its name: {conflict}", self.task.name))
        })?;
        self.bound.encode_whole().map_err(|error| self.task.wrong_arguments(&error))
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

/// Details of a job that its worker needs beside the arguments. If there are any, they precede the arguments in the
/// payload.
#[derive(Debug)]
pub(crate) struct CallContext<'a> {
    /// The job's name, if it is not the task's.
    pub(crate) name: Option<&'a str>,
    /// The name of the submitter's span.
    pub(crate) parent: Option<&'a str>,
    /// The bytes that the job [carries](crate::Prepared::carry).
    pub(crate) carried: Option<Bytes<'a>>,
    /// The id of the [request](crate::Prepared::request) that the job works for.
    pub(crate) request: Option<&'a str>,
}

/// Both ends are of one build, so the fields need no names.
impl Serialize for CallContext<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.name, self.parent, self.carried, self.request).serialize(serializer)
    }
}

impl<'a> CallContext<'a> {
    /// Splits the context off the front of a payload.
    pub(crate) fn take(incoming: Incoming<'a>) -> Result<(Self, Incoming<'a>), Error> {
        let ((name, parent, carried, request), arguments) = incoming.split()?;
        Ok((Self { name, parent, carried, request }, arguments))
    }
}

/// A call that is encoded for a worker process.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) task: &'static Task,
    pub(crate) arguments: Payload,
    /// True if a [`CallContext`] precedes the arguments.
    pub(crate) has_context: bool,
    /// Results and items are to be complete by themselves, without parts.
    pub(crate) is_whole: bool,
    /// A hash of the job's task and name. Jobs of the same kind are expected to take about as long.
    pub(crate) kind: u8,
}

/// The number of kinds of jobs.
pub(crate) const KINDS: usize = 256;

impl Encoded {
    /// Makes the call of arguments that are complete by themselves and may have come from another machine. Its results and
    /// items will be complete, too. Fails if the memory is used up.
    pub(crate) fn of_whole(
        task: &'static Task,
        arguments: &[u8],
        context: Option<&CallContext<'_>>,
        memory: &dyn Memory,
    ) -> Result<Self, ErrorKind> {
        let arguments =
            Payload::copy_call(context, arguments, memory).map_err(|error| task.wrong_arguments(&error))?;
        Ok(Self { task, arguments, has_context: context.is_some(), is_whole: true, kind: 0 })
    }

    /// Calls the task on this thread.
    pub(crate) fn run(&self) -> EncodedResult {
        let mut incoming = Incoming::from(&self.arguments);
        if self.has_context {
            incoming = CallContext::take(incoming).map_err(|error| Fault::Arguments(error.to_string()))?.1;
        }
        let _whole = Whole::begin(self.is_whole);
        (self.task.run)(incoming)
    }

    /// Sets the kind of the job, by its task and its name.
    pub(crate) fn named(mut self, name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.task.index(), name).hash(&mut hasher);
        self.kind = hasher.finish().to_le_bytes()[0];
        self
    }
}

/// The scope in which this thread's results and items are complete by themselves, or are not.
pub(crate) struct Whole {
    before: bool,
}

impl Whole {
    pub(crate) fn begin(is_whole: bool) -> Self {
        Self { before: answer_whole(is_whole) }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        answer_whole(self.before);
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests {
    use super::*;
    use crate::wire::pool_memory::PoolMemory;
    use crate::wire::task_fn::{self, TaskFn};

    /// A task that is not in the slice, as are those of another shared object.
    struct Stray;

    impl TaskFn for Stray {
        type Arguments<'call> = (u8,);
        type Output = u8;

        fn task() -> &'static Task {
            static TASK: Task = Task::of::<Stray>("plugin::stray", "fn(u8) -> u8", (file!(), 1, 1));
            &TASK
        }

        fn apply((n,): (u8,)) -> u8 {
            n + 1
        }
    }

    #[test]
    fn a_task_of_another_shared_object_is_refused_at_submission_and_runs_on_threads() {
        let error = task_fn::call::<Stray>((1,)).encode(None, &PoolMemory::new()).unwrap_err().to_string();
        assert!(error.contains("`plugin::stray`") && error.contains("different shared objects"), "{error}");
        assert_eq!(task_fn::call::<Stray>((1,)).perform().unwrap(), 2);
    }
}

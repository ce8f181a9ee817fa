//! Calls of tasks that only another program has.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;

use crate::core::error::ErrorKind;
use crate::core::signature::Signature;
use crate::wire::payload::Payload;

/// A call of a task of another program, by the task's name. `R` is the type to which its result is decoded here.
///
/// A [`Remote`](super::Remote) executor accepts it, also [`prepare`](crate::prepare)d. What has the task is found out where
/// the call arrives, and so is whether the arguments fit.
///
/// ```
/// let words: offloop::remote::NamedCall<Vec<String>> =
///     offloop::remote::NamedCall::new("app.tasks:split", &("so it goes",));
/// ```
#[must_use = "a call does nothing until an executor is given it"]
pub struct NamedCall<R> {
    task: String,
    signature: Signature,
    arguments: Result<Vec<u8>, String>,
    result: PhantomData<fn() -> R>,
}

impl<R> NamedCall<R> {
    /// The signature of a call that leaves open which version of the task it means, and with which types.
    pub const ANY: Signature = Signature::ANY;

    /// Makes the call of a task. `arguments` is a tuple, as long as the task has parameters. If it cannot be encoded, that
    /// is the error of the call's handle.
    pub fn new(task: impl Into<String>, arguments: &impl Serialize) -> Self {
        let task = task.into();
        let arguments = Payload::encode_whole_call(arguments)
            .map_err(|error| format!("the arguments of `{task}`: {error}"));
        Self { task, signature: Self::ANY, arguments, result: PhantomData }
    }

    /// Makes the call of a task with arguments that are encoded: values of MessagePack, one after the other, with the
    /// names of fields; or what else that task understands.
    pub fn encoded(task: impl Into<String>, arguments: Vec<u8>) -> Self {
        Self { task: task.into(), signature: Self::ANY, arguments: Ok(arguments), result: PhantomData }
    }

    /// Asks for the task with this signature. Default: any, [`ANY`](Self::ANY).
    pub fn signature(mut self, signature: Signature) -> Self {
        self.signature = signature;
        self
    }

    /// Returns the name of the task.
    pub fn task(&self) -> &str {
        &self.task
    }

    pub(super) fn into_parts(self) -> (String, Signature, Result<Vec<u8>, ErrorKind>) {
        (self.task, self.signature, self.arguments.map_err(ErrorKind::Encode))
    }
}

impl<R> Clone for NamedCall<R> {
    fn clone(&self) -> Self {
        let Self { task, signature, arguments, result } = self;
        Self { task: task.clone(), signature: *signature, arguments: arguments.clone(), result: *result }
    }
}

/// The arguments may be secret or large, so only their size is shown.
impl<R> fmt::Debug for NamedCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.arguments.as_ref().map(Vec::len);
        f.debug_struct("NamedCall")
            .field("task", &self.task)
            .field("arguments", &size)
            .finish_non_exhaustive()
    }
}

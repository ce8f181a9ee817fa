//! Calls of tasks that only another program has.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;

use crate::core::error::ErrorKind;
use crate::core::options::Prepared;
use crate::core::signature::Signature;
use crate::wire::call::Call;
use crate::wire::payload::Payload;
use crate::wire::task::{ELSEWHERE, Task};

/// A call of a task of another program, by the task's name. `R` is the type to which its result is decoded here.
///
/// A [`Remote`](super::Remote) executor accepts it, also [`prepare`](crate::prepare)d. What has the task is found out where
/// the call arrives, and so is whether the arguments fit.
///
/// A [`Call`] of a task of this program, prepared or not, converts into a [`Prepared`] named call: it goes by the task's name
/// and signature.
///
/// ```
/// let words: offloop::remote::NamedCall<Vec<String>> =
///     offloop::remote::NamedCall::new("app.tasks:split", &("so it goes",));
/// ```
#[must_use = "a call does nothing until an executor is given it"]
pub struct NamedCall<R> {
    name: Cow<'static, str>,
    /// The task, if this program has it.
    task: &'static Task,
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
        let name = task.into();
        let arguments = Payload::encode_whole_call(arguments)
            .map_err(|error| format!("the arguments of `{name}`: {error}"));
        Self::of_elsewhere(name, arguments)
    }

    /// Makes the call of a task with arguments that are encoded: values of MessagePack, one after the other, with the
    /// names of fields; or what else that task understands.
    pub fn encoded(task: impl Into<String>, arguments: Vec<u8>) -> Self {
        Self::of_elsewhere(task.into(), Ok(arguments))
    }

    fn of_elsewhere(name: String, arguments: Result<Vec<u8>, String>) -> Self {
        let (name, task) = (name.into(), &ELSEWHERE);
        Self { name, task, signature: Self::ANY, arguments, result: PhantomData }
    }

    /// Makes it of the call of a task of this program.
    pub(super) fn of(call: &Call<'_, R>) -> Self {
        let task = call.task();
        let arguments = call.encode_whole().map_err(|kind| match kind {
            ErrorKind::Encode(reason) => reason,
            kind => kind.to_string(),
        });
        let (name, signature) = (task.name.into(), task.signature());
        Self { name, task, signature, arguments, result: PhantomData }
    }

    /// Asks for the task with this signature. Default: any, [`ANY`](Self::ANY).
    pub fn signature(mut self, signature: Signature) -> Self {
        self.signature = signature;
        self
    }

    /// Returns the name of the task.
    pub fn task(&self) -> &str {
        &self.name
    }

    /// Returns what this program knows of the task.
    pub(super) fn known(&self) -> &'static Task {
        self.task
    }

    pub(super) fn into_parts(self) -> (Cow<'static, str>, Signature, Result<Vec<u8>, ErrorKind>) {
        (self.name, self.signature, self.arguments.map_err(ErrorKind::Encode))
    }
}

impl<'a, R> From<Call<'a, R>> for Prepared<NamedCall<R>> {
    fn from(call: Call<'a, R>) -> Self {
        NamedCall::of(&call).into()
    }
}

impl<'a, R> From<Prepared<Call<'a, R>>> for Prepared<NamedCall<R>> {
    fn from(Prepared { work, options }: Prepared<Call<'a, R>>) -> Self {
        Self { work: NamedCall::of(&work), options }
    }
}

impl<R> Clone for NamedCall<R> {
    fn clone(&self) -> Self {
        let Self { name, task, signature, arguments, result } = self;
        let (name, arguments) = (name.clone(), arguments.clone());
        Self { name, task, signature: *signature, arguments, result: *result }
    }
}

/// The arguments may be secret or large, so only their size is shown.
impl<R> fmt::Debug for NamedCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.arguments.as_ref().map(Vec::len);
        f.debug_struct("NamedCall")
            .field("task", &self.name)
            .field("arguments", &size)
            .finish_non_exhaustive()
    }
}

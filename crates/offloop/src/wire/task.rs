//! Tasks: functions that another process can call by their names.

use std::any::{Any, TypeId};
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::AtomicU32;

use serde::{Deserialize, Serialize};

use super::decode::DecodePace;
use super::msgpack::Error;
use super::payload::{Bytes, Incoming, Payload};
use crate::base::panic::Panic;
use crate::core::error::ErrorKind;
use crate::core::signature::Signature;

/// Not public API: a function marked `#[offloop::task]`, as an entry of the registry.
pub struct Task {
    /// The path of the function, or the name that the program has given it.
    pub(crate) name: &'static str,
    /// The program has given the task its name, by which other programs call it. Then no other task may have it.
    pub(super) is_name_fixed: bool,
    pub(crate) version: u32,
    /// The types of the function, as a text that is the same in all builds.
    signature: &'static str,
    /// The file, line and column of the function.
    location: (&'static str, u32, u32),
    /// Distinguishes tasks that are the same otherwise: of a crate that is linked twice, or of one macro.
    marker: fn() -> TypeId,
    /// Decodes arguments, calls the function and encodes its result.
    pub(crate) run: fn(Incoming<'_>) -> EncodedResult,
    /// The position in the sorted registry, by which the task is called over a link. Written by `registry`.
    pub(super) index: AtomicU32,
    /// The time that its results take to be decoded.
    pub(crate) results: DecodePace,
    /// The time that its items take to be decoded.
    pub(crate) items: DecodePace,
}

/// Stands for a task that only another program has, in the records of its jobs here.
pub(crate) static ELSEWHERE: Task = Task::new("", "", ("", 0, 0), TypeId::of::<Task>, |_| {
    Err(Fault::Arguments("only another program has this task".to_owned()))
});

/// The encoded result of a task.
pub(crate) type EncodedResult = Result<Payload, Fault>;

/// The reason why a task has no result that could be sent.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Its arguments could not be decoded, so it was not run.
    Arguments(String),
    /// Its result could not be encoded.
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
    pub(super) const fn new(
        name: &'static str,
        signature: &'static str,
        location: (&'static str, u32, u32),
        marker: fn() -> TypeId,
        run: fn(Incoming<'_>) -> EncodedResult,
    ) -> Self {
        let (results, items) = (DecodePace::new(), DecodePace::new());
        let index = AtomicU32::new(u32::MAX);
        let (is_name_fixed, version) = (false, 1);
        Self { name, is_name_fixed, version, signature, location, marker, run, index, results, items }
    }

    /// Not public API: says that the program has given the task its name.
    pub const fn with_fixed_name(mut self) -> Self {
        self.is_name_fixed = true;
        self
    }

    /// Not public API: sets the version that the program has given the task. Default: 1.
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Returns what two programs must have in common to call this task by its name.
    pub(crate) fn signature(&self) -> Signature {
        Signature::of(self.name, self.version, self.signature)
    }

    pub(super) fn wrong_arguments(&self, error: &Error) -> ErrorKind {
        ErrorKind::Encode(format!("the arguments of `{}`: {error}", self.name))
    }

    /// Returns the place of the function in the source, for errors.
    pub(super) fn place(&self) -> String {
        let (file, line, column) = self.location;
        format!("{file}:{line}:{column}")
    }

    /// Returns all that tells the task from others, in an order that is the same in all processes of one build.
    pub(super) fn identity(&self) -> impl Ord + Hash + use<> {
        (self.name, self.version, self.location, self.signature, (self.marker)())
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task").field(&self.name).finish()
    }
}

/// Decodes the arguments, calls the function and encodes its result. Borrowed arguments borrow from
/// `input`.
pub(crate) fn run<'a, A, R>(input: Incoming<'a>, body: impl FnOnce(A) -> R) -> EncodedResult
where
    A: Deserialize<'a>,
    R: Serialize + 'static,
{
    let arguments = input.decode_arguments().map_err(|error| Fault::Arguments(error.to_string()))?;
    let result = body(arguments);
    let encoded = match (&result as &dyn Any).downcast_ref::<Vec<u8>>() {
        // One block instead of single bytes.
        Some(bytes) => Payload::encode(&Bytes(bytes)),
        None => Payload::encode(&result),
    };
    encoded.map_err(|error| Fault::Result(error.to_string()))
}

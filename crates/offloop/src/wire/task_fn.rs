//! The side of a task that `#[offloop::task]` writes: its types, and how to call it.

use std::any::{Any, TypeId};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::call::{self, Call};
use super::payload::{ByteBuf, Bytes, Incoming};
use super::task::{self, EncodedResult, Task};

/// Not public API: a function marked `#[offloop::task]`, as a type.
pub trait TaskFn: 'static {
    /// The arguments of a call, as they are sent. They may borrow for as long as the call lasts.
    type Arguments<'call>: Serialize + Deserialize<'call> + Send + 'call;

    /// The result, which owns its data.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Returns the entry in the registry.
    fn task() -> &'static Task;

    /// Calls the function.
    fn apply(arguments: Self::Arguments<'_>) -> Self::Output;
}

/// Not public API: makes the call that `f.with(…)` returns.
pub fn call<T: TaskFn>(arguments: T::Arguments<'_>) -> Call<'_, T::Output> {
    call::call(T::task(), arguments, T::apply)
}

impl Task {
    /// Not public API: makes the entry of a task.
    pub const fn of<T: TaskFn>(
        name: &'static str,
        signature: &'static str,
        location: (&'static str, u32, u32),
    ) -> Self {
        Self::new(name, signature, location, TypeId::of::<T>, run::<T>)
    }
}

/// Decodes the arguments, calls the function and encodes its result.
fn run<T: TaskFn>(input: Incoming<'_>) -> EncodedResult {
    task::run::<T::Arguments<'_>, T::Output>(input, T::apply)
}

/// Not public API: an argument whose type is written as `Vec<u8>`. If it is that of the standard library, it is encoded
/// as one block, not byte by byte. Another type of this name encodes itself.
#[derive(Debug)]
pub struct OwnedBytes<T>(pub T);

impl<T: Serialize + 'static> Serialize for OwnedBytes<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (&self.0 as &dyn Any).downcast_ref::<Vec<u8>>() {
            Some(bytes) => Bytes(bytes).serialize(serializer),
            None => self.0.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de> + 'static> Deserialize<'de> for OwnedBytes<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value: Option<T> = None;
        if let Some(bytes) = (&mut value as &mut dyn Any).downcast_mut::<Option<Vec<u8>>>() {
            *bytes = Some(ByteBuf::deserialize(deserializer)?.0);
            return Ok(Self(value.expect("it was just set")));
        }
        T::deserialize(deserializer).map(Self)
    }
}

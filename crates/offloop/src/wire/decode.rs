//! The values that come back, and the thread that decodes them.

use std::any::{Any, TypeId};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::blob::Blob;
use super::copies::copied;
use super::msgpack::{Error, whole_block};
use super::payload::{ByteBuf, Incoming, Received};

/// Decodes a value that a worker has sent.
pub(crate) fn decode<R: DeserializeOwned + 'static>(received: Received<'_>) -> Result<R, Error> {
    // Large bytes and texts are copied once, straight to where they stay. A text is validated there.
    if is::<R, Vec<u8>>() {
        if let Some(block) = whole_block(received.body, false) {
            return Ok(same(copied(block)));
        }
    } else if is::<R, String>() {
        if let Some(block) = whole_block(received.body, true) {
            return String::from_utf8(copied(block)).map(same).map_err(|_| Error::Utf8);
        }
    } else if is_encoded::<R>() {
        return Ok(same(Encoded(received.settled().into_owned())));
    }
    decode_in_place(Incoming { body: &received.settled(), parts: received.parts })
}

/// Decodes a value from memory that does not change.
pub(crate) fn decode_in_place<R: DeserializeOwned + 'static>(incoming: Incoming<'_>) -> Result<R, Error> {
    if is::<R, Vec<u8>>() {
        return incoming.decode::<ByteBuf>().map(|bytes| same(bytes.0));
    } else if is_encoded::<R>() {
        return Ok(same(Encoded(incoming.body.to_vec())));
    }
    incoming.decode()
}

/// A result or an item as it came, which is decoded elsewhere: by a binding, in its own language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded(pub Vec<u8>);

/// Results and items of this type are taken as they are (by `decode`), so only a value within another one gets here.
impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByteBuf::deserialize(deserializer).map(|bytes| Self(bytes.0))
    }
}

/// Returns whether values of this type are taken as they came.
pub(crate) fn is_encoded<R: 'static>() -> bool {
    is::<R, Encoded>()
}

fn is<A: 'static, B: 'static>() -> bool {
    TypeId::of::<A>() == TypeId::of::<B>()
}

/// Returns a value whose type `A` is known to be `B`.
fn same<A: 'static, B: 'static>(value: A) -> B {
    let mut value = Some(value);
    let value = (&mut value as &mut dyn Any).downcast_mut::<Option<B>>().and_then(Option::take);
    value.expect("the types were compared")
}

/// Returns whether values of this type are decoded by the standard library or by this crate alone, and quickly.
pub(crate) fn is_plain<R: 'static>() -> bool {
    macro_rules! is_one_of {
        ($($plain:ty),*) => { [$(TypeId::of::<$plain>()),*].contains(&TypeId::of::<R>()) };
    }
    is_one_of!(
        (), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64,
        String, Vec<u8>, Blob, Encoded, Result<(), String>
    )
}

/// Values above this size are decoded on other threads, so that the thread that took them can go on. In bytes.
const LARGE: usize = 64 * 1024;

/// Returns whether a value of this encoded length may be decoded by the thread that has taken it: one that is not large,
/// and of a type that is known to be quick (`is_plain`) or has been. See [`DecodePace`].
pub(crate) fn is_quick(length: usize, is_plain: bool, pace: &DecodePace) -> bool {
    length <= LARGE && (is_plain || pace.is_quick())
}

/// Learns how long values of one kind take to be decoded.
///
/// `Deserialize` is the user's code, and may do anything. A thread that has taken an answer, such as the thread of an
/// event loop or the pool's supervisor, decodes the value only if values of its kind have been quick. Otherwise another
/// thread does. The first value of a kind is always for another thread. A kind that turns out to be slow now and then is
/// trusted less each time, up to once in [`MAX_DISTRUST`](Self::MAX_DISTRUST) values.
#[derive(Debug)]
pub(crate) struct DecodePace {
    /// The number of values that are to be quick, one after the other, until the kind counts as quick.
    missing: AtomicU32,
    /// The number that `missing` was set to by the last slow value.
    distrust: AtomicU32,
}

impl DecodePace {
    /// A value that takes no longer is quick. To wake another thread takes about as long.
    const QUICK: Duration = Duration::from_micros(20);

    const MAX_DISTRUST: u32 = 1024;

    pub(super) const fn new() -> Self {
        Self { missing: AtomicU32::new(1), distrust: AtomicU32::new(1) }
    }

    /// Returns whether values of this kind have been decoded quickly.
    pub(crate) fn is_quick(&self) -> bool {
        self.missing.load(Ordering::Relaxed) == 0
    }

    /// Calls `decode` and learns how long it takes.
    pub(crate) fn measure<T>(&self, decode: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let value = decode();
        self.learn(began.elapsed());
        value
    }

    /// Records the time that one value has taken. Threads that do this at a time may lose one another's records, which
    /// does no harm.
    fn learn(&self, took: Duration) {
        let missing = self.missing.load(Ordering::Relaxed);
        if took > Self::QUICK {
            let distrust = (2 * self.distrust.load(Ordering::Relaxed)).min(Self::MAX_DISTRUST);
            self.distrust.store(distrust, Ordering::Relaxed);
            self.missing.store(distrust, Ordering::Relaxed);
        } else if missing > 0 {
            self.missing.store(missing - 1, Ordering::Relaxed);
        }
    }
}

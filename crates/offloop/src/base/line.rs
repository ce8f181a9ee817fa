//! A cache line for one value.

use std::ops::Deref;

/// A value on a cache line of its own. If some threads write to it often, others that read its neighbours need not fetch
/// them again each time.
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) T);

impl<T> Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

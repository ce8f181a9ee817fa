//! A place in memory apart from its neighbours.

use std::ops::{Deref, DerefMut};

/// A value that shares no cache line with its neighbours. If threads write to it often, those that read the neighbours
/// need not fetch them again each time.
///
/// Two lines of 64 bytes, since processors of Intel and AMD fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Apart<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

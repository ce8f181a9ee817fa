//! The channel between a pool and one worker process.

mod pool_end;
mod ring;
#[cfg(all(test, not(shuttle), not(miri)))]
mod tests;
mod worker_end;

pub(crate) use pool_end::*;
pub(crate) use ring::*;
pub(crate) use worker_end::*;

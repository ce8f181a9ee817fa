//! The ground floor: synchronisation, forks, clocks and panics. Nothing here knows what a job is.

pub(crate) mod clock;
pub(crate) mod fork;
pub(crate) mod panic;
pub(crate) mod sync;

//! The system calls that the process pool needs, each in one place.

pub(crate) mod process;

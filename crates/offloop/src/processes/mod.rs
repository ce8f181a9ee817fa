//! The process pool, divided by the process that runs the code: `pool` runs in the parent, `worker` in a worker, and
//! `link` is the channel between them. `os` holds the system calls beneath. The protocol is in `README.md`.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod limits;
pub(crate) mod link;
pub(crate) mod os;
pub(crate) mod pool;
pub(crate) mod worker;

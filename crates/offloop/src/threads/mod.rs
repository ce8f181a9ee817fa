//! The thread pool.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `pool`, `state` | the public types |
//! | `builder`, `config` | the settings |
//! | `injector` | where submitters leave ordinary jobs, without the scheduler's lock |
//! | `scheduler` | the decisions: which thread is woken or started. All of them under one lock |
//! | `registry` | the lock, and what follows from the decisions |
//! | `worker`, `local` | one worker thread, from its start to its end, and the value that it owns |
//! | `spawn` | threads that somebody else starts |
//! | `shutdown` | how a pool is closed, drained and cancelled |
//! | `view`, `birth` | what the live view shows of a pool, and what its threads say about themselves for it |
//!
//! The README beside this file has the protocol by which threads are woken, and the proof that no job is forgotten.

#[cfg(feature = "observe")]
mod birth;
mod builder;
mod config;
mod injector;
mod local;
#[cfg(all(test, shuttle))]
mod model;
mod pool;
mod registry;
mod scheduler;
mod shutdown;
mod spawn;
mod state;
#[cfg(feature = "observe")]
mod view;
#[cfg(all(test, weak_memory))]
mod weak_model;
mod worker;

pub use builder::ThreadPoolBuilder;
pub use config::Growth;
pub use local::discard_worker_state;
pub use pool::ThreadPool;
pub use spawn::WorkerThread;
pub use state::StatePool;

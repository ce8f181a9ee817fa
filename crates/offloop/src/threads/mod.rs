//! The thread pool.

mod builder;
mod injector;
#[cfg(all(test, shuttle))]
mod model;
mod pool;
mod registry;
mod scheduler;
mod shutdown;
mod spawn;
mod state;

pub use builder::ThreadPoolBuilder;
pub use pool::ThreadPool;
pub use spawn::WorkerThread;
pub use state::{StatePool, discard_worker_state};

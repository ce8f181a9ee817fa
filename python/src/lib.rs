//! The Python face: a thin binding. What the interpreter sees of the engine is here; what it makes of it is in the
//! package's Python code.
//!
//! | module | what it is |
//! | --- | --- |
//! | `processes` | a process pool, and the jobs submitted to it |
//! | `threads` | a thread pool, the lives of its threads, and the calls submitted to it |
//! | `worker` | the other side: the template of the workers, and a worker |
//! | `message` | what travels between the two |
//! | `buffer` | Python's buffer protocol, for what travels without being copied |
//! | `mailbox` | the way of results into the interpreter: ended jobs of one loop |
//! | `once` | what is made once, safely beside `fork()` |
//! | `watch` | the watchdog of event loops, as far as it must do without the interpreter |
//! | `settings` | settings as users write them |
//! | `metrics` | the figures of pools, as values |
//! | `errors` | the engine's errors as exceptions |

mod buffer;
mod errors;
mod mailbox;
mod message;
mod metrics;
mod once;
mod processes;
mod settings;
mod threads;
mod watch;
mod worker;

use pyo3::prelude::*;

/// What the package `offloop` is made of.
#[pymodule(gil_used = false)]
mod _offloop {
    #[pymodule_export]
    use crate::mailbox::{Job, Mailbox};

    #[pymodule_export]
    use crate::message::{emit, perform_by};

    #[pymodule_export]
    use crate::metrics::{Advice, Histogram, Metrics, metrics, prometheus};

    #[pymodule_export]
    use crate::processes::{ProcessPool, settle};

    #[pymodule_export]
    use crate::threads::{Armed, Entry, Life, ThreadPool, blocking, is_cancelled, on_cancel};

    #[pymodule_export]
    use crate::watch::{Notice, Post, Pulse, Stacks, cpu_clocks};

    #[pymodule_export]
    use crate::worker::{Template, Worker};

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}

//! The binding of the engine to Python, the package's module `_offloop`.
//!
//! It is thin: the engine schedules, the package's Python code makes the executors of it. Modules import only modules
//! that stand below them here.
//!
//! | module | contents |
//! | --- | --- |
//! | `threads`, `processes`, `shutdown` | the two pools, and how they end |
//! | `worker` | the worker's side of a process pool |
//! | `perform` | a call in a worker: unpickled, made, answered |
//! | `command` | the command `offloop` |
//! | `cluster`, `agent` | the executor on a cluster, and the worker of one |
//! | `current` | what a job can do and ask while it runs |
//! | `view` | the live view: what the engine learns of Python's jobs, and the servers |
//! | `watch` | the watchdog of event loops, as far as it must work without the interpreter |
//! | `future_call` | a call on a thread that ends its own future |
//! | `call` | a call of a Python function on a thread |
//! | `deferred_result`, `pool_state` | what such calls share: with the thread, and with the pool |
//! | `job` | submitted jobs, and how their ends reach the receivers |
//! | `callbacks` | what users have attached to a future |
//! | `completion_queue` | ended jobs on their way to the interpreter |
//! | `message`, `buffer` | what travels to a worker process and back |
//! | `data` | plain values as bytes, for results that are not unpickled |
//! | `plain` | the same in MessagePack, for calls between languages |
//! | `receive` | how a result becomes a Python object |
//! | `submission` | what is checked and taken of a call on its way into a pool |
//! | `pickled_call`, `prelude` | a call as it travels to a worker process, and what precedes it |
//! | `reference` | functions by their names |
//! | `pickle` | plain pickles |
//! | `options` | the options of one call |
//! | `metrics`, `settings` | metrics and settings as values of Python |
//! | `interpreter` | the only way into the interpreter and out of it |
//! | `errors` | errors of the engine as exceptions |
//! | `once` | values that are made once, safely beside `fork()` |

mod agent;
mod buffer;
mod call;
mod callbacks;
mod cluster;
mod command;
mod completion_queue;
mod current;
mod data;
mod deferred_result;
mod errors;
mod future_call;
mod interpreter;
mod job;
mod message;
mod metrics;
mod once;
mod options;
mod perform;
mod pickle;
mod pickled_call;
mod plain;
mod pool_state;
mod prelude;
mod processes;
mod receive;
mod reference;
mod sent_items;
mod settings;
mod shutdown;
mod submission;
mod threads;
mod view;
mod watch;
mod worker;

use pyo3::prelude::*;

/// The engine's binding.
#[pymodule(gil_used = false)]
mod _offloop {
    use super::{Bound, PyModule, PyResult};

    #[pymodule_export]
    use crate::agent::ClusterWorker;

    #[pymodule_export]
    use crate::buffer::Shared;

    #[pymodule_export]
    use crate::cluster::{Cluster, EmbeddedServer, generate_key, public_key};

    #[pymodule_export]
    use crate::command::run_command;

    #[pymodule_export]
    use crate::completion_queue::{Mailbox, flush};

    #[pymodule_export]
    use crate::current::{CancelGuard, blocking, is_cancelled, on_cancel, request, run_delay};

    #[pymodule_export]
    use crate::data::{decode_data, encode_data};

    #[pymodule_export]
    use crate::future_call::SubmittedCall;

    #[pymodule_export]
    use crate::job::Job;

    #[pymodule_export]
    use crate::message::emit;

    #[pymodule_export]
    use crate::metrics::{Advice, Histogram, Metrics, metrics, prometheus};

    #[pymodule_export]
    use crate::options::CallOptions;

    #[pymodule_export]
    use crate::perform::{emit_item, set_performer};

    #[pymodule_export]
    use crate::plain::{decode_plain, decode_plain_arguments, encode_plain, encode_plain_arguments};

    #[pymodule_export]
    use crate::processes::ProcessPool;

    #[pymodule_export]
    use crate::settings::present_cores;

    #[pymodule_export]
    use crate::threads::{ThreadPool, WorkerThread};

    #[pymodule_export]
    use crate::view::{
        ObserveEvents, ObserveHandler, ObserveServer, observe_from_environment, prepare_view, snapshot,
    };

    #[pymodule_export]
    use crate::watch::{EventQueue, Pulse, StackFrame, Stacks, StallEvent};

    #[pymodule_export]
    use crate::worker::{Template, Worker};

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    #[expect(clippy::unnecessary_wraps, reason = "the macro wants a result")]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::interpreter::prepare();
        Ok(())
    }
}

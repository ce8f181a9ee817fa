//! The parent's side of a process pool.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `pool`, `builder`, `config` | the public type, and how it is set up |
//! | `scheduler` | the pool's state and the decisions about it, under one lock |
//! | `dispatcher` | that lock, and what is done after it is released |
//! | `worker` | the record of one worker: its phase and its calls |
//! | `workers` | the records of all, and the choice of one for the next job |
//! | `supervisor`, `waiting`, `ending` | the thread that starts workers and watches them; what it waits for; how it ends them |
//! | `child`, `template`, `death` | what the supervisor knows of a process, of the template, of a death |
//! | `remote`, `results` | a job that runs in another process, and how its answer becomes its end |
//! | `items`, `item_queue` | items that a job sends before its result |
//! | `output` | what workers print |
//! | `view` | what the live view shows of a pool |

pub(crate) mod builder;
mod child;
pub(crate) mod config;
mod death;
pub(crate) mod dispatcher;
mod ending;
pub(crate) mod item_queue;
pub(crate) mod items;
mod output;
#[expect(clippy::module_inception, reason = "the pool's public type")]
pub(crate) mod pool;
pub(crate) mod remote;
pub(super) mod results;
mod scheduler;
mod supervisor;
mod template;
#[cfg(feature = "observe")]
mod view;
mod waiting;
mod worker;
mod workers;

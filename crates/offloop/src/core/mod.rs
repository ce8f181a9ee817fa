//! The life of one job, from its submission to its end. Nothing here knows a pool, a process or a metric.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `id`, `options`, `header` | what every job has: identity, state, instructions, flags |
//! | `runnable` | the traits through which executors see a job of any type |
//! | `cell` | the state machine of a job: it ends exactly once |
//! | `job`, `executor`, `work` | what an executor is given, and the trait to implement |
//! | `handle`, `map` | what the caller holds |
//! | `current`, `cancel` | what a running job can ask, and how it is asked to stop |
//! | `queue`, `backlog` | bounded queues by priority, and the policies when they are full |
//! | `timer`, `spin`, `compensation` | deadlines; short waits; stand-ins for threads that wait |
//! | `pool_ref` | what the clones of a pool share |
//! | `observer`, `outcome`, `span` | how ends are recorded |
//! | `error`, `captured`, `shutdown` | what callers get beside results |
//! | `signature` | what programs must have in common to call a function by its name |

pub(crate) mod backlog;
pub(crate) mod cancel;
pub(crate) mod captured;
pub(crate) mod cell;
pub(crate) mod compensation;
pub(crate) mod current;
pub(crate) mod error;
pub(crate) mod executor;
pub(crate) mod handle;
pub(crate) mod header;
pub(crate) mod id;
pub(crate) mod job;
pub(crate) mod map;
pub(crate) mod observer;
pub(crate) mod options;
pub(crate) mod outcome;
pub(crate) mod pool_ref;
pub(crate) mod queue;
pub(crate) mod runnable;
pub(crate) mod shutdown;
pub(crate) mod signature;
pub(crate) mod span;
pub(crate) mod spin;
pub(crate) mod timer;
pub(crate) mod work;

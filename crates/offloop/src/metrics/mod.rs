//! Metrics of the pools: how long jobs wait and run, how they end, what state the workers are in.
//!
//! [`ThreadPool::metrics`](crate::ThreadPool::metrics) and its like return those of one pool, [`all`] those of all
//! pools of this program. They are plain values; [`prometheus()`] writes them in the text format of Prometheus.
//!
//! Metrics are always recorded. Each worker thread counts for itself, without locks; a job costs two readings of the
//! clock and a few additions.
//!
//! ```
//! use offloop::metrics::{self, Outcome};
//!
//! let pool = offloop::ThreadPool::builder().name("reports").build()?;
//! pool.run(|| 6 * 7).wait()?;
//! let metrics = pool.metrics();
//! assert_eq!(metrics.outcomes[Outcome::Completed], 1);
//! assert!(metrics.run_time.quantile(0.99).is_some());
//! assert!(metrics::prometheus(&metrics::all()).contains("offloop_jobs_total{"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod advice;
pub(crate) mod cpu;
pub(crate) mod families;
mod prometheus;
#[cfg(feature = "metrics")]
mod publisher;
mod registry;
pub(crate) mod stats;
mod values;
#[cfg(feature = "observe")]
pub(crate) mod view;

pub use self::advice::Advice;
pub(crate) use self::advice::{Advisor, OnAdvice};
pub use self::prometheus::prometheus;
#[cfg(feature = "observe")]
pub(crate) use self::prometheus::write;
#[cfg(feature = "metrics")]
pub use self::publisher::Publisher;
pub use self::registry::all;
#[cfg(feature = "observe")]
pub(crate) use self::registry::for_each;
pub(crate) use self::registry::{Measured, register};
pub use self::values::{ArenaBytes, Metrics, Outcomes, PoolKind, Restarts, WorkerCounts};
pub use crate::base::activity::Activity;
pub use crate::base::histogram::{Histogram, Recorder};
pub use crate::core::outcome::Outcome;

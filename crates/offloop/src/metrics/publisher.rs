//! Figures for whatever recorder the program has installed with the `metrics` crate.

#![expect(clippy::cast_precision_loss, reason = "figures are for people: 53 bits are enough")]

use std::collections::HashMap;
use std::sync::Arc;

use ::metrics::{counter, gauge, histogram};

use super::{Histogram, Kind, Metrics};

/// Publishes figures through the [`metrics`](::metrics) crate, under the names and labels of
/// [`prometheus`](super::prometheus()). Times are in seconds; a histogram's samples are the middles of its buckets.
///
/// Call [`publish`](Self::publish) as often as the figures are to be fresh; jobs cost nothing more for it.
#[derive(Debug, Default)]
pub struct Publisher {
    /// What was published of each pool.
    before: HashMap<(Arc<str>, Kind), [Histogram; 3]>,
}

impl Publisher {
    /// One that has published nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes the figures of these pools, [`all`](super::all) for instance. Pools of the same name and kind cannot be
    /// told apart: give them names.
    pub fn publish(&mut self, pools: &[Metrics]) {
        for pool in pools {
            let labels = [("pool", pool.pool.to_string()), ("kind", pool.kind.as_str().to_owned())];
            let with = |label, value: &str| {
                let [name, kind] = labels.clone();
                [name, kind, (label, value.to_owned())]
            };
            for (outcome, count) in pool.outcomes.iter() {
                counter!("offloop_jobs_total", &with("outcome", outcome.as_str())).absolute(count);
            }
            gauge!("offloop_queued_jobs", &labels).set(pool.queued as f64);
            gauge!("offloop_running_jobs", &labels).set(pool.running as f64);
            for (state, count) in pool.workers_by_state() {
                gauge!("offloop_workers", &with("state", state)).set(count as f64);
            }
            if pool.kind == Kind::Processes {
                counter!("offloop_job_retries_total", &labels).absolute(pool.retried);
                for (reason, count) in pool.restarts.iter() {
                    counter!("offloop_worker_restarts_total", &with("reason", reason)).absolute(count);
                }
            }
            if let Some(arena) = pool.arena {
                gauge!("offloop_arena_bytes", "state" => "used").set(arena.used as f64);
                gauge!("offloop_arena_bytes", "state" => "kept").set(arena.kept as f64);
            }
            let before = self.before.entry((Arc::clone(&pool.pool), pool.kind)).or_default();
            let now =
                [pool.queue_wait.clone(), pool.run_time.clone(), pool.lock_wait.clone().unwrap_or_default()];
            let names = ["offloop_queue_wait_seconds", "offloop_run_seconds", "offloop_lock_wait_seconds"];
            for ((name, now), before) in names.into_iter().zip(now).zip(before) {
                for (time, count) in now.news(before) {
                    histogram!(name, &labels)
                        .record_many(time.as_secs_f64(), usize::try_from(count).unwrap_or(usize::MAX));
                }
                *before = now;
            }
        }
    }
}

//! Figures as Prometheus reads them: its text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::{Histogram, Kind, Metrics};

/// Writes figures in Prometheus' text format, to be served as `text/plain; version=0.0.4`.
///
/// Each series is labelled with its `pool` and `kind`; pools of the same name and kind are added up. Times are in
/// seconds, memory is in bytes.
pub fn prometheus(pools: &[Metrics]) -> String {
    let mut merged: BTreeMap<(&str, Kind), Metrics> = BTreeMap::new();
    for pool in pools {
        merged
            .entry((&pool.pool, pool.kind))
            .and_modify(|sum| sum.merge(pool))
            .or_insert_with(|| pool.clone());
    }
    let pools: Vec<Metrics> = merged.into_values().collect();
    let mut page = Page(String::new());
    // Writing to a string does not fail.
    let _ = page.write(&pools);
    page.0
}

impl Metrics {
    fn merge(&mut self, other: &Self) {
        for (outcome, count) in other.outcomes.iter() {
            self.outcomes[outcome] += count;
        }
        self.retried += other.retried;
        self.queue_wait.merge(&other.queue_wait);
        self.run_time.merge(&other.run_time);
        self.queued += other.queued;
        self.running += other.running;
        let (ours, theirs) = (&mut self.workers, other.workers);
        ours.busy += theirs.busy;
        ours.idle += theirs.idle;
        ours.blocked += theirs.blocked;
        ours.starting += theirs.starting;
        ours.leaving += theirs.leaving;
        let (ours, theirs) = (&mut self.restarts, other.restarts);
        ours.crashed += theirs.crashed;
        ours.job_ended += theirs.job_ended;
        ours.memory += theirs.memory;
        ours.max_jobs += theirs.max_jobs;
        ours.max_age += theirs.max_age;
        ours.protocol += theirs.protocol;
        ours.failed_start += theirs.failed_start;
        // It is the process's, not the pool's.
        self.arena = self.arena.or(other.arena);
        if let Some(theirs) = &other.lock_wait {
            self.lock_wait.get_or_insert_default().merge(theirs);
        }
        for advice in &other.advice {
            match self.advice.iter_mut().find(|ours| ours.task == advice.task && ours.found == advice.found) {
                Some(ours) => {
                    ours.jobs += advice.jobs;
                    ours.ran += advice.ran;
                    ours.on_core += advice.on_core;
                }
                None => self.advice.push(advice.clone()),
            }
        }
    }
}

struct Page(String);

impl Page {
    fn write(&mut self, pools: &[Metrics]) -> fmt::Result {
        self.family("offloop_jobs_total", "counter", "Jobs that have ended, by outcome.")?;
        for pool in pools {
            for (outcome, count) in pool.outcomes.iter() {
                self.sample("offloop_jobs_total", pool, &[("outcome", outcome.as_str())], count)?;
            }
        }
        self.each(
            "offloop_job_retries_total",
            "counter",
            "AdaptiveSpin that followed the death of a worker.",
            pools,
            |pool| (pool.kind == Kind::Processes).then_some(pool.retried),
        )?;
        self.each("offloop_queued_jobs", "gauge", "Accepted jobs that wait for a worker.", pools, |pool| {
            Some(pool.queued as u64)
        })?;
        self.each("offloop_running_jobs", "gauge", "Jobs that run.", pools, |pool| {
            Some(pool.running as u64)
        })?;
        self.histograms("offloop_queue_wait_seconds", "How long jobs waited for a worker.", pools, |pool| {
            Some(&pool.queue_wait)
        })?;
        self.histograms("offloop_run_seconds", "How long jobs ran.", pools, |pool| Some(&pool.run_time))?;
        self.histograms(
            "offloop_lock_wait_seconds",
            "How long threads waited for the interpreter's lock.",
            pools,
            |pool| pool.lock_wait.as_ref(),
        )?;
        self.family("offloop_workers", "gauge", "Workers, by state.")?;
        for pool in pools {
            for (state, count) in pool.workers_by_state() {
                self.sample("offloop_workers", pool, &[("state", state)], count as u64)?;
            }
        }
        let has_processes = |pool: &&Metrics| pool.kind == Kind::Processes;
        self.family(
            "offloop_worker_restarts_total",
            "counter",
            "Worker processes that were replaced, by reason.",
        )?;
        for pool in pools.iter().filter(has_processes) {
            for (reason, count) in pool.restarts.iter() {
                self.sample("offloop_worker_restarts_total", pool, &[("reason", reason)], count)?;
            }
        }
        if let Some(arena) = pools.iter().find_map(|pool| pool.arena) {
            self.family(
                "offloop_arena_bytes",
                "gauge",
                "Shared memory for large payloads, of this process.",
            )?;
            writeln!(self.0, "offloop_arena_bytes{{state=\"used\"}} {}", arena.used)?;
            writeln!(self.0, "offloop_arena_bytes{{state=\"kept\"}} {}", arena.kept)?;
        }
        self.advice(pools)
    }

    /// Jobs that would be better off elsewhere.
    fn advice(&mut self, pools: &[Metrics]) -> fmt::Result {
        self.family(
            "offloop_misplaced_jobs_total",
            "counter",
            "Jobs that would be better off elsewhere, by task.",
        )?;
        self.misplaced("offloop_misplaced_jobs_total", pools, |advice| advice.jobs.to_string())?;
        self.family("offloop_misplaced_seconds_total", "counter", "How long those jobs ran, by task.")?;
        self.misplaced("offloop_misplaced_seconds_total", pools, |advice| seconds(advice.ran))
    }

    fn misplaced(
        &mut self,
        name: &str,
        pools: &[Metrics],
        value: impl Fn(&super::Advice) -> String,
    ) -> fmt::Result {
        for pool in pools {
            for advice in &pool.advice {
                let labels = [("task", advice.task.as_str()), ("found", advice.found.as_str())];
                self.sample(name, pool, &labels, value(advice))?;
            }
        }
        Ok(())
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    /// A family with one sample a pool at most.
    fn each(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        pools: &[Metrics],
        value: impl Fn(&Metrics) -> Option<u64>,
    ) -> fmt::Result {
        self.family(name, kind, help)?;
        for pool in pools {
            if let Some(value) = value(pool) {
                self.sample(name, pool, &[], value)?;
            }
        }
        Ok(())
    }

    fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        pools: &'a [Metrics],
        of: impl Fn(&'a Metrics) -> Option<&'a Histogram>,
    ) -> fmt::Result {
        if !pools.iter().any(|pool| of(pool).is_some()) {
            return Ok(());
        }
        self.family(name, "histogram", help)?;
        for pool in pools {
            let Some(histogram) = of(pool) else { continue };
            for (bound, count) in histogram.cumulative() {
                let bound = bound.map_or_else(|| "+Inf".to_owned(), seconds);
                self.sample(&format!("{name}_bucket"), pool, &[("le", &bound)], count)?;
            }
            self.sample(&format!("{name}_sum"), pool, &[], seconds(histogram.sum()))?;
            self.sample(&format!("{name}_count"), pool, &[], histogram.count())?;
        }
        Ok(())
    }

    fn sample(
        &mut self,
        name: &str,
        pool: &Metrics,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) -> fmt::Result {
        write!(self.0, "{name}{{pool=\"{}\",kind=\"{}\"", Escaped(&pool.pool), pool.kind.as_str())?;
        for (label, text) in labels {
            write!(self.0, ",{label}=\"{}\"", Escaped(text))?;
        }
        writeln!(self.0, "}} {value}")
    }
}

/// In seconds, exact to the nanosecond.
fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A label's text.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

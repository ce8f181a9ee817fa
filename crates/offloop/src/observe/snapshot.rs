//! Makes snapshots.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use super::document::{
    Advice, Arena, Death, EventLoop, Job, MAX_JOBS, Place, Pool, Process, Quantiles, Snapshot, Starvation,
    Times, VERSION, Worker,
};
use super::history::{History, PoolReading, Reading};
use super::process::{self, Identity, seconds_of_day};
use super::settings;
use crate::base::clock::Moment;
use crate::base::histogram::Histogram;
use crate::base::panic;
use crate::base::starvation::Losses;
use crate::metrics;
use crate::metrics::Outcomes;
use crate::metrics::view::deaths::{self, DeathRecord};
use crate::metrics::view::inspector::{JobPlace, inspector, note_observed, program};
use crate::metrics::view::{JobView, PoolView};
use crate::watch::record::{self, WatchedLoop};

/// The most places that a snapshot lists of one loop.
const MAX_PLACES: usize = 20;

/// Returns the state of this process: its pools, its watched loops, the last deaths of workers.
///
/// Stops nobody: it takes the lock of each pool once, for microseconds, and reads some files of `/proc`. It does not wait
/// for a loop or for an interpreter. Rates and the quantiles of the last minute come from comparing with earlier calls,
/// those for other viewers included; so the first snapshot has none. In a forked child it is about the child alone.
pub fn snapshot() -> Snapshot {
    note_observed();
    let now = Moment::now();
    let mut views = Vec::new();
    metrics::for_each(|id, built, pool| views.push((id, built, pool.view())));
    let loops = record::all();
    let mut history = History::of_this_process();
    history.forget(now);
    let reading = Reading {
        at: now,
        cpu: process::cpu_time(),
        workers: worker_times(&views),
        threads: process::thread_times(history.newest().map(|newest| &newest.threads)),
        losses: Losses::read(),
        pools: views.iter().map(|(id, _, view)| (*id, PoolReading::of(view))).collect(),
        loops: loops.iter().map(|watched| (watched.record.id, watched.record.lateness.read())).collect(),
    };
    let look = Look { now: &reading, before: history.before(now), oldest: history.oldest() };
    let identity = Identity::of_this_process();
    let mut advice = Vec::new();
    for (.., view) in &views {
        advice.extend(view.metrics.advice.iter().map(|advice| Advice {
            pool: advice.pool.to_string(),
            task: advice.task.clone(),
            activity: advice.activity.as_str().to_owned(),
            text: advice.to_string(),
        }));
    }
    let snapshot = Snapshot {
        version: VERSION,
        time: seconds_of_day(SystemTime::now()),
        process: Process {
            pid: identity.pid,
            service: settings::service(),
            command: identity.command.clone(),
            language: program().map_or("rust", |(language, _)| language).to_owned(),
            offloop: env!("CARGO_PKG_VERSION").to_owned(),
            started: identity.started,
            cores_used: look.cores_used(),
            cores: identity.cores,
            rss: process::rss(None),
            threads: Some(reading.threads.len()).filter(|count| *count > 0),
            may_cancel: false,
        },
        starvation: look.starvation(),
        pools: views.into_iter().map(|(id, built, view)| look.pool(id, built, view)).collect(),
        loops: loops.iter().map(|watched| look.event_loop(watched)).collect(),
        deaths: deaths::last().into_iter().map(death).collect(),
        advice,
    };
    if history.is_due(now) {
        history.keep(reading);
    }
    snapshot
}

fn worker_times(views: &[(u64, Moment, PoolView)]) -> HashMap<u32, Duration> {
    let workers = views.iter().flat_map(|(.., view)| &view.workers);
    workers
        .filter_map(|worker| worker.place.pid)
        .filter_map(|pid| Some((pid, process::cpu_time_of(pid)?)))
        .collect()
}

impl PoolReading {
    fn of(view: &PoolView) -> Self {
        let metrics = &view.metrics;
        Self {
            outcomes: metrics.outcomes,
            queue_wait: metrics.queue_wait.clone(),
            run_time: metrics.run_time.clone(),
        }
    }
}

/// The reading of this moment, and those that it is compared with.
struct Look<'a> {
    now: &'a Reading,
    /// The one for rates.
    before: Option<&'a Reading>,
    /// The one for the last minute.
    oldest: Option<&'a Reading>,
}

impl Look<'_> {
    /// Returns the time since the reading for rates, and that reading.
    fn since(&self) -> Option<(f64, &Reading)> {
        let before = self.before?;
        let passed = self.now.at.since(before.at).as_secs_f64();
        (passed > 0.0).then_some((passed, before))
    }

    fn cores_used(&self) -> Option<f64> {
        let (passed, before) = self.since()?;
        Some(self.now.cpu?.saturating_sub(before.cpu?).as_secs_f64() / passed)
    }

    fn cores_used_by(&self, pid: u32) -> Option<f64> {
        let (passed, before) = self.since()?;
        let now = self.now.workers.get(&pid)?;
        Some(now.saturating_sub(*before.workers.get(&pid)?).as_secs_f64() / passed)
    }

    fn starvation(&self) -> Starvation {
        let Some((seconds, before)) = self.since() else { return Starvation::default() };
        let delays = self.now.threads.iter().map(|(id, now)| {
            // A thread that is new has its whole delay since then.
            let before = before.threads.get(id).map_or(Duration::ZERO, |before| before.run_delay);
            now.run_delay.saturating_sub(before)
        });
        let delayed: Duration = delays.sum();
        let (throttled, stolen) =
            self.now.losses.shares_since(&before.losses, Duration::from_secs_f64(seconds));
        Starvation {
            seconds,
            run_delay: (!self.now.threads.is_empty()).then(|| delayed.as_secs_f64() / seconds),
            throttled,
            stolen,
        }
    }

    fn pool(&self, id: u64, built: Moment, view: PoolView) -> Pool {
        let PoolView { metrics, capacity, oldest_queued, max_workers, workers, mut jobs } = view;
        // A pool that is not in the oldest reading was built later: all that it has recorded is new.
        let oldest = self.oldest.and_then(|reading| reading.pools.get(&id));
        let none = Histogram::default();
        let (queue_wait, run_time) = oldest.map_or((&none, &none), |pool| (&pool.queue_wait, &pool.run_time));
        jobs.sort_by_key(|job| std::cmp::Reverse(job.running));
        jobs.truncate(MAX_JOBS);
        Pool {
            id,
            name: metrics.pool.to_string(),
            kind: metrics.kind.as_str().to_owned(),
            queued: metrics.queued,
            capacity,
            oldest_queued: oldest_queued.map(|age| age.as_secs_f64()),
            running: metrics.running,
            workers_by_state: metrics
                .workers_by_state()
                .map(|(state, count)| (state.to_owned(), count))
                .collect(),
            max_workers,
            workers: workers
                .iter()
                .map(|worker| Worker {
                    pid: worker.place.pid,
                    thread: worker.place.thread,
                    state: worker.state.to_owned(),
                    rss: worker.place.pid.and_then(|pid| process::rss(Some(pid))),
                    cores_used: worker.place.pid.and_then(|pid| self.cores_used_by(pid)),
                    age: worker.age.map(|age| age.as_secs_f64()),
                })
                .collect(),
            jobs: jobs.into_iter().map(job).collect(),
            queue_wait: self.times(&metrics.queue_wait, queue_wait, built),
            run_time: self.times(&metrics.run_time, run_time, built),
            outcomes: outcomes(&metrics.outcomes),
            outcomes_per_second: self.outcomes_per_second(id, &metrics.outcomes),
            retried: metrics.retried,
            restarts: metrics.restarts.iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
            arena: metrics.arena.map(|arena| Arena { used: arena.used, kept: arena.kept }),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are for people: 53 bits are enough")]
    fn outcomes_per_second(&self, id: u64, now: &Outcomes) -> BTreeMap<String, f64> {
        let Some((passed, before)) = self.since() else { return BTreeMap::new() };
        // A pool that is not in the reading was built later, so all of its jobs are new.
        let before = before.pools.get(&id).map(|pool| pool.outcomes).unwrap_or_default();
        let rates = now.iter().map(|(outcome, count)| {
            let new = count.saturating_sub(before[outcome]);
            (outcome.as_str().to_owned(), new as f64 / passed)
        });
        rates.collect()
    }

    /// Returns the distribution of times that are recorded since `began`. `oldest` is that of the oldest reading.
    fn times(&self, now: &Histogram, oldest: &Histogram, began: Moment) -> Times {
        let recent = self.oldest.map(|reading| {
            let passed = self.now.at.since(reading.at.max(began));
            quantiles(&now.since(oldest), passed.as_secs_f64())
        });
        Times {
            recent: recent.unwrap_or_default(),
            total: quantiles(now, self.now.at.since(began).as_secs_f64()),
            buckets: now.filled().map(|(bound, count)| (bound.as_secs_f64(), count)).collect(),
        }
    }

    fn event_loop(&self, watched: &WatchedLoop) -> EventLoop {
        let record = &watched.record;
        let counts = record.counts();
        let now = self.now.loops.get(&record.id).cloned().unwrap_or_default();
        let none = Histogram::default();
        let oldest = self.oldest.and_then(|reading| reading.loops.get(&record.id)).unwrap_or(&none);
        EventLoop {
            id: record.id,
            name: record.name.clone().into_owned(),
            kind: record.kind.clone().into_owned(),
            threshold: record.threshold.as_secs_f64(),
            late_now: watched.late_now().as_secs_f64(),
            lateness: self.times(&now, oldest, record.began),
            stalls: counts.stalls,
            stalled: counts.stalled.as_secs_f64(),
            starved: counts.starved,
            starved_seconds: counts.starved_time.as_secs_f64(),
            places: record
                .worst_places(MAX_PLACES)
                .into_iter()
                .map(|(spot, place)| Place {
                    file: spot.file,
                    line: spot.line,
                    function: spot.function,
                    stalls: place.stalls,
                    stalled: place.stalled.as_secs_f64(),
                    longest: place.longest.as_secs_f64(),
                    last: seconds_of_day(place.last),
                    activity: place.activity.map(|activity| activity.as_str().to_owned()),
                    advice: place.advice.map(Into::into),
                })
                .collect(),
        }
    }
}

/// Returns the quantiles of times that were recorded over this time.
fn quantiles(times: &Histogram, seconds: f64) -> Quantiles {
    let quantile = |share| times.quantile(share).map(|time| time.as_secs_f64());
    Quantiles {
        count: times.count(),
        seconds,
        p50: quantile(0.5),
        p99: quantile(0.99),
        max: times.filled().next_back().map(|(bound, _)| bound.as_secs_f64()),
    }
}

fn outcomes(outcomes: &Outcomes) -> BTreeMap<String, u64> {
    outcomes.iter().map(|(outcome, count)| (outcome.as_str().to_owned(), count)).collect()
}

fn job(view: JobView) -> Job {
    let name = name_of(&view);
    Job {
        id: view.id,
        name: Some(name).filter(|name| !name.is_empty()),
        request: view.request.map(|request| request.to_string()),
        running: view.running.as_secs_f64(),
        time_left: view.time_left.map(|left| left.as_secs_f64()),
        pid: view.place.pid,
        thread: view.place.thread,
        is_cancelled: view.is_cancelled,
    }
}

/// Returns the name of a job: that of the binding, if there is one that knows better.
fn name_of(view: &JobView) -> String {
    let place = place_of(view);
    let theirs = inspector().filter(|_| place.thread.is_some()).and_then(|inspector| {
        // It is code of a binding. If it panics, the view goes on without it.
        panic::catch(|| inspector.job_name(&place)).unwrap_or_else(|panic| {
            panic::drop_quietly(panic);
            None
        })
    });
    theirs.unwrap_or_else(|| view.name.clone())
}

/// Returns the place of a job as a binding is told it.
pub(super) fn place_of(view: &JobView) -> JobPlace<'_> {
    JobPlace { job: view.id, name: &view.name, pid: view.place.pid, thread: view.place.thread }
}

fn death(record: DeathRecord) -> Death {
    let (job, task) = record.job.unzip();
    Death {
        time: seconds_of_day(record.time),
        pool: record.pool,
        pid: record.pid,
        how: record.how,
        job,
        task,
        peak_rss: Some(record.peak_memory).filter(|bytes| *bytes > 0),
        last_words: Some(record.last_words).filter(|words| !words.is_empty()),
    }
}

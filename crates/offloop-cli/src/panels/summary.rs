//! The sums of a service, above its panels.

use offloop::observe::document::{Pool, Service};

use crate::table::Tone;
use crate::text;

/// A value of the summary, with its label.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) label: &'static str,
    pub(crate) text: String,
    pub(crate) tone: Tone,
}

/// Returns the lines above the panels.
pub(crate) fn summary(service: &Service) -> [Vec<Value>; 3] {
    let sums = totals(service);
    let value = |label, text: String| Value { label, text, tone: Tone::Plain };
    let toned =
        |label, text, is_bad, tone| Value { label, text, tone: if is_bad { tone } else { Tone::Plain } };
    let unknown = |value: Option<f64>, format: fn(f64) -> String| value.map_or("-".to_owned(), format);
    let first = service.processes.first();
    let count = service.processes.len();

    let mut head = vec![Value {
        label: "",
        text: first.map(|it| it.process.service.clone()).unwrap_or_default(),
        tone: Tone::Strong,
    }];
    head.push(value("", if count == 1 { "1 process".to_owned() } else { format!("{count} processes") }));
    if !service.missing.is_empty() {
        head.push(toned("", format!("{} more do not answer", service.missing.len()), true, Tone::Bad));
    }
    if let Some(first) = first {
        head.push(value("up", text::duration(first.time - sums.started)));
        head.push(value("", format!("offloop {} in {}", first.process.offloop, first.process.language)));
    }

    let mut work = vec![
        value("cpu", format!("{:.2} of {} cores", sums.cores_used, sums.cores)),
        value(
            "jobs",
            format!(
                "{} running, {} queued",
                text::count(sums.running as u64),
                text::count(sums.queued as u64)
            ),
        ),
        value("done", format!("{}/s", text::number(sums.done))),
        toned("failed", format!("{}/s", text::number(sums.failed)), sums.failed > 0.0, Tone::Warning),
        value("memory", text::bytes(sums.rss)),
    ];
    if sums.workers_rss > 0 {
        work.push(value("of workers", text::bytes(sums.workers_rss)));
    }

    let is_late = service
        .processes
        .iter()
        .flat_map(|it| &it.loops)
        .any(|it| it.late_now >= it.threshold && it.late_now > 0.0);
    let mut loops = Vec::new();
    if sums.loops > 0 {
        loops.push(toned("late now", text::duration(sums.late_now), is_late, Tone::Bad));
        loops.push(value("p99", unknown(sums.late_p99, text::duration)));
        loops.push(value("max", unknown(sums.late_max, text::duration)));
        loops.push(value(
            "stalls",
            format!("{} ({})", text::count(sums.stalls), text::duration(sums.stalled)),
        ));
    } else {
        loops.push(value("", "no loop is watched".to_owned()));
    }
    for (label, share) in
        [("run delay", sums.run_delay), ("throttled", sums.throttled), ("stolen", sums.stolen)]
    {
        let is_much = share.is_some_and(|share| share >= 0.05);
        loops.push(toned(label, unknown(share, text::percent), is_much, Tone::Warning));
    }
    [head, work, loops]
}

/// Returns the sums of a service for its head.
pub(crate) fn totals(service: &Service) -> Totals {
    let mut totals = Totals::default();
    for snapshot in &service.processes {
        let process = &snapshot.process;
        totals.cores_used += process.cores_used.unwrap_or(0.0);
        totals.cores = totals.cores.max(process.cores);
        totals.rss += process.rss.unwrap_or(0);
        totals.started = totals.started.min(process.started);
        for pool in &snapshot.pools {
            totals.running += pool.running;
            totals.queued += pool.queued;
            totals.workers_rss += pool.workers.iter().filter_map(|worker| worker.rss).sum::<u64>();
            totals.cores_used += pool
                .workers
                .iter()
                .filter(|worker| worker.pid.is_some())
                .filter_map(|worker| worker.cores_used)
                .sum::<f64>();
            let (done, failed) = rates(pool);
            totals.done += done;
            totals.failed += failed;
        }
        for watched in &snapshot.loops {
            totals.loops += 1;
            totals.late_now = totals.late_now.max(watched.late_now);
            totals.stalls += watched.stalls;
            totals.stalled += watched.stalled;
            raise(&mut totals.late_p99, watched.lateness.recent.p99);
            raise(&mut totals.late_max, watched.lateness.recent.max);
        }
        raise(&mut totals.run_delay, snapshot.starvation.run_delay);
        raise(&mut totals.throttled, snapshot.starvation.throttled);
        raise(&mut totals.stolen, snapshot.starvation.stolen);
    }
    totals
}

/// Makes a value the larger of the two.
fn raise(value: &mut Option<f64>, other: Option<f64>) {
    if let Some(other) = other {
        *value = Some(value.map_or(other, |value| value.max(other)));
    }
}

/// The sums of a service. Shares and lateness are those of the worst process.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) cores_used: f64,
    pub(crate) cores: usize,
    pub(crate) rss: u64,
    pub(crate) workers_rss: u64,
    pub(crate) started: f64,
    pub(crate) running: usize,
    pub(crate) queued: usize,
    pub(crate) done: f64,
    pub(crate) failed: f64,
    pub(crate) loops: usize,
    pub(crate) late_now: f64,
    pub(crate) late_p99: Option<f64>,
    pub(crate) late_max: Option<f64>,
    pub(crate) stalls: u64,
    pub(crate) stalled: f64,
    pub(crate) run_delay: Option<f64>,
    pub(crate) throttled: Option<f64>,
    pub(crate) stolen: Option<f64>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            cores_used: 0.0,
            cores: 0,
            rss: 0,
            workers_rss: 0,
            started: f64::INFINITY,
            running: 0,
            queued: 0,
            done: 0.0,
            failed: 0.0,
            loops: 0,
            late_now: 0.0,
            late_p99: None,
            late_max: None,
            stalls: 0,
            stalled: 0.0,
            run_delay: None,
            throttled: None,
            stolen: None,
        }
    }
}

/// Returns the jobs a second that have ended well, and those that have ended in another way.
pub(super) fn rates(pool: &Pool) -> (f64, f64) {
    let mut rates = (0.0, 0.0);
    for (outcome, rate) in &pool.outcomes_per_second {
        let sum = if outcome == COMPLETED { &mut rates.0 } else { &mut rates.1 };
        *sum += rate;
    }
    rates
}

/// The outcome of a job whose function has returned. All others are failures of some kind.
const COMPLETED: &str = "completed";

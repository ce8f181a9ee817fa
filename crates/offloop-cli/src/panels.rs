//! A service as tables.

use std::collections::BTreeMap;

use offloop::observe::document::{EventLoop, Place, Pool, Quantiles, Service, Snapshot};

use crate::history::{BAND_COUNT, History, Key, Of, Sample};
use crate::programs::Program;
use crate::table::{Cell, Column, JobName, Order, Row, Table, Tone};
use crate::text;

/// A panel of the screen, and a section of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panel {
    Overview,
    Processes,
    Pools,
    Jobs,
    Workers,
    Loops,
    Stalls,
    Deaths,
    Advice,
}

impl Panel {
    pub(crate) const ALL: [Self; 9] = [
        Self::Overview,
        Self::Processes,
        Self::Pools,
        Self::Jobs,
        Self::Workers,
        Self::Loops,
        Self::Stalls,
        Self::Deaths,
        Self::Advice,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Processes => "Processes",
            Self::Pools => "Pools",
            Self::Jobs => "Jobs",
            Self::Workers => "Workers",
            Self::Loops => "Loops",
            Self::Stalls => "Stalls",
            Self::Deaths => "Deaths",
            Self::Advice => "Advice",
        }
    }

    /// Returns the panel's table. That of the overview lists the jobs.
    pub(crate) fn table(self, sight: &Sight<'_>) -> Table {
        match self {
            Self::Overview | Self::Jobs => jobs(sight),
            Self::Processes => processes(sight),
            Self::Pools => pools(sight),
            Self::Workers => workers(sight),
            Self::Loops => loops(sight),
            Self::Stalls => stalls(sight),
            Self::Deaths => deaths(sight),
            Self::Advice => advice(sight),
        }
    }

    /// Returns the order in which the panel is shown at first. Without one it is that of the document.
    pub(crate) fn order(self) -> Option<Order> {
        match self {
            Self::Overview | Self::Jobs => Some(Order { column: 2, descends: true }),
            Self::Stalls => Some(Order { column: 3, descends: true }),
            _ => None,
        }
    }
}

/// A service, and what is known of its past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) service: &'a Service,
    pub(crate) history: &'a History,
    pub(crate) symbols: &'a Symbols,
}

/// The characters of plots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbols {
    pub(crate) levels: [char; 9],
    pub(crate) shades: [char; 5],
    pub(crate) cut: char,
    pub(crate) is_ascii: bool,
}

impl Symbols {
    pub(crate) const UNICODE: Self = Self {
        levels: [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        shades: [' ', '░', '▒', '▓', '█'],
        cut: '…',
        is_ascii: false,
    };
    pub(crate) const ASCII: Self = Self {
        levels: [' ', '.', ':', '-', '=', '+', '*', '#', '@'],
        shades: [' ', '.', ':', '*', '#'],
        cut: '~',
        is_ascii: true,
    };
}

/// The width of the strips in tables.
const STRIP: usize = 24;

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
fn rates(pool: &Pool) -> (f64, f64) {
    let mut rates = (0.0, 0.0);
    for (outcome, rate) in &pool.outcomes_per_second {
        let sum = if outcome == COMPLETED { &mut rates.0 } else { &mut rates.1 };
        *sum += rate;
    }
    rates
}

/// The outcome of a job whose function has returned. All others are failures of some kind.
const COMPLETED: &str = "completed";

/// Returns the programs to choose from.
pub(crate) fn programs(programs: &[Program]) -> Table {
    let columns = vec![
        Column::text("SERVICE", 0),
        Column::text("PROCESSES", 1),
        Column::number("RUNNING", 2),
        Column::number("QUEUED", 3),
        Column::number("LATE", 4),
        Column::number("UP", 5),
        Column::text("LANGUAGE", 6),
        Column::text("COMMAND", 1),
    ];
    let rows = programs.iter().map(|program| {
        let mut service = Service::default();
        service.processes.clone_from(&program.processes);
        let sums = totals(&service);
        let first = program.processes.first();
        let pids: Vec<_> = program.processes.iter().map(|it| it.process.pid.to_string()).collect();
        let (name, note) = match &program.trouble {
            Some(error) => (program.endpoint.to_string(), Cell::text(format!("{error}")).toned(Tone::Bad)),
            None => (
                program.service.clone(),
                Cell::text(first.map(|it| it.process.command.join(" ")).unwrap_or_default()).toned(Tone::Dim),
            ),
        };
        let known = first.is_some();
        let count = |count: usize| Cell::number(known.then_some(count as f64), |_| text::count(count as u64));
        Row {
            key: format!("{name} {}", program.endpoint),
            cells: vec![
                Cell::text(name).toned(Tone::Strong),
                Cell::text(pids.join(" ")),
                count(sums.running),
                count(sums.queued),
                lateness((sums.loops > 0).then_some(sums.late_now), 0.1),
                Cell::number(first.map(|it| it.time - sums.started), text::duration),
                Cell::text(first.map(|it| it.process.language.clone()).unwrap_or_default()),
                note,
            ],
            ..Row::default()
        }
    });
    Table { title: "Programs", columns, rows: rows.collect(), empty: "no program can be watched any more" }
}

fn processes(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::number("PID", 0),
        Column::strip(5),
        Column::number("CPU", 1),
        Column::number("MEMORY", 1),
        Column::number("THREADS", 5),
        Column::number("UP", 2),
        Column::number("RUN DELAY", 3),
        Column::number("THROTTLED", 3),
        Column::number("STOLEN", 4),
        Column::text("LANGUAGE", 6),
        Column::text("OFFLOOP", 6),
        Column::text("COMMAND", 2),
    ];
    let mut rows: Vec<_> = sight.service.processes.iter().map(|snapshot| process(sight, snapshot)).collect();
    rows.extend(sight.service.missing.iter().map(|missing| {
        Row {
            key: missing.pid.to_string(),
            cells: [pid(missing.pid)]
                .into_iter()
                .chain(std::iter::repeat_n(Cell::default(), columns.len() - 2))
                .chain([Cell::text(format!("does not answer: {}", missing.reason)).toned(Tone::Bad)])
                .collect(),
            ..Row::default()
        }
    }));
    Table { title: "Processes", columns, rows, empty: "no process has answered" }
}

fn process(sight: &Sight<'_>, snapshot: &Snapshot) -> Row {
    let process = &snapshot.process;
    let starvation = &snapshot.starvation;
    let share = |share: Option<f64>| {
        Cell::number(share, text::percent).toned_if(share.is_some_and(|share| share >= 0.05), Tone::Warning)
    };
    let series = Key { pid: process.pid, of: Of::Process, id: 0 };
    let detail = vec![
        process.command.join(" "),
        format!(
            "{} cores, {} pools, {} watched loops. Jobs {} be cancelled from here.",
            process.cores,
            snapshot.pools.len(),
            snapshot.loops.len(),
            if process.may_cancel { "can" } else { "cannot" },
        ),
        format!(
            "Over the last {} its threads have waited for a core for {} of the time of one core.",
            text::duration(starvation.seconds),
            starvation.run_delay.map_or("an unknown part".to_owned(), text::percent),
        ),
    ];
    Row {
        key: process.pid.to_string(),
        cells: vec![
            pid(process.pid),
            level_strip(sight, series),
            Cell::number(process.cores_used, |cores| format!("{cores:.2}")),
            size(process.rss),
            Cell::number(process.threads.map(|threads| threads as f64), |threads| {
                text::count(threads as u64)
            }),
            Cell::number(Some(snapshot.time - process.started), text::duration),
            share(starvation.run_delay),
            share(starvation.throttled),
            share(starvation.stolen),
            Cell::text(process.language.as_str()),
            Cell::text(process.offloop.as_str()),
            Cell::text(process.command.join(" ")).toned(Tone::Dim),
        ],
        detail,
        ..Row::default()
    }
}

pub(crate) fn pools(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::text("POOL", 0),
        Column::number("PID", 3),
        Column::text("KIND", 6),
        Column::bar("WORKERS", 1),
        Column::number("QUEUED", 1),
        Column::strip(4),
        Column::number("OLDEST", 2),
        Column::number("WAIT P50", 7),
        Column::number("WAIT P99", 2),
        Column::number("RUN P50", 7),
        Column::number("RUN P99", 3),
        Column::number("DONE/S", 2),
        Column::number("FAILED/S", 4),
        Column::number("RESTARTS", 5),
        Column::number("ARENA", 8),
    ];
    let rows = each(sight, |snapshot| &snapshot.pools).map(|(snapshot, pool)| {
        let series = Key { pid: snapshot.process.pid, of: Of::Pool, id: pool.id };
        let is_full = pool.capacity.is_some_and(|capacity| pool.queued >= capacity);
        let (done, failed) = rates(pool);
        let is_measured = !pool.outcomes_per_second.is_empty();
        let restarts: u64 = pool.restarts.values().fold(0, |sum, count| sum.saturating_add(*count));
        let queued = match pool.capacity {
            Some(capacity) => format!("{}/{}", text::count(pool.queued as u64), text::count(capacity as u64)),
            None => text::count(pool.queued as u64),
        };
        Row {
            key: format!("{}/{}", snapshot.process.pid, pool.id),
            cells: vec![
                Cell::text(pool.name.as_str()).toned(Tone::Strong),
                pid(snapshot.process.pid),
                Cell::text(pool.kind.as_str()),
                busy(pool),
                Cell::text(queued).sorted_by(pool.queued as f64).toned_if(is_full, Tone::Bad),
                level_strip(sight, series),
                Cell::number(pool.oldest_queued, text::duration),
                time(&pool.queue_wait.recent, pool.queue_wait.recent.p50),
                time(&pool.queue_wait.recent, pool.queue_wait.recent.p99),
                time(&pool.run_time.recent, pool.run_time.recent.p50),
                time(&pool.run_time.recent, pool.run_time.recent.p99),
                Cell::number(is_measured.then_some(done), text::number),
                Cell::number(is_measured.then_some(failed), text::number)
                    .toned_if(failed > 0.0, Tone::Warning),
                Cell::number((restarts > 0).then_some(restarts as f64), |_| text::count(restarts)),
                Cell::number(pool.arena.as_ref().map(|arena| arena.used as f64), |_| {
                    pool.arena.as_ref().map(|arena| text::bytes(arena.used)).unwrap_or_default()
                }),
            ],
            detail: pool_detail(pool),
            series: Some(series),
            ..Row::default()
        }
    });
    Table { title: "Pools", columns, rows: rows.collect(), empty: "the service has no pool" }
}

/// Returns a bar of the busy workers. As wide for each pool, whatever it has.
fn busy(pool: &Pool) -> Cell {
    const WIDTH: usize = 8;
    let state = |name: &str| pool.workers_by_state.get(name).copied().unwrap_or(0);
    let (busy, blocked) = (state("busy"), state("blocked"));
    let all: usize = pool.workers_by_state.values().sum();
    let most = pool.max_workers.max(all).max(1);
    let part = |count: usize| (count * WIDTH).div_ceil(most).min(WIDTH);
    let mut bar = String::from("[");
    for place in 0..WIDTH {
        let is_busy = place < part(busy);
        bar.push(if is_busy {
            '|'
        } else if place < part(busy + blocked) {
            ':'
        } else {
            ' '
        });
    }
    bar.push(']');
    Cell::text(format!("{bar} {}/{most}", busy + blocked))
        .sorted_by((busy + blocked) as f64)
        .toned_if(busy + blocked >= most, Tone::Warning)
}

fn pool_detail(pool: &Pool) -> Vec<String> {
    let listed = |map: &BTreeMap<String, u64>| {
        let parts: Vec<_> = map
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(key, count)| format!("{key} {}", text::count(*count)))
            .collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    };
    let states: BTreeMap<_, _> =
        pool.workers_by_state.iter().map(|(state, count)| (state.clone(), *count as u64)).collect();
    let mut lines = vec![
        format!("workers: {}, at most {}", listed(&states), pool.max_workers),
        format!("ended: {}", listed(&pool.outcomes)),
        format!("waited: {}", quantiles(&pool.queue_wait.recent, &pool.queue_wait.total)),
        format!("ran: {}", quantiles(&pool.run_time.recent, &pool.run_time.total)),
    ];
    if pool.retried > 0 || pool.restarts.values().any(|count| *count > 0) {
        lines.push(format!("workers replaced: {}. Jobs run again: {}", listed(&pool.restarts), pool.retried));
    }
    if let Some(arena) = &pool.arena {
        lines.push(format!(
            "shared memory: {} used, {} kept",
            text::bytes(arena.used),
            text::bytes(arena.kept)
        ));
    }
    lines
}

/// Returns quantiles in words, of the last time and of all.
fn quantiles(recent: &Quantiles, total: &Quantiles) -> String {
    let words = |quantiles: &Quantiles| {
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), text::duration);
        format!("p50 {} p99 {} max {}", shown(quantiles.p50), shown(quantiles.p99), shown(quantiles.max))
    };
    let span = text::duration(recent.seconds.max(0.0));
    format!("{} (last {span}), {} (all {})", words(recent), words(total), text::count(total.count))
}

fn jobs(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::text("JOB", 0),
        Column::text("POOL", 2),
        Column::number("RUNNING", 1),
        Column::number("LEFT", 4),
        Column::text("REQUEST", 3),
        Column::number("WORKER", 3),
        Column::number("PID", 5),
        Column::number("NUMBER", 6),
        Column::text("STATE", 4),
    ];
    let pools = sight
        .service
        .processes
        .iter()
        .flat_map(|snapshot| snapshot.pools.iter().map(move |pool| (snapshot, pool)));
    let rows = pools.flat_map(|(snapshot, pool)| pool.jobs.iter().map(move |job| (snapshot, pool, job)));
    let rows = rows.map(|(snapshot, pool, job)| {
        let process = &snapshot.process;
        let name = job.name.clone().unwrap_or_else(|| format!("job {}", job.id));
        let worker = job.pid.or(job.thread);
        let is_late = job.time_left.is_some_and(|left| left < 1.0);
        let words = format!(
            "{name}, job {} of pool {} in process {}, which has been running for {}",
            job.id,
            pool.name,
            process.pid,
            text::duration(job.running),
        );
        Row {
            key: format!("{}/{}", process.pid, job.id),
            cells: vec![
                Cell::text(name).toned(Tone::Strong),
                Cell::text(pool.name.as_str()),
                Cell::number(Some(job.running), text::duration),
                Cell::number(job.time_left, |left| text::duration(left.max(0.0)))
                    .toned_if(is_late, Tone::Warning),
                Cell::text(job.request.as_deref().unwrap_or_default()),
                worker.map(pid).unwrap_or_default(),
                pid(process.pid),
                Cell::number(Some(job.id as f64), |_| job.id.to_string()),
                Cell::text(if job.is_cancelled { "cancelled" } else { "" }).toned(Tone::Warning),
            ],
            job: Some(JobName { pid: process.pid, id: job.id, words, may_cancel: process.may_cancel }),
            ..Row::default()
        }
    });
    Table { title: "Jobs", columns, rows: rows.collect(), empty: "no job runs" }
}

fn workers(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::number("WORKER", 0),
        Column::text("POOL", 1),
        Column::text("STATE", 1),
        Column::number("CPU", 2),
        Column::number("MEMORY", 2),
        Column::number("AGE", 3),
        Column::number("PID", 5),
        Column::text("JOB", 2),
        Column::number("RUNNING", 4),
    ];
    let rows = each(sight, |snapshot| &snapshot.pools).flat_map(|(snapshot, pool)| {
        pool.workers.iter().enumerate().map(move |(place, worker)| {
            let id = worker.pid.or(worker.thread);
            let is_of = |job: &&offloop::observe::document::Job| {
                (worker.pid.is_some() && job.pid == worker.pid)
                    || (worker.pid.is_none() && worker.thread.is_some() && job.thread == worker.thread)
            };
            let job = pool.jobs.iter().find(is_of);
            let tone = match worker.state.as_str() {
                "blocked" => Tone::Warning,
                "idle" => Tone::Dim,
                _ => Tone::Plain,
            };
            Row {
                key: format!("{}/{}/{}", snapshot.process.pid, pool.id, id.map_or(place as u64, u64::from)),
                cells: vec![
                    id.map(pid).unwrap_or_default(),
                    Cell::text(pool.name.as_str()),
                    Cell::text(worker.state.as_str()).toned(tone),
                    Cell::number(worker.cores_used, |cores| format!("{cores:.2}")),
                    size(worker.rss),
                    Cell::number(worker.age, text::duration),
                    pid(snapshot.process.pid),
                    Cell::text(
                        job.map(|job| job.name.clone().unwrap_or_else(|| format!("job {}", job.id)))
                            .unwrap_or_default(),
                    ),
                    Cell::number(job.map(|job| job.running), text::duration),
                ],
                job: job.map(|job| JobName {
                    pid: snapshot.process.pid,
                    id: job.id,
                    words: format!("job {} of worker {}", job.id, id.unwrap_or_default()),
                    may_cancel: snapshot.process.may_cancel,
                }),
                ..Row::default()
            }
        })
    });
    Table { title: "Workers", columns, rows: rows.collect(), empty: "no worker is there" }
}

pub(crate) fn loops(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::text("LOOP", 0),
        Column::number("PID", 3),
        Column::text("KIND", 6),
        Column::number("LATE NOW", 0),
        Column::strip(2),
        Column::number("P50", 6),
        Column::number("P99", 1),
        Column::number("MAX", 2),
        Column::number("STALLS", 1),
        Column::number("STALLED", 2),
        Column::number("STARVED", 4),
        Column::number("FOR", 5),
    ];
    let rows = each(sight, |snapshot| &snapshot.loops).map(|(snapshot, watched)| {
        let series = Key { pid: snapshot.process.pid, of: Of::Loop, id: watched.id };
        let recent = &watched.lateness.recent;
        Row {
            key: format!("{}/{}", snapshot.process.pid, watched.id),
            cells: vec![
                Cell::text(watched.name.as_str()).toned(Tone::Strong),
                pid(snapshot.process.pid),
                Cell::text(watched.kind.as_str()),
                lateness(Some(watched.late_now), watched.threshold),
                lateness_strip(sight, series, watched.threshold),
                lateness(recent.p50, watched.threshold),
                lateness(recent.p99, watched.threshold),
                lateness(recent.max, watched.threshold),
                Cell::number(Some(watched.stalls as f64), |_| text::count(watched.stalls)),
                Cell::number(Some(watched.stalled), text::duration),
                Cell::number((watched.starved > 0).then_some(watched.starved as f64), |_| {
                    text::count(watched.starved)
                }),
                Cell::number((watched.starved > 0).then_some(watched.starved_seconds), text::duration),
            ],
            detail: loop_detail(watched),
            series: Some(series),
            ..Row::default()
        }
    });
    Table { title: "Loops", columns, rows: rows.collect(), empty: "no loop is watched" }
}

fn loop_detail(watched: &EventLoop) -> Vec<String> {
    let mut lines = vec![
        format!("late: {}", quantiles(&watched.lateness.recent, &watched.lateness.total)),
        format!("a stall is a lateness of {} or more", text::duration(watched.threshold)),
        format!(
            "late for lack of a core, which is no stall: {}, for {}",
            text::count(watched.starved),
            text::duration(watched.starved_seconds)
        ),
    ];
    for place in &watched.places {
        lines.push(format!(
            "{} in {} stalls: {}",
            text::duration(place.stalled),
            place.stalls,
            place_of(place)
        ));
    }
    lines
}

/// Returns a place as `function (file:line)`.
fn place_of(place: &Place) -> String {
    let line = place.line.map(|line| format!(":{line}")).unwrap_or_default();
    match &place.file {
        Some(file) => format!("{} ({}{line})", place.function, end_of_path(file)),
        None => place.function.clone(),
    }
}

/// Returns the last two names of a path.
fn end_of_path(path: &str) -> &str {
    path.rmatch_indices('/').nth(1).map_or(path, |(at, _)| &path[at + 1..])
}

fn stalls(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::text("PLACE", 0),
        Column::text("LOOP", 4),
        Column::number("STALLS", 1),
        Column::number("STALLED", 1),
        Column::number("LONGEST", 2),
        Column::number("AGO", 2),
        Column::text("ACTIVITY", 3),
        Column::number("PID", 5),
    ];
    let rows = each(sight, |snapshot| &snapshot.loops).flat_map(|(snapshot, watched)| {
        watched.places.iter().map(move |place| {
            let mut detail = vec![match (&place.file, place.line) {
                (Some(file), Some(line)) => format!("{} in {file}:{line}", place.function),
                (Some(file), None) => format!("{} in {file}", place.function),
                _ => place.function.clone(),
            }];
            detail.extend(place.advice.clone());
            Row {
                key: format!("{}/{}/{}", snapshot.process.pid, watched.id, detail[0]),
                cells: vec![
                    Cell::text(place_of(place)).toned(Tone::Strong),
                    Cell::text(watched.name.as_str()),
                    Cell::number(Some(place.stalls as f64), |_| text::count(place.stalls)),
                    Cell::number(Some(place.stalled), text::duration),
                    Cell::number(Some(place.longest), text::duration),
                    Cell::number(Some(snapshot.time - place.last), |ago| text::duration(ago.max(0.0))),
                    Cell::text(place.activity.as_deref().unwrap_or_default()),
                    pid(snapshot.process.pid),
                ],
                detail,
                ..Row::default()
            }
        })
    });
    Table { title: "Stalls", columns, rows: rows.collect(), empty: "nothing has stalled a watched loop" }
}

fn deaths(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::number("AGO", 0),
        Column::text("POOL", 2),
        Column::number("WORKER", 3),
        Column::text("HOW", 0),
        Column::text("JOB", 1),
        Column::number("MEMORY", 4),
        Column::text("LAST WORDS", 3),
    ];
    let rows = each(sight, |snapshot| &snapshot.deaths).map(|(snapshot, death)| {
        let task = death.task.clone().or_else(|| death.job.map(|id| format!("job {id}")));
        let words: Vec<_> =
            death.last_words.iter().flat_map(|words| words.lines()).map(str::to_owned).collect();
        let mut detail = vec![format!(
            "worker {} of pool {}: {}{}",
            death.pid,
            death.pool,
            death.how,
            task.as_ref().map(|task| format!(", while it ran {task}")).unwrap_or_default(),
        )];
        let last = words.iter().rev().find(|line| !line.trim().is_empty()).cloned().unwrap_or_default();
        detail.extend(words);
        Row {
            key: format!("{}/{}/{}", snapshot.process.pid, death.pid, death.time),
            cells: vec![
                Cell::number(Some(snapshot.time - death.time), |ago| text::duration(ago.max(0.0))),
                Cell::text(death.pool.as_str()),
                pid(death.pid),
                Cell::text(death.how.as_str()).toned(Tone::Bad),
                Cell::text(task.unwrap_or_default()),
                size(death.peak_rss),
                Cell::text(last).toned(Tone::Dim),
            ],
            detail,
            ..Row::default()
        }
    });
    Table { title: "Deaths", columns, rows: rows.collect(), empty: "no worker has died" }
}

fn advice(sight: &Sight<'_>) -> Table {
    let columns = vec![
        Column::text("TASK", 0),
        Column::text("POOL", 1),
        Column::text("ACTIVITY", 1),
        Column::number("PID", 3),
        Column::text("ADVICE", 0),
    ];
    let rows = each(sight, |snapshot| &snapshot.advice).map(|(snapshot, advice)| Row {
        key: format!("{}/{}/{}", snapshot.process.pid, advice.pool, advice.task),
        cells: vec![
            Cell::text(advice.task.as_str()).toned(Tone::Strong),
            Cell::text(advice.pool.as_str()),
            Cell::text(advice.activity.as_str()),
            pid(snapshot.process.pid),
            Cell::text(advice.text.as_str()),
        ],
        detail: vec![advice.text.clone()],
        ..Row::default()
    });
    Table { title: "Advice", columns, rows: rows.collect(), empty: "no job would be better off elsewhere" }
}

/// Returns the items of all processes, each with its process.
fn each<'a, T: 'a>(
    sight: &Sight<'a>,
    items: impl Fn(&'a Snapshot) -> &'a Vec<T>,
) -> impl Iterator<Item = (&'a Snapshot, &'a T)> {
    sight
        .service
        .processes
        .iter()
        .flat_map(move |snapshot| items(snapshot).iter().map(move |item| (snapshot, item)))
}

fn pid(pid: u32) -> Cell {
    Cell::number(Some(f64::from(pid)), |_| pid.to_string())
}

fn size(bytes: Option<u64>) -> Cell {
    Cell::number(bytes.map(|bytes| bytes as f64), |_| bytes.map(text::bytes).unwrap_or_default())
}

/// Returns a quantile, or an empty cell if nothing was measured.
fn time(of: &Quantiles, value: Option<f64>) -> Cell {
    Cell::number(value.filter(|_| of.count > 0), text::duration)
}

fn lateness(value: Option<f64>, threshold: f64) -> Cell {
    let is_bad = threshold > 0.0 && value.is_some_and(|value| value >= threshold);
    Cell::number(value, text::duration).toned_if(is_bad, Tone::Bad)
}

/// Returns the levels of a series as a strip. The highest one fills its line.
fn level_strip(sight: &Sight<'_>, series: Key) -> Cell {
    let samples: Vec<_> = sight.history.last(series, STRIP).map(|sample| sample.level).collect();
    let top = samples.iter().copied().fold(0.0, f64::max);
    let levels = &sight.symbols.levels;
    let character = |level: f64| {
        let share = if top > 0.0 { (level / top).clamp(0.0, 1.0) } else { 0.0 };
        levels[(share * (levels.len() - 1) as f64).ceil() as usize]
    };
    if samples.is_empty() {
        return Cell::default();
    }
    let padding = std::iter::repeat_n((' ', Tone::Plain), STRIP - samples.len());
    Cell::strip(padding.chain(samples.iter().map(|level| (character(*level), Tone::Plain))))
}

/// Returns the worst lateness of each sample as a strip.
fn lateness_strip(sight: &Sight<'_>, series: Key, threshold: f64) -> Cell {
    let samples: Vec<_> = sight.history.last(series, STRIP).collect();
    if samples.is_empty() {
        return Cell::default();
    }
    let padding = std::iter::repeat_n((' ', Tone::Plain), STRIP - samples.len());
    let marks = samples.iter().map(|sample| lateness_mark(sample, threshold, sight.symbols));
    Cell::strip(padding.chain(marks))
}

fn lateness_mark(sample: &Sample, threshold: f64, symbols: &Symbols) -> (char, Tone) {
    const HEIGHTS: [usize; BAND_COUNT] = [1, 2, 4, 6, 7, 8];
    let band = sample.worst().into_iter().chain((sample.level > 0.0).then(|| band_of(sample.level))).max();
    // The band reaches from a tenth of the next one on.
    let is_stall = sample.level >= threshold || band.is_some_and(|band| band > band_of(threshold));
    let tone = if is_stall && threshold > 0.0 { Tone::Bad } else { Tone::Plain };
    (symbols.levels[band.map_or(0, |band| HEIGHTS[band])], tone)
}

/// Returns the band that a time belongs to.
pub(crate) fn band_of(seconds: f64) -> usize {
    crate::history::BANDS.iter().position(|limit| seconds <= *limit).unwrap_or(BAND_COUNT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Service {
        let mut service: Service =
            serde_json::from_str(include_str!("../tests/documents/service.json")).unwrap();
        crate::clean::service(&mut service);
        service
    }

    fn texts(panel: Panel) -> Vec<Vec<String>> {
        let (service, history) = (sample(), History::default());
        let mut table =
            panel.table(&Sight { service: &service, history: &history, symbols: &Symbols::ASCII });
        if let Some(order) = panel.order() {
            table.sort(order);
        }
        for row in &table.rows {
            assert_eq!(row.cells.len(), table.columns.len(), "{panel:?}");
        }
        table.rows.iter().map(|row| row.cells.iter().map(|cell| cell.text.clone()).collect()).collect()
    }

    #[test]
    fn jobs_of_all_processes_are_listed_the_longest_first() {
        let jobs = texts(Panel::Jobs);
        assert_eq!(
            jobs.iter().map(|job| job[0].as_str()).collect::<Vec<_>>(),
            ["walk_document", "call_function", "job 9004", "read_file",]
        );
        assert_eq!(
            jobs[0],
            ["walk_document", "cpu", "12.5s", "17.5s", "req-81f2", "4103", "4101", "9001", ""]
        );
        assert_eq!(jobs[1][8], "cancelled");
    }

    #[test]
    fn a_process_that_does_not_answer_is_listed_with_the_reason() {
        let processes = texts(Panel::Processes);
        let missing = processes.last().unwrap();
        assert_eq!(missing[0], "4300");
        assert!(missing[11].contains("no answer within 0.5 s"), "{missing:?}");
    }

    #[test]
    fn stalls_of_all_loops_are_listed_the_worst_first() {
        let stalls = texts(Panel::Stalls);
        assert_eq!(stalls[0][0], "load_settings (mercuriy/settings.py:31)");
        assert_eq!(stalls[0][3], "4.21s");
        assert_eq!(end_of_path("/a/b/c.py"), "b/c.py");
        assert_eq!(end_of_path("c.py"), "c.py");
    }

    #[test]
    fn each_panel_can_be_drawn_from_an_empty_document() {
        let (service, history) = (serde_json::from_str("{}").unwrap(), History::default());
        let sight = Sight { service: &service, history: &history, symbols: &Symbols::UNICODE };
        for panel in Panel::ALL {
            assert!(panel.table(&sight).rows.is_empty());
        }
        assert_eq!(totals(&service).late_p99, None);
    }

    #[test]
    fn a_worker_is_shown_with_its_job() {
        let workers = texts(Panel::Workers);
        let busy = workers.iter().find(|worker| worker[0] == "4103").unwrap();
        assert_eq!((busy[2].as_str(), busy[7].as_str()), ("busy", "walk_document"));
    }
}

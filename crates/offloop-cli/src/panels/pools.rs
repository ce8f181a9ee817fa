//! Pools.

use std::collections::BTreeMap;

use offloop::observe::document::Pool;

use super::cells::{each, level_strip, pid, quantiles, time};
use super::sight::Sight;
use super::summary::rates;
use crate::history::{Key, Of};
use crate::table::{Cell, Column, Row, Table, Tone};
use crate::text;

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

/// The kind of an executor whose workers do not belong to the process.
const REMOTE: &str = "remote";

/// Returns a bar of the busy workers. As wide for each pool, whatever it has.
fn busy(pool: &Pool) -> Cell {
    if pool.kind == REMOTE {
        return Cell::text("elsewhere");
    }
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
        if pool.kind == REMOTE {
            "workers: elsewhere".to_owned()
        } else {
            format!("workers: {}, at most {}", listed(&states), pool.max_workers)
        },
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

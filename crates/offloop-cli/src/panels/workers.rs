//! Workers.

use super::cells::{each, pid, size};
use super::sight::Sight;
use crate::table::{Cell, Column, JobName, Row, Table, Tone};
use crate::text;

pub(super) fn workers(sight: &Sight<'_>) -> Table {
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

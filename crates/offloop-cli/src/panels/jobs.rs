//! Running jobs.

use super::cells::pid;
use super::sight::Sight;
use crate::table::{Cell, Column, JobName, Row, Table, Tone};
use crate::text;

pub(super) fn jobs(sight: &Sight<'_>) -> Table {
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

//! Workers that have died.

use super::cells::{each, pid, size};
use super::sight::Sight;
use crate::table::{Cell, Column, Row, Table, Tone};
use crate::text;

pub(super) fn deaths(sight: &Sight<'_>) -> Table {
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

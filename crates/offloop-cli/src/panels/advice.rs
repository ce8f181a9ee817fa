//! Jobs that would be better off elsewhere.

use super::cells::{each, pid};
use super::sight::Sight;
use crate::table::{Cell, Column, Row, Table, Tone};

pub(super) fn advice(sight: &Sight<'_>) -> Table {
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

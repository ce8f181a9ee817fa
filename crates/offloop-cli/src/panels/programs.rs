//! The programs to choose from.

use offloop::observe::document::Service;

use super::cells::lateness;
use super::summary::totals;
use crate::programs::Program;
use crate::table::{Cell, Column, Row, Table, Tone};
use crate::text;

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

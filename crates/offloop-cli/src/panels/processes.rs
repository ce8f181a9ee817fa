//! The processes of a service.

use offloop::observe::document::Snapshot;

use super::cells::{level_strip, pid, size};
use super::sight::Sight;
use crate::history::{Key, Of};
use crate::table::{Cell, Column, Row, Table, Tone};
use crate::text;

pub(super) fn processes(sight: &Sight<'_>) -> Table {
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

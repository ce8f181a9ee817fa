//! Event loops, and the places at which they stall.

use offloop::observe::document::{EventLoop, Place};

use super::cells::{each, lateness, lateness_strip, pid, quantiles};
use super::sight::Sight;
use crate::history::{Key, Of};
use crate::table::{Cell, Column, Row, Table, Tone};
use crate::text;

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
pub(super) fn end_of_path(path: &str) -> &str {
    path.rmatch_indices('/').nth(1).map_or(path, |(at, _)| &path[at + 1..])
}

pub(super) fn stalls(sight: &Sight<'_>) -> Table {
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

//! Tests of the tables.

use offloop::observe::document::Service;

use super::loops::end_of_path;
use super::summary::totals;
use super::*;
use crate::history::History;

fn sample() -> Service {
    let mut service: Service =
        serde_json::from_str(include_str!("../../tests/documents/service.json")).unwrap();
    crate::clean::service(&mut service);
    service
}

fn texts(panel: Panel) -> Vec<Vec<String>> {
    let (service, history) = (sample(), History::default());
    let mut table = panel.table(&Sight { service: &service, history: &history, symbols: &Symbols::ASCII });
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
    assert_eq!(jobs[0], ["walk_document", "cpu", "12.5s", "17.5s", "req-81f2", "4103", "4101", "9001", ""]);
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

//! Screens as text, and keys.
//!
//! The screens are in `tests/screens`. To accept new ones, run the tests with `UPDATE_SCREENS=1` and look at the changes.

use std::path::Path;

use offloop::observe::document::{Service, Snapshot};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::app::{App, Effect};
use super::draw::Theme;
use crate::http::Endpoint;
use crate::network::{Command, News, Question};
use crate::programs::{Found, Program};

const SAMPLE: &str = include_str!("../../tests/documents/service.json");

fn sample() -> Service {
    let mut service = serde_json::from_str(SAMPLE).unwrap();
    crate::clean::service(&mut service);
    service
}

fn program(processes: Vec<Snapshot>) -> Program {
    let service = processes[0].process.service.clone();
    Program { service, endpoint: Endpoint::unix("/run/1.sock".into(), None), processes, trouble: None }
}

/// Returns the view of the sample, after two documents, and what it asks for.
fn watching(theme: Theme) -> (App, UnboundedReceiver<Command>) {
    let (commands, received) = unbounded_channel();
    let mut app = App::new(theme, commands);
    let programs = vec![program(sample().processes)];
    app.receive(News::Programs(Found { programs, warnings: Vec::new() }));
    let mut second = sample();
    second.processes[0].loops[0].lateness.buckets[3].1 += 2;
    second.processes[0].pools[0].queue_wait.buckets[2].1 += 40;
    app.receive(News::Document(sample()));
    app.receive(News::Document(second));
    (app, received)
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| app.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content.chunks(usize::from(width)).map(|cells| {
        let line: String = cells.iter().map(Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn press(app: &mut App, keys: impl IntoIterator<Item = KeyCode>) -> Option<Effect> {
    let mut effect = None;
    for key in keys {
        effect = app.handle(&Event::Key(KeyEvent::new(key, KeyModifiers::NONE)));
    }
    effect
}

fn typed(text: &str) -> impl Iterator<Item = KeyCode> {
    text.chars().map(KeyCode::Char)
}

fn compare(name: &str, screen: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens").join(name);
    if std::env::var_os("UPDATE_SCREENS").is_some() {
        std::fs::write(&path, screen).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(screen, expected, "{name} has changed; see the head of this file");
}

#[test]
fn the_overview_is_as_it_was_looked_at() {
    let (mut app, _commands) = watching(Theme::new(true, true));
    compare("overview-100x30.txt", &screen(&mut app, 100, 30));
    compare("overview-60x15.txt", &screen(&mut app, 60, 15));
}

#[test]
fn each_panel_is_as_it_was_looked_at() {
    let (mut app, _commands) = watching(Theme::new(false, true));
    let mut all = String::new();
    for digit in '2'..='9' {
        press(&mut app, [KeyCode::Char(digit)]);
        all.push_str(&screen(&mut app, 110, 24));
    }
    compare("panels-110x24.txt", &all);
}

#[test]
fn a_terminal_without_unicode_gets_ascii_alone() {
    let (mut app, _commands) = watching(Theme::new(false, false));
    for key in "123456789h".chars() {
        press(&mut app, [KeyCode::Char(key)]);
        let screen = screen(&mut app, 100, 30);
        assert!(screen.is_ascii(), "{screen}");
    }
}

#[test]
fn any_size_can_be_drawn() {
    let (mut app, _commands) = watching(Theme::new(true, true));
    for key in "123456789sh".chars() {
        press(&mut app, [KeyCode::Esc, KeyCode::Char(key)]);
        for (width, height) in [(1, 1), (20, 6), (60, 15), (300, 100), (25, 80), (200, 7)] {
            screen(&mut app, width, height);
        }
    }
}

#[test]
fn a_job_is_cancelled_after_a_question_and_only_with_yes() {
    let (mut app, mut commands) = watching(Theme::new(true, true));
    while commands.try_recv().is_ok() {}
    press(&mut app, [KeyCode::F(9)]);
    assert!(screen(&mut app, 80, 24).contains("Cancel this job?"));
    press(&mut app, [KeyCode::Char('q')]);
    assert!(commands.try_recv().is_err());
    press(&mut app, [KeyCode::Char('k'), KeyCode::Char('y')]);
    let command = commands.try_recv().unwrap();
    assert!(
        matches!(command, Command::Job { pid: 4101, id: 9001, question: Question::Cancel }),
        "{command:?}"
    );
    app.receive(News::Cancelled { pid: 4101, id: 9001, result: Err("it has ended".to_owned()) });
    assert!(screen(&mut app, 80, 24).contains("job 9001 was not cancelled: it has ended"));
}

#[test]
fn a_program_that_does_not_allow_it_cancels_nothing() {
    let (mut app, mut commands) = watching(Theme::new(true, true));
    let mut document = sample();
    document.processes.iter_mut().for_each(|it| it.process.may_cancel = false);
    app.receive(News::Document(document));
    while commands.try_recv().is_ok() {}
    press(&mut app, [KeyCode::F(9), KeyCode::Char('y')]);
    assert!(commands.try_recv().is_err());
}

#[test]
fn a_pasted_text_presses_no_keys() {
    let (mut app, mut commands) = watching(Theme::new(true, true));
    while commands.try_recv().is_ok() {}
    assert_eq!(app.handle(&Event::Paste("kyq".to_owned())), None);
    assert!(commands.try_recv().is_err());
}

#[test]
fn a_filter_a_search_and_an_order_apply_to_the_panel() {
    let (mut app, _commands) = watching(Theme::new(true, true));
    press(
        &mut app,
        [KeyCode::Char('4'), KeyCode::F(4)].into_iter().chain(typed("CALL_")).chain([KeyCode::Enter]),
    );
    let filtered = screen(&mut app, 80, 24);
    assert!(filtered.contains("call_function") && !filtered.contains("walk_document"), "{filtered}");
    press(&mut app, [KeyCode::Esc, KeyCode::Char('s'), KeyCode::Home, KeyCode::Enter]);
    let names = |app: &App| app.table().rows.iter().map(|row| row.cells[0].text.clone()).collect::<Vec<_>>();
    assert_eq!(names(&app), ["call_function", "job 9004", "read_file", "walk_document"]);
    press(&mut app, [KeyCode::Char('I')]);
    assert_eq!(names(&app)[0], "walk_document");
    press(&mut app, [KeyCode::Char('/')].into_iter().chain(typed("9004")).chain([KeyCode::Enter]));
    let table = app.table();
    assert_eq!(table.rows[app.selected_in(&table).unwrap()].cells[0].text, "job 9004");
}

#[test]
fn a_selected_row_stays_selected_while_others_move() {
    let (mut app, _commands) = watching(Theme::new(true, true));
    press(&mut app, [KeyCode::Down]);
    let mut document = sample();
    document.processes[0].pools[0].jobs.remove(0);
    app.receive(News::Document(document));
    let table = app.table();
    assert_eq!(table.rows[app.selected_in(&table).unwrap()].cells[0].text, "call_function");
}

#[test]
fn a_stack_is_shown_as_it_is_sent_but_for_control_characters() {
    let (mut app, mut commands) = watching(Theme::new(true, true));
    while commands.try_recv().is_ok() {}
    press(&mut app, [KeyCode::Enter]);
    assert!(matches!(commands.try_recv(), Ok(Command::Job { id: 9001, question: Question::Stack, .. })));
    let stack =
        r#"{"thread": "worker 4103", "frames": [{"function": "walk", "file": "walk.py", "line": 12}]}"#;
    let stack = serde_json::from_str(stack).unwrap();
    app.receive(News::Stack { pid: 4101, id: 9001, stack: Ok(stack) });
    assert!(screen(&mut app, 80, 24).contains("walk  (walk.py:12)"));
}

#[test]
fn a_lost_program_is_said_to_be_lost_and_its_last_state_stays() {
    let (mut app, _commands) = watching(Theme::new(true, true));
    app.receive(News::Lost("nobody listens there (any more)".to_owned()));
    let lost = screen(&mut app, 80, 24);
    assert!(
        lost.contains("NO ANSWER") && lost.contains("nobody listens") && lost.contains("walk_document"),
        "{lost}"
    );
    app.receive(News::Document(sample()));
    assert!(screen(&mut app, 80, 24).contains("answers again"));
}

#[test]
fn one_of_several_programs_is_chosen() {
    let (commands, mut received) = unbounded_channel();
    let mut app = App::new(Theme::new(true, true), commands);
    let mut processes = sample().processes;
    processes[1].process.service = "billing".to_owned();
    let programs = processes.into_iter().map(|process| program(vec![process])).collect();
    app.receive(News::Programs(Found { programs, warnings: vec!["one is left out".to_owned()] }));
    let list = screen(&mut app, 80, 24);
    assert!(
        list.contains("mercuriy") && list.contains("billing") && list.contains("one is left out"),
        "{list}"
    );
    press(&mut app, [KeyCode::Down, KeyCode::Enter]);
    let is_billing = |command| matches!(command, Command::Watch { service, .. } if service == "billing");
    assert!(std::iter::from_fn(|| received.try_recv().ok()).any(is_billing));
    assert_eq!(press(&mut app, [KeyCode::Char('q')]), Some(Effect::Quit));
}

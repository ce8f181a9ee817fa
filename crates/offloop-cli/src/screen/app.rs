//! The state of the view, and its keys.

use std::time::Instant;

use offloop::observe::document::{Service, Stack};
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::UnboundedSender;

use super::draw::Theme;
use crate::history::History;
use crate::network::{Command, News, Question};
use crate::panels::{self, Panel, Sight};
use crate::programs::{Found, Program};
use crate::table::{JobName, Kind, Order, Table};
use crate::text;

/// An effect of a key outside of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    Suspend,
    Redraw,
}

/// The view.
#[derive(Debug)]
pub(super) struct App {
    pub(super) theme: Theme,
    commands: UnboundedSender<Command>,
    pub(super) programs: Found,
    /// The service that is looked at, or `None` while one is chosen.
    pub(super) watched: Option<Watched>,
    pub(super) panel: Panel,
    /// The state of each panel, and at the end that of the list of programs.
    lists: [List; Panel::ALL.len() + 1],
    pub(super) prompt: Option<Prompt>,
    pub(super) popup: Option<Popup>,
    /// A sentence about the last key. The next key removes it.
    pub(super) message: Option<String>,
    pub(super) is_paused: bool,
    /// The number of rows that the list had when it was drawn.
    pub(super) page: usize,
    /// The number of lines that the popup had, and could show, when it was drawn.
    pub(super) popup_size: (usize, usize),
}

/// A service, as far as it is known.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) document: Option<Service>,
    pub(super) history: History,
    /// The moment at which it was lost, and the last reason.
    pub(super) lost: Option<(Instant, String)>,
}

/// The state of a list.
#[derive(Debug, Clone, Default)]
pub(super) struct List {
    /// The key of the selected row, once one was selected. Until then it is the first one.
    selected: Option<String>,
    /// Its place, to stay near if it is gone.
    place: usize,
    pub(super) offset: usize,
    /// Only rows that contain this text are shown. In lower case.
    pub(super) filter: String,
    search: String,
    pub(super) order: Option<Order>,
}

/// A line that is typed.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) kind: PromptKind,
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PromptKind {
    Search,
    Filter,
}

/// A window above the panel.
#[derive(Debug)]
pub(super) enum Popup {
    Text {
        title: String,
        lines: Vec<String>,
        offset: usize,
    },
    /// The columns by which the list can be sorted.
    Sort {
        place: usize,
    },
    Cancel(JobName),
    /// The stack of a job is asked for.
    Stack(JobName),
}

impl App {
    pub(super) fn new(theme: Theme, commands: UnboundedSender<Command>) -> Self {
        let mut lists: [List; Panel::ALL.len() + 1] = std::array::from_fn(|_| List::default());
        for (list, panel) in lists.iter_mut().zip(Panel::ALL) {
            list.order = panel.order();
        }
        Self {
            theme,
            commands,
            programs: Found::default(),
            watched: None,
            panel: Panel::Overview,
            lists,
            prompt: None,
            popup: None,
            message: None,
            is_paused: false,
            page: 10,
            popup_size: (0, 0),
        }
    }

    /// Takes an answer of the network.
    pub(super) fn receive(&mut self, news: News) {
        match news {
            News::Programs(found) => {
                let is_first = self.programs.programs.is_empty();
                self.programs = found;
                if let ([only], true, None) = (&self.programs.programs[..], is_first, &self.watched) {
                    let only = only.clone();
                    self.watch(&only);
                } else if self.watched.is_none() && is_first {
                    self.send(Command::Choose);
                }
            }
            News::Document(document) => {
                let Some(watched) = &mut self.watched else { return };
                if let Some(first) = document.processes.first() {
                    watched.name.clone_from(&first.process.service);
                }
                watched.history.update(&document);
                watched.document = Some(document);
                if let Some((since, _)) = watched.lost.take() {
                    let away = text::duration(since.elapsed().as_secs_f64());
                    self.message = Some(format!("the program answers again, after {away}"));
                }
            }
            News::Lost(reason) => {
                let Some(watched) = &mut self.watched else { return };
                let since = watched.lost.take().map_or_else(Instant::now, |(since, _)| since);
                watched.lost = Some((since, reason));
            }
            News::Found(endpoint) => {
                self.message = Some(format!("the service was found again at {endpoint}"));
            }
            News::Stack { pid, id, stack } => self.show_stack(pid, id, stack),
            News::Cancelled { pid, id, result } => {
                self.message = Some(match result {
                    Ok(()) => format!("job {id} of process {pid} was asked to stop"),
                    Err(reason) => format!("job {id} was not cancelled: {reason}"),
                });
            }
            News::Broken => {}
        }
    }

    fn show_stack(&mut self, pid: u32, id: u64, stack: Result<Stack, String>) {
        // It may be closed by now, or be about another job.
        let Some(Popup::Stack(job)) = &self.popup else { return };
        if (job.pid, job.id) != (pid, id) {
            return;
        }
        let mut lines = vec![job.words.clone(), String::new()];
        match stack {
            Ok(stack) => {
                lines.extend((!stack.thread.is_empty()).then_some(stack.thread));
                lines.extend(stack.note);
                for frame in stack.frames {
                    let line = frame.line.map(|line| format!(":{line}")).unwrap_or_default();
                    let place = frame.file.map(|file| format!("  ({file}{line})")).unwrap_or_default();
                    lines.push(format!("{}{place}", frame.function));
                }
            }
            Err(reason) => lines.push(reason),
        }
        self.popup = Some(Popup::Text { title: "Stack".to_owned(), lines, offset: 0 });
    }

    fn watch(&mut self, program: &Program) {
        self.send(Command::Watch { endpoint: program.endpoint.clone(), service: program.service.clone() });
        let name =
            if program.service.is_empty() { program.endpoint.to_string() } else { program.service.clone() };
        self.watched = Some(Watched { name, document: None, history: History::default(), lost: None });
        self.is_paused = false;
        self.panel = Panel::Overview;
    }

    fn send(&self, command: Command) {
        // The thread has ended only if it has said so.
        let _ = self.commands.send(command);
    }

    /// Takes an event of the terminal.
    pub(super) fn handle(&mut self, event: &Event) -> Option<Effect> {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            // Pasted text is no command.
            Event::Paste(pasted) => {
                if let Some(prompt) = &mut self.prompt {
                    prompt.text.push_str(&text::clean(pasted, 100));
                    self.typed();
                }
                None
            }
            _ => None,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Effect::Quit),
                KeyCode::Char('z') => Some(Effect::Suspend),
                KeyCode::Char('l') => Some(Effect::Redraw),
                _ => None,
            };
        }
        if self.prompt.is_some() {
            self.prompt_key(key.code);
        } else if self.popup.is_some() {
            return self.popup_key(key.code);
        } else {
            return self.list_key(key.code);
        }
        None
    }

    fn prompt_key(&mut self, code: KeyCode) {
        let Some(prompt) = &mut self.prompt else { return };
        match code {
            KeyCode::Char(character) if prompt.text.len() < 100 => prompt.text.push(character),
            KeyCode::Backspace => drop(prompt.text.pop()),
            KeyCode::Esc => prompt.text.clear(),
            _ => {}
        }
        let is_done = matches!(code, KeyCode::Esc | KeyCode::Enter);
        self.typed();
        match code {
            KeyCode::F(3) => self.search_on(),
            _ if is_done => self.prompt = None,
            _ => {}
        }
    }

    /// Applies what was typed so far.
    fn typed(&mut self) {
        let Some(prompt) = &self.prompt else { return };
        let (kind, text) = (prompt.kind, prompt.text.to_lowercase());
        match kind {
            PromptKind::Filter => self.list_mut().filter = text,
            PromptKind::Search => {
                self.list_mut().search = text;
                self.search(0);
            }
        }
    }

    fn popup_key(&mut self, code: KeyCode) -> Option<Effect> {
        let (lines, page) = self.popup_size;
        let columns = self.table().columns.len();
        match (self.popup.take()?, code) {
            (Popup::Cancel(job), KeyCode::Enter | KeyCode::Char('y' | 'Y')) => {
                self.send(Command::Job { pid: job.pid, id: job.id, question: Question::Cancel });
                self.message = Some(format!("asking process {} to cancel job {}", job.pid, job.id));
            }
            (Popup::Cancel(_), _) => self.message = Some("nothing was cancelled".to_owned()),
            (_, KeyCode::F(10) | KeyCode::Char('q')) => return Some(Effect::Quit),
            (Popup::Text { title, lines: text, offset }, code) => {
                let last = lines.saturating_sub(page);
                if let Some(offset) = moved(code, offset.min(last), last, page) {
                    self.popup = Some(Popup::Text { title, lines: text, offset });
                }
            }
            (Popup::Sort { place }, KeyCode::Enter) => self.sort_by(place),
            (Popup::Sort { place }, code) => {
                self.popup =
                    moved(code, place, columns.saturating_sub(1), page).map(|place| Popup::Sort { place });
            }
            (Popup::Stack(_), _) => {}
        }
        None
    }

    fn list_key(&mut self, code: KeyCode) -> Option<Effect> {
        let is_choosing = self.watched.is_none();
        match code {
            KeyCode::Char('q') | KeyCode::F(10) => return Some(Effect::Quit),
            KeyCode::Char('h' | '?') | KeyCode::F(1) => {
                let lines = HELP.lines().map(str::to_owned).collect();
                self.popup = Some(Popup::Text { title: "Help".to_owned(), lines, offset: 0 });
            }
            KeyCode::Char('/') | KeyCode::F(3) => self.open_prompt(PromptKind::Search),
            KeyCode::Char('n') => self.search_on(),
            KeyCode::Char('\\') | KeyCode::F(4) => self.open_prompt(PromptKind::Filter),
            KeyCode::Char('s' | '>' | '<') | KeyCode::F(6) => {
                self.popup = Some(Popup::Sort { place: self.list().order.map_or(0, |order| order.column) });
            }
            KeyCode::Char('I') => {
                if let Some(order) = &mut self.list_mut().order {
                    order.descends = !order.descends;
                }
            }
            KeyCode::Esc => self.list_mut().filter.clear(),
            KeyCode::Enter if is_choosing => self.choose(),
            KeyCode::Enter | KeyCode::Char('l') => self.open_row(code == KeyCode::Char('l')),
            KeyCode::Char('k') | KeyCode::F(9) => self.ask_to_cancel(),
            KeyCode::Char('b') | KeyCode::F(2) if !is_choosing => {
                self.watched = None;
                self.send(Command::Choose);
            }
            KeyCode::Char('p' | ' ') if !is_choosing => {
                self.is_paused = !self.is_paused;
                self.send(Command::Pause(self.is_paused));
            }
            KeyCode::Tab | KeyCode::Right if !is_choosing => self.turn(1),
            KeyCode::BackTab | KeyCode::Left if !is_choosing => self.turn(Panel::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='9') if !is_choosing => {
                self.panel = Panel::ALL[digit as usize - '1' as usize];
            }
            code => self.move_selection(code),
        }
        None
    }

    fn turn(&mut self, steps: usize) {
        self.panel = Panel::ALL[(self.panel as usize + steps) % Panel::ALL.len()];
    }

    fn open_prompt(&mut self, kind: PromptKind) {
        let text = match kind {
            PromptKind::Filter => self.list().filter.clone(),
            PromptKind::Search => String::new(),
        };
        self.prompt = Some(Prompt { kind, text });
    }

    fn choose(&mut self) {
        let Some((place, table)) = self.selection() else { return };
        let key = &table.rows[place].key;
        let keys = panels::programs(&self.programs.programs).rows;
        if let Some(program) = keys.iter().position(|row| row.key == *key) {
            let program = self.programs.programs[program].clone();
            self.watch(&program);
        }
    }

    /// Asks for the stack of the selected job. A row without one is shown in full.
    fn open_row(&mut self, only_stack: bool) {
        let Some((place, table)) = self.selection() else { return };
        let row = &table.rows[place];
        if let Some(job) = &row.job {
            self.send(Command::Job { pid: job.pid, id: job.id, question: Question::Stack });
            self.popup = Some(Popup::Stack(job.clone()));
        } else if only_stack {
            self.message = Some("only a job that runs has a stack".to_owned());
        } else {
            let cells = table
                .columns
                .iter()
                .zip(&row.cells)
                .filter(|(column, cell)| !column.title.is_empty() && !cell.text.is_empty());
            let mut lines: Vec<_> = cells
                .map(|(column, cell)| format!("{:<11}{}", column.title.to_lowercase(), cell.text))
                .collect();
            lines.push(String::new());
            lines.extend(row.detail.clone());
            self.popup = Some(Popup::Text { title: table.title.to_owned(), lines, offset: 0 });
        }
    }

    fn ask_to_cancel(&mut self) {
        let job = self.selection().and_then(|(place, table)| table.rows[place].job.clone());
        match job {
            None => self.message = Some("select a job that runs".to_owned()),
            Some(job) if !job.may_cancel => {
                let message = "the program does not allow it: it would have to be started with allow_cancel";
                self.message = Some(message.to_owned());
            }
            Some(job) => self.popup = Some(Popup::Cancel(job)),
        }
    }

    fn sort_by(&mut self, column: usize) {
        let is_number = self.table().columns.get(column).is_some_and(|column| column.kind == Kind::Number);
        let order = &mut self.list_mut().order;
        *order = Some(match *order {
            Some(order) if order.column == column => Order { column, descends: !order.descends },
            // The largest number first, and the first name.
            _ => Order { column, descends: is_number },
        });
    }

    fn search_on(&mut self) {
        self.search(1);
    }

    /// Selects the first row that contains what is searched for, from so many rows after the selected one on.
    fn search(&mut self, from: usize) {
        let search = self.list().search.clone();
        let Some((place, table)) = self.selection().filter(|_| !search.is_empty()) else { return };
        let count = table.rows.len();
        let found = (from..count + from)
            .map(|step| (place + step) % count)
            .find(|at| table.rows[*at].contains(&search));
        match found {
            Some(found) => self.select(&table, found),
            None => self.message = Some(format!("nothing contains `{search}`")),
        }
    }

    fn move_selection(&mut self, code: KeyCode) {
        let Some((place, table)) = self.selection() else { return };
        if let Some(place) = moved(code, place, table.rows.len() - 1, self.page) {
            self.select(&table, place);
        }
    }

    fn select(&mut self, table: &Table, place: usize) {
        let key = table.rows[place].key.clone();
        let list = self.list_mut();
        (list.selected, list.place) = (Some(key), place);
    }

    /// Returns the place of the selected row, and the table, unless it is empty.
    fn selection(&self) -> Option<(usize, Table)> {
        let table = self.table();
        let place = self.selected_in(&table)?;
        Some((place, table))
    }

    /// Returns the place of the selected row in a table. If the row is gone, it is the one in its place.
    pub(super) fn selected_in(&self, table: &Table) -> Option<usize> {
        let list = self.list();
        let end = table.rows.len().checked_sub(1)?;
        let selected = list.selected.as_ref();
        let found = selected.and_then(|key| table.rows.iter().position(|row| row.key == *key));
        Some(found.unwrap_or(list.place.min(end)))
    }

    /// Returns the list that is shown, filtered and sorted.
    pub(super) fn table(&self) -> Table {
        let mut table = match &self.watched {
            None => panels::programs(&self.programs.programs),
            Some(watched) => {
                let empty = Service::default();
                let service = watched.document.as_ref().unwrap_or(&empty);
                self.panel.table(&Sight { service, history: &watched.history, symbols: &self.theme.symbols })
            }
        };
        let list = self.list();
        if !list.filter.is_empty() {
            table.rows.retain(|row| row.contains(&list.filter));
            table.empty = "no row contains the text of the filter; Esc shows all";
        }
        if let Some(order) = list.order {
            table.sort(order);
        }
        table
    }

    fn list_index(&self) -> usize {
        if self.watched.is_some() { self.panel as usize } else { Panel::ALL.len() }
    }

    pub(super) fn list(&self) -> &List {
        &self.lists[self.list_index()]
    }

    pub(super) fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.list_index()]
    }
}

/// Returns the place that a key moves to, or `None` if it is no such key.
fn moved(code: KeyCode, place: usize, last: usize, page: usize) -> Option<usize> {
    let page = page.max(1);
    let place = match code {
        KeyCode::Up => place.saturating_sub(1),
        KeyCode::Down => place + 1,
        KeyCode::PageUp => place.saturating_sub(page),
        KeyCode::PageDown => place + page,
        KeyCode::Home => 0,
        KeyCode::End => last,
        _ => return None,
    };
    Some(place.min(last))
}

const HELP: &str = "\
Up Down PgUp PgDn Home End   move
Tab Right, Shift-Tab Left    next and previous panel; also 1 to 9
Enter                        all about the row; the live stack of a job
l                            the live stack of the job
F3 /                         search; n finds the next one
F4 \\                         filter; Esc shows all rows again
F6 s                         sort; I turns the order round
F9 k                         cancel the job, after a question
p Space                      pause
F2 b                         another program
Ctrl-L, Ctrl-Z               draw again; back to the shell
F10 q Ctrl-C                 quit

late        the time by which a beat of an event loop is overdue
stall       something blocks the loop's thread: see Stalls
starved     the loop was late because it had no core: no stall
run delay   the time that threads waited for a core, as a share of
            the time of one core
throttled   the part of the time that the control group was stopped
stolen      the part of the time that the host took away
wait, run   the time that jobs were queued, and that they ran";

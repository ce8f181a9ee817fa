//! The drawing of the view.
//!
//! Texts have the colours of the terminal, which its user can read. What stands out has a background of its own, so that
//! it can be read on light and on dark terminals. Without colours attributes say the same.

use std::env;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Clear, Widget};

use super::app::{App, Popup, PromptKind, Watched};
use crate::history::{BAND_COUNT, Key};
use crate::panels::{self, Panel, Sight, Symbols, Value, summary};
use crate::table::{Cell, GAP, Kind, Table, Tone};
use crate::text;

/// The colours and the characters of the view.
#[derive(Debug)]
pub(super) struct Theme {
    has_color: bool,
    pub(super) symbols: Symbols,
}

impl Theme {
    pub(super) fn new(has_color: bool, has_unicode: bool) -> Self {
        Self { has_color, symbols: if has_unicode { Symbols::UNICODE } else { Symbols::ASCII } }
    }

    /// Returns the theme that `NO_COLOR` and the locale ask for.
    pub(super) fn of_environment() -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|it| !it.is_empty());
        let locale = locale.map(|locale| locale.to_string_lossy().to_lowercase()).unwrap_or_default();
        let has_unicode = locale.contains("utf-8") || locale.contains("utf8");
        Self::new(!is_set("NO_COLOR"), has_unicode)
    }

    fn style(&self, tone: Tone) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match tone {
            Tone::Plain => Style::new(),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
            Tone::Strong => bold,
            Tone::Warning if self.has_color => Style::new().fg(Color::Black).bg(Color::Yellow),
            Tone::Warning => Style::new().add_modifier(Modifier::UNDERLINED),
            Tone::Bad if self.has_color => bold.fg(Color::White).bg(Color::Red),
            Tone::Bad => bold.add_modifier(Modifier::REVERSED),
        }
    }

    /// Returns the style of a value in a plot that stands out.
    fn mark(&self, style: Style) -> Style {
        if self.has_color { style.fg(Color::Red) } else { style.add_modifier(Modifier::BOLD) }
    }

    /// Returns the style of the selected row and of what is to be pressed.
    fn bar(&self) -> Style {
        if self.has_color {
            Style::new().fg(Color::Black).bg(Color::Cyan)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// Returns the style of heads.
    fn head(&self) -> Style {
        if self.has_color {
            Style::new().fg(Color::Black).bg(Color::Green)
        } else {
            Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
        }
    }
}

/// Writes texts into a buffer, as far as there is room, and as far as the terminal can show them.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    theme: &'a Theme,
}

impl Canvas<'_> {
    /// Writes a text from a column on, and returns the column after it.
    fn write(&mut self, x: u16, y: u16, end: u16, written: &str, style: Style) -> u16 {
        if x >= end || !self.buffer.area.contains((x, y).into()) {
            return x;
        }
        let ascii;
        let shown = if self.theme.symbols.is_ascii {
            ascii = text::to_ascii(written);
            &ascii
        } else {
            written
        };
        self.buffer.set_stringn(x, y, shown, usize::from(end - x), style).0
    }

    fn fill(&mut self, area: Rect, style: Style) {
        let area = area.intersection(self.buffer.area);
        self.buffer.set_style(area, style);
    }

    fn cut(&self, text: &str, columns: usize) -> String {
        text::cut(text, columns, self.theme.symbols.cut)
    }
}

impl App {
    /// Draws the view in a terminal of any size. From 60 columns and 15 lines on it can be used well.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let buffer = frame.buffer_mut();
        if area.width < 20 || area.height < 6 {
            let mut canvas = Canvas { buffer, theme: &self.theme };
            canvas.write(area.x, area.y, area.right(), "too small: 60x15", Style::new());
            return;
        }
        let table = self.table();
        let selected = self.selected_in(&table);
        let foot = Rect { y: area.bottom() - 1, height: 1, ..area };
        let (top, page, offset) = {
            let mut canvas = Canvas { buffer: &mut *buffer, theme: &self.theme };
            let top = match &self.watched {
                Some(watched) => self.draw_head(&mut canvas, area, watched),
                None => self.draw_choice_head(&mut canvas, area),
            };
            let body = Rect { y: top, height: foot.y.saturating_sub(top), ..area };
            let body = match &self.watched {
                Some(watched) if watched.document.is_some() => {
                    let body = self.draw_meters(&mut canvas, body, watched);
                    self.draw_below(&mut canvas, body, watched, selected.map(|place| &table.rows[place]))
                }
                _ => body,
            };
            let page = usize::from(body.height.saturating_sub(1));
            let offset = scrolled(self.list().offset, selected.unwrap_or(0), table.rows.len(), page);
            let is_waiting = self.watched.as_ref().is_some_and(|watched| watched.document.is_none());
            if is_waiting {
                canvas.write(body.x, body.y, body.right(), "asking the program", Style::new());
            } else {
                self.draw_table(&mut canvas, body, &table, selected, offset);
            }
            self.draw_foot(&mut canvas, foot);
            (top, page, offset)
        };
        self.page = page.max(1);
        self.list_mut().offset = offset;
        let room = Rect { y: top.min(foot.y), height: foot.y.saturating_sub(top.min(foot.y)), ..area };
        self.draw_popup(buffer, room, &table);
    }

    /// Draws the summary and the names of the panels, and returns the line below them.
    fn draw_head(&self, canvas: &mut Canvas<'_>, area: Rect, watched: &Watched) -> u16 {
        let (state, tone) = match &watched.lost {
            Some((since, _)) => (
                format!("NO ANSWER for {}", text::duration(since.elapsed().as_secs_f64().floor())),
                Tone::Bad,
            ),
            None if self.is_paused => ("PAUSED".to_owned(), Tone::Warning),
            None => (String::new(), Tone::Plain),
        };
        let state_width = u16::try_from(state.len() + 2).unwrap_or(0).min(area.width);
        let mut y = area.y;
        let empty = offloop::observe::document::Service::default();
        let mut lines = summary(watched.document.as_ref().unwrap_or(&empty));
        lines[0][0].text.clone_from(&watched.name);
        let is_known = watched.document.is_some();
        for line in lines.iter().take(if is_known { 3 } else { 1 }) {
            let end = if y == area.y { area.right().saturating_sub(state_width) } else { area.right() };
            draw_values(canvas, area.x, y, end, line);
            y += 1;
        }
        if !state.is_empty() {
            let x = area.right().saturating_sub(state_width);
            canvas.write(x, area.y, area.right(), &format!(" {state} "), self.theme.style(tone));
        }
        if let Some((_, reason)) = &watched.lost {
            let line = format!("{reason}; it is looked for until it is there again");
            let line = canvas.cut(&line, usize::from(area.width));
            canvas.write(area.x, y, area.right(), &line, self.theme.style(Tone::Bad));
            y += 1;
        }
        self.draw_tabs(canvas, area, y);
        y + 1
    }

    fn draw_tabs(&self, canvas: &mut Canvas<'_>, area: Rect, y: u16) {
        let whole: usize = Panel::ALL.iter().map(|panel| panel.title().len() + 3).sum();
        let is_short = whole > usize::from(area.width);
        let mut x = area.x;
        for (number, panel) in (1..).zip(Panel::ALL) {
            let is_open = panel == self.panel;
            let title = if is_open || !is_short { panel.title() } else { &panel.title()[..3] };
            let style = if is_open { self.theme.bar() } else { Style::new() };
            let number_style = if is_open { style } else { self.theme.style(Tone::Strong) };
            x = canvas.write(x, y, area.right(), &number.to_string(), number_style);
            x = canvas.write(x, y, area.right(), &format!("{title} "), style);
            if !is_short {
                x = canvas.write(x, y, area.right(), " ", Style::new());
            }
        }
    }

    fn draw_choice_head(&self, canvas: &mut Canvas<'_>, area: Rect) -> u16 {
        let count = self.programs.programs.len();
        let title = format!("{count} programs can be watched. Enter opens one.");
        canvas.write(area.x, area.y, area.right(), &title, self.theme.style(Tone::Strong));
        let mut y = area.y + 1;
        for warning in self.programs.warnings.iter().take(3) {
            let line = canvas.cut(warning, usize::from(area.width));
            canvas.write(area.x, y, area.right(), &line, self.theme.style(Tone::Warning));
            y += 1;
        }
        y + 1
    }

    /// Draws the pools and loops above the jobs of the overview, and returns the rest.
    fn draw_meters(&self, canvas: &mut Canvas<'_>, area: Rect, watched: &Watched) -> Rect {
        let Some(document) = watched.document.as_ref().filter(|_| self.panel == Panel::Overview) else {
            return area;
        };
        let sight = Sight { service: document, history: &watched.history, symbols: &self.theme.symbols };
        // At least so many lines are left for the jobs.
        let mut rest = area;
        for (table, least) in [(panels::pools(&sight), 7), (panels::loops(&sight), 4)] {
            let room = rest.height.saturating_sub(least);
            let wanted = u16::try_from(table.rows.len() + 1).unwrap_or(u16::MAX);
            if table.rows.is_empty() || room < 2 {
                continue;
            }
            let height = wanted.min(room);
            let place = Rect { height, ..rest };
            self.draw_table(canvas, place, &table, None, 0);
            let hidden = wanted.saturating_sub(height);
            if hidden > 0 {
                let more = format!(" {hidden} more: see {} ", table.title);
                let width = u16::try_from(more.len()).unwrap_or(0);
                let x = place.right().saturating_sub(width);
                canvas.write(x, place.bottom() - 1, place.right(), &more, self.theme.bar());
            }
            rest = Rect { y: rest.y + height, height: rest.height - height, ..rest };
        }
        if rest.height >= 6
            && let Some(line) = notable(document)
        {
            let line = canvas.cut(&line, usize::from(rest.width));
            canvas.write(rest.x, rest.bottom() - 1, rest.right(), &line, self.theme.style(Tone::Warning));
            rest.height -= 1;
        }
        rest
    }

    /// Draws what is known about the selected row below the list, and returns the rest.
    fn draw_below(
        &self,
        canvas: &mut Canvas<'_>,
        area: Rect,
        watched: &Watched,
        row: Option<&crate::table::Row>,
    ) -> Rect {
        let Some(row) = row.filter(|_| self.panel != Panel::Overview) else { return area };
        let heat = row.series.map_or(0, |_| BAND_COUNT + 1);
        let width = usize::from(area.width);
        let is_wide = width >= 100;
        let text_width = if heat > 0 && is_wide { width / 2 - 1 } else { width };
        let lines: Vec<_> = row.detail.iter().flat_map(|line| text::wrap(line, text_width)).collect();
        let wanted = if heat > 0 { heat } else { lines.len().min(6) };
        let wanted = u16::try_from(wanted + 1).unwrap_or(u16::MAX);
        if (heat == 0 && lines.is_empty()) || area.height < wanted + 4 {
            return area;
        }
        let below = Rect { y: area.bottom() - wanted + 1, height: wanted - 1, ..area };
        let mut text_area = below;
        if let Some(series) = row.series {
            let plot = if is_wide { Rect { width: area.width / 2 - 1, ..below } } else { below };
            self.draw_heat(canvas, plot, watched, series);
            text_area =
                Rect { x: plot.right() + 2, width: below.right().saturating_sub(plot.right() + 2), ..below };
        }
        for (y, line) in (text_area.y..text_area.bottom()).zip(&lines) {
            canvas.write(text_area.x, y, text_area.right(), line, Style::new());
        }
        Rect { height: area.height - wanted, ..area }
    }

    /// Draws how many times fell into each band, over time: one column for each sample, the newest at the right.
    fn draw_heat(&self, canvas: &mut Canvas<'_>, area: Rect, watched: &Watched, series: Key) {
        const LABELS: [&str; BAND_COUNT] = ["<1ms", "<10ms", "<0.1s", "<1s", "<10s", ">10s"];
        const LABEL: u16 = 6;
        let title = if series.of == crate::history::Of::Pool { "time in the queue" } else { "lateness" };
        let room = usize::from(area.width.saturating_sub(LABEL));
        let samples: Vec<_> = watched.history.last(series, room).collect();
        let title = format!("{title}, over the last {} looks", samples.len());
        canvas.write(
            area.x,
            area.y,
            area.right(),
            &canvas.cut(&title, usize::from(area.width)),
            self.theme.style(Tone::Dim),
        );
        let most = samples.iter().flat_map(|sample| sample.bands).max().unwrap_or(0).max(1);
        for (line, band) in (area.y + 1..area.bottom()).zip((0..BAND_COUNT).rev()) {
            canvas.write(
                area.x,
                line,
                area.right(),
                &format!("{:>5}", LABELS[band]),
                self.theme.style(Tone::Dim),
            );
            let first = area.right() - u16::try_from(samples.len()).unwrap_or(0);
            for (x, sample) in (first..area.right()).zip(&samples) {
                let count = sample.bands[band];
                let shade = match count {
                    0 => 0,
                    // By the logarithm, so that one among thousands is seen.
                    _ => 1 + ((count as f64).ln() / (most as f64).ln().max(1.0) * 3.0).round() as usize,
                };
                let shades = &self.theme.symbols.shades;
                let character = shades[shade.min(shades.len() - 1)];
                canvas.write(x, line, area.right(), character.encode_utf8(&mut [0; 4]), Style::new());
            }
        }
    }

    fn draw_table(
        &self,
        canvas: &mut Canvas<'_>,
        area: Rect,
        table: &Table,
        selected: Option<usize>,
        offset: usize,
    ) {
        if area.height == 0 {
            return;
        }
        let columns = table.fit(usize::from(area.width));
        let order = selected.and(self.list().order);
        canvas.fill(Rect { height: 1, ..area }, self.theme.head());
        let mut x = area.x;
        for (index, width) in &columns {
            let column = &table.columns[*index];
            let is_order = order.is_some_and(|order| order.column == *index);
            let style = if is_order { self.theme.bar() } else { self.theme.head() };
            draw_cell(canvas, x, area.y, *width, &Cell::text(column.title), column.kind, style);
            x = x.saturating_add(u16::try_from(width + GAP).unwrap_or(u16::MAX));
        }
        if table.rows.is_empty() {
            canvas.write(area.x, area.y + 1, area.right(), table.empty, self.theme.style(Tone::Dim));
        }
        let lines = area.y + 1..area.bottom();
        for (y, (place, row)) in lines.zip(table.rows.iter().enumerate().skip(offset)) {
            let is_selected = selected == Some(place);
            if is_selected {
                canvas.fill(Rect { y, height: 1, ..area }, self.theme.bar());
            }
            let mut x = area.x;
            for (index, width) in &columns {
                let cell = &row.cells[*index];
                let style = if is_selected { self.theme.bar() } else { self.theme.style(cell.tone) };
                draw_cell(canvas, x, y, *width, cell, table.columns[*index].kind, style);
                x = x.saturating_add(u16::try_from(width + GAP).unwrap_or(u16::MAX));
            }
        }
    }

    /// Draws the keys, or what is typed, or the answer to the last key.
    fn draw_foot(&self, canvas: &mut Canvas<'_>, area: Rect) {
        let mut x = area.x;
        if let Some(prompt) = &self.prompt {
            let name = if prompt.kind == PromptKind::Search { "Search" } else { "Filter" };
            canvas.fill(area, self.theme.bar());
            x = canvas.write(x, area.y, area.right(), &format!("{name}: "), self.theme.bar());
            x = canvas.write(x, area.y, area.right(), &text::clean(&prompt.text, 200), self.theme.bar());
            let message = self.message.as_deref().map(|message| format!("   {message}")).unwrap_or_default();
            canvas.write(
                x,
                area.y,
                area.right(),
                &format!("_   Enter: done, Esc: clear{message}"),
                self.theme.bar(),
            );
            return;
        }
        if let Some(message) = &self.message {
            let message = canvas.cut(message, usize::from(area.width));
            canvas.fill(area, self.theme.bar());
            canvas.write(x, area.y, area.right(), &message, self.theme.bar());
            return;
        }
        let filter = &self.list().filter;
        let keys: &[(&str, &str)] = if self.watched.is_some() {
            &[
                ("F1", "Help"),
                ("F2", "Programs"),
                ("F3", "Search"),
                ("F4", "Filter"),
                ("F6", "Sort"),
                ("F9", "Cancel"),
                ("F10", "Quit"),
            ]
        } else {
            &[("F1", "Help"), ("F3", "Search"), ("F4", "Filter"), ("F6", "Sort"), ("F10", "Quit")]
        };
        let width: usize = keys.iter().map(|(key, name)| key.len() + name.len() + 1).sum();
        let is_wide = width < usize::from(area.width);
        for (key, name) in keys {
            x = canvas.write(x, area.y, area.right(), key, self.theme.style(Tone::Strong));
            let name = if *name == "Filter" && !filter.is_empty() { "FILTER" } else { name };
            x = canvas.write(x, area.y, area.right(), name, self.theme.bar());
            if is_wide {
                x = canvas.write(x, area.y, area.right(), " ", Style::new());
            }
        }
        if !filter.is_empty() {
            canvas.write(x, area.y, area.right(), &format!(" {filter}"), self.theme.style(Tone::Strong));
        }
    }

    fn draw_popup(&mut self, buffer: &mut Buffer, room: Rect, table: &Table) {
        let Some(popup) = &self.popup else { return };
        let inner_width = usize::from(room.width.saturating_sub(4)).min(100);
        let (title, lines, offset, selected) = match popup {
            Popup::Text { title, lines, offset } => {
                let lines: Vec<_> = lines.iter().flat_map(|line| text::wrap(line, inner_width)).collect();
                (title.as_str(), lines, *offset, None)
            }
            Popup::Sort { place } => {
                let titles = table.columns.iter().map(|column| {
                    if column.title.is_empty() { "(plot)".to_owned() } else { column.title.to_owned() }
                });
                ("Sort by", titles.collect(), 0, Some(*place))
            }
            Popup::Cancel(job) => {
                let mut lines = text::wrap(&job.words, inner_width);
                lines.extend([String::new(), "y Enter: cancel it    any other key: leave it".to_owned()]);
                ("Cancel this job?", lines, 0, None)
            }
            Popup::Stack(_) => ("Stack", vec!["asking the program".to_owned()], 0, None),
        };
        let widest = lines.iter().map(|line| text::width(line)).max().unwrap_or(0).max(title.len() + 2);
        let width = u16::try_from(widest + 4).unwrap_or(room.width).min(room.width);
        let height = u16::try_from(lines.len() + 2).unwrap_or(room.height).min(room.height);
        let area = Rect {
            x: room.x + (room.width - width) / 2,
            y: room.y + (room.height - height) / 2,
            width,
            height,
        };
        let page = usize::from(height.saturating_sub(2));
        let offset = match selected {
            Some(selected) => scrolled(0, selected, lines.len(), page),
            None => offset.min(lines.len().saturating_sub(page)),
        };
        self.popup_size = (lines.len(), page);
        Clear.render(area, buffer);
        let mut block = Block::bordered().title(format!(" {title} "));
        if self.theme.symbols.is_ascii {
            block = block.border_set(ASCII_BORDER);
        }
        block.render(area, buffer);
        let mut canvas = Canvas { buffer, theme: &self.theme };
        let bottom = area.bottom().saturating_sub(1);
        for (y, (place, line)) in (area.y + 1..bottom).zip(lines.iter().enumerate().skip(offset)) {
            let style = if selected == Some(place) { self.theme.bar() } else { Style::new() };
            canvas.write(area.x + 2, y, area.right().saturating_sub(2), line, style);
        }
        if offset + page < lines.len() {
            canvas.write(area.x + 2, bottom, area.right() - 1, " more below ", Style::new());
        }
    }
}

const ASCII_BORDER: ratatui::symbols::border::Set<'_> = ratatui::symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// Writes the values of a line of the summary. Those that do not fit are left out.
fn draw_values(canvas: &mut Canvas<'_>, x: u16, y: u16, end: u16, values: &[Value]) {
    let mut at = x;
    for (place, value) in values.iter().enumerate() {
        let gap = if place == 0 { 0 } else { 2 };
        let label = if value.label.is_empty() { String::new() } else { format!("{} ", value.label) };
        let width = gap + text::width(&label) + text::width(&value.text);
        if place > 0 && usize::from(at) + width > usize::from(end) {
            return;
        }
        at += gap as u16;
        at = canvas.write(at, y, end, &label, canvas.theme.style(Tone::Dim));
        at = canvas.write(
            at,
            y,
            end,
            &canvas.cut(&value.text, usize::from(end.saturating_sub(at))),
            canvas.theme.style(value.tone),
        );
    }
}

fn draw_cell(canvas: &mut Canvas<'_>, x: u16, y: u16, width: usize, cell: &Cell, kind: Kind, style: Style) {
    let end = canvas.buffer.area.right();
    if kind == Kind::Strip {
        let skipped = text::width(&cell.text).saturating_sub(width);
        for (x, (character, tone)) in (x..).zip(cell.text.chars().zip(&cell.tones).skip(skipped)) {
            let style = if *tone == Tone::Plain { style } else { canvas.theme.mark(style) };
            canvas.write(x, y, end, character.encode_utf8(&mut [0; 4]), style);
        }
        return;
    }
    let shown = canvas.cut(&cell.text, width);
    let padding = if kind == Kind::Number { width.saturating_sub(text::width(&shown)) } else { 0 };
    let x = x.saturating_add(u16::try_from(padding).unwrap_or(u16::MAX));
    canvas.write(x, y, end, &shown, style);
}

/// Returns the offset of a list so that the selected row is shown, and no more room is left empty than there must be.
fn scrolled(offset: usize, selected: usize, count: usize, page: usize) -> usize {
    let page = page.max(1);
    let last = count.saturating_sub(page);
    offset.min(selected).max((selected + 1).saturating_sub(page)).min(last)
}

/// Returns the most recent bad thing, as one line.
fn notable(service: &offloop::observe::document::Service) -> Option<String> {
    let deaths = service
        .processes
        .iter()
        .flat_map(|it| it.deaths.iter().map(move |death| (it.time - death.time, death)));
    let latest = deaths.min_by(|(one, _), (two, _)| one.total_cmp(two));
    if let Some((ago, death)) = latest.filter(|(ago, _)| *ago < 600.0) {
        let task = death.task.as_ref().map(|task| format!(" in {task}")).unwrap_or_default();
        let ago = text::duration(ago.max(0.0));
        return Some(format!("worker {} of {} died {ago} ago{task}: {}", death.pid, death.pool, death.how));
    }
    service.processes.iter().flat_map(|it| &it.advice).map(|advice| advice.text.clone()).next()
}

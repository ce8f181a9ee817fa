//! The view as a text, or as JSON.

use std::fmt::Write as _;
use std::io;

use offloop::observe::document::Service;
use serde_json::ser::{CompactFormatter, Formatter};
use serde_json::{Serializer, Value};

use crate::history::History;
use crate::http::RequestError;
use crate::panels::{Panel, Sight, Symbols, Value as Shown, summary};
use crate::programs::{Lookup, Program};
use crate::table::{GAP, Kind, Table};
use crate::{FAILED, Failure, clean, text};

/// The widest column of a text.
const WIDEST: usize = 1000;

/// Prints the services that the lookup finds, and blocks until they have answered.
pub(crate) fn print(lookup: &Lookup, as_json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(lookup.find());
    if found.programs.is_empty() {
        return Err(lookup.nothing(&found));
    }
    let mut output = String::new();
    let mut troubles = found.warnings;
    for program in &found.programs {
        let printed = runtime.block_on(ask(program)).and_then(|document| {
            Ok(if as_json { line(&document) } else { report(serde_json::from_value(document)?) })
        });
        match printed {
            Ok(printed) => output.push_str(&printed),
            Err(error) => troubles.push(format!("{}: {error}", program.endpoint)),
        }
    }
    crate::print(output.as_bytes())?;
    if troubles.is_empty() { Ok(()) } else { Err(Failure::new(FAILED, troubles.join("\noffloop: "))) }
}

/// Asks for the document of a service. It is kept with all its fields, also those of later versions.
async fn ask(program: &Program) -> Result<Value, RequestError> {
    match &program.trouble {
        Some(error) => Err(error.clone()),
        None => program.endpoint.get("service").await,
    }
}

/// Returns a document as one line.
fn line(document: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Escaping(CompactFormatter));
    // The values were parsed, and the memory does not fail: there is no error.
    let _ = serde::Serialize::serialize(document, &mut serializer);
    let mut line = String::from_utf8_lossy(&bytes).into_owned();
    line.push('\n');
    line
}

/// Writes JSON in which each character that might steer a terminal is escaped. The values are the same.
struct Escaping(CompactFormatter);

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for character in fragment.chars() {
            if character == ' ' || text::clean(character.encode_utf8(&mut [0; 4]), 1).starts_with(character) {
                self.0.write_string_fragment(writer, character.encode_utf8(&mut [0; 4]))?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// Returns a service as a text with a section for each panel.
fn report(mut service: Service) -> String {
    clean::service(&mut service);
    let history = History::default();
    let sight = Sight { service: &service, history: &history, symbols: &Symbols::UNICODE };
    let mut text = String::new();
    for line in summary(&service) {
        let values: Vec<_> = line.iter().map(in_words).collect();
        let _ = writeln!(text, "{}", values.join("   "));
    }
    for panel in Panel::ALL.into_iter().filter(|panel| *panel != Panel::Overview) {
        let mut table = panel.table(&sight);
        if let Some(order) = panel.order() {
            table.sort(order);
        }
        let _ = writeln!(text, "\n{}", table.title.to_uppercase());
        if table.rows.is_empty() {
            let _ = writeln!(text, "{}", table.empty);
        } else {
            write_table(&mut text, &table);
        }
    }
    text.push('\n');
    text
}

fn in_words(value: &Shown) -> String {
    if value.label.is_empty() { value.text.clone() } else { format!("{} {}", value.label, value.text) }
}

fn write_table(text: &mut String, table: &Table) {
    let columns = table.fit(WIDEST);
    let titles = columns.iter().map(|(index, width)| (table.columns[*index].title, *index, *width));
    write_line(text, table, titles);
    for row in &table.rows {
        let cells = columns.iter().map(|(index, width)| (row.cells[*index].text.as_str(), *index, *width));
        write_line(text, table, cells);
    }
}

fn write_line<'a>(text: &mut String, table: &Table, cells: impl Iterator<Item = (&'a str, usize, usize)>) {
    let mut line = String::new();
    for (cell, index, width) in cells {
        if !line.is_empty() {
            line.push_str(&" ".repeat(GAP));
        }
        let padding = " ".repeat(width.saturating_sub(text::width(cell)));
        if table.columns[index].kind == Kind::Number {
            line.push_str(&padding);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            line.push_str(&padding);
        }
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_all_values_and_steers_no_terminal() {
        let document: Value =
            serde_json::from_str(r#"{"new": "a\u001b\u009b\u202e\ud83d\ude00 é\n\"", "n": [1, 2.5, null]}"#)
                .unwrap();
        let line = line(&document);
        assert_eq!(line.lines().count(), 1);
        assert!(!line.trim_end().contains(['\x1b', '\u{9b}', '\u{202e}', '\n']), "{line:?}");
        assert!(line.contains('é'));
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), document);
    }

    #[test]
    fn a_text_has_a_section_for_each_panel() {
        let text = report(serde_json::from_str(include_str!("../tests/documents/service.json")).unwrap());
        for section in ["PROCESSES", "POOLS", "JOBS", "WORKERS", "LOOPS", "STALLS", "DEATHS", "ADVICE"] {
            assert!(text.lines().any(|line| line == section), "{section}");
        }
        assert!(text.contains("killed by SIGSEGV"));
        assert!(text.lines().all(|line| line == line.trim_end()));
    }
}

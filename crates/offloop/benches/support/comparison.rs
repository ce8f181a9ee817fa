//! A table of measured values, ours beside those of the peers, that shows which goals are reached.

use std::fmt;

/// The direction in which values improve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// A goal for our values.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// At least as good as the best peer.
    BestPeer,
    /// At least as good as this many times the contender of that name.
    Times(f64, &'static str),
}

/// One measured row.
pub(crate) struct Row {
    /// The measured quantity, with its unit.
    pub(crate) label: String,
    pub(crate) better: Better,
    /// Empty for a row without a goal.
    pub(crate) goals: &'static [Goal],
    /// One value for each contender, in the order of the table. `None` where the row does not apply.
    pub(crate) values: Vec<Option<f64>>,
}

/// Measured rows of contenders.
pub(crate) struct Comparison {
    /// Ours, then the peers, then the bounds.
    names: Vec<&'static str>,
    ours: usize,
    peers: usize,
    rows: Vec<Row>,
}

impl Comparison {
    /// `bounds` are no peers: they do a part of the work, and show what the machine allows.
    pub(crate) fn new(ours: &[&'static str], peers: &[&'static str], bounds: &[&'static str]) -> Self {
        let names = [ours, peers, bounds].concat();
        Self { names, ours: ours.len(), peers: peers.len(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        assert_eq!(row.values.len(), self.names.len(), "a row has one value for each contender");
        self.rows.push(row);
    }

    fn best_peer(&self, row: &Row) -> Option<(&'static str, f64)> {
        let peers = self.names.iter().zip(&row.values).skip(self.ours).take(self.peers);
        let measured = peers.filter_map(|(name, value)| Some((*name, (*value)?)));
        measured.reduce(|best, next| if no_worse(row.better, best.1, next.1) { best } else { next })
    }

    fn value_of(&self, row: &Row, name: &str) -> Option<f64> {
        let at = self.names.iter().position(|other| *other == name)?;
        row.values[at]
    }

    /// Returns our contenders that reach the goal.
    fn reached_by(&self, row: &Row, goal: Goal) -> String {
        let (times, base) = match goal {
            Goal::BestPeer => (1.0, self.best_peer(row).map(|(_, value)| value)),
            Goal::Times(times, name) => (times, self.value_of(row, name)),
        };
        let Some(base) = base else { return "–".to_owned() };
        let ours = self.names.iter().zip(&row.values).take(self.ours);
        let reached: Vec<String> = ours
            .filter_map(|(name, value)| Some((name, (*value)? / base)))
            .filter(|(_, ratio)| no_worse(row.better, *ratio, times))
            .map(|(name, ratio)| match goal {
                Goal::BestPeer => (*name).to_owned(),
                Goal::Times(..) => format!("{name} ({ratio:.*} ×)", if times < 1.0 { 3 } else { 1 }),
            })
            .collect();
        if reached.is_empty() { "none".to_owned() } else { reached.join(", ") }
    }

    fn header(&self) -> Vec<String> {
        let names = self.names.iter().map(ToString::to_string);
        let ratios = self.names[..self.ours].iter().map(|name| format!("{name} ÷ best"));
        let verdict = ["to reach", "reached by"].map(ToOwned::to_owned);
        ["workload".to_owned()]
            .into_iter()
            .chain(names)
            .chain(["best peer".to_owned()])
            .chain(ratios)
            .chain(verdict)
            .collect()
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let best = self.best_peer(row);
        let ratio = |value: &Option<f64>| cell(value.zip(best).map(|(value, (_, best))| value / best), 2);
        let mut cells = vec![row.label.clone()];
        cells.extend(row.values.iter().map(|value| cell(*value, digits(*value))));
        cells.push(best.map_or("–", |(name, _)| name).to_owned());
        cells.extend(row.values.iter().take(self.ours).map(ratio));
        cells.push(for_each_goal(row, |goal| to_reach(goal, row.better)));
        cells.push(for_each_goal(row, |goal| self.reached_by(row, goal)));
        cells
    }
}

impl fmt::Display for Comparison {
    /// Writes an aligned Markdown table: text is aligned left, numbers are aligned right.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header();
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| self.cells(row)).collect();
        let widths: Vec<usize> = (0..header.len())
            .map(|at| rows.iter().chain([&header]).map(|row| row[at].chars().count()).max().unwrap_or(0))
            .collect();
        let is_text = |at: usize| {
            let ratios = self.names.len() + 2..self.names.len() + 2 + self.ours;
            at == 0 || at > self.names.len() && !ratios.contains(&at)
        };
        let line = |f: &mut fmt::Formatter<'_>, row: &[String]| {
            for (at, (text, &width)) in row.iter().zip(&widths).enumerate() {
                if is_text(at) {
                    write!(f, "| {text:<width$} ")?;
                } else {
                    write!(f, "| {text:>width$} ")?;
                }
            }
            writeln!(f, "|")
        };
        line(f, &header)?;
        for (at, &width) in widths.iter().enumerate() {
            let dashes = "-".repeat(width);
            if is_text(at) {
                write!(f, "| {dashes} ")?;
            } else {
                write!(f, "| {}: ", &dashes[1..])?;
            }
        }
        writeln!(f, "|")?;
        rows.iter().try_for_each(|row| line(f, row))
    }
}

/// Joins the descriptions of all goals of a row, in their order.
fn for_each_goal(row: &Row, describe: impl Fn(Goal) -> String) -> String {
    let said: Vec<String> = row.goals.iter().map(|goal| describe(*goal)).collect();
    if said.is_empty() { "–".to_owned() } else { said.join("; ") }
}

fn to_reach(goal: Goal, better: Better) -> String {
    let sign = match better {
        Better::Less => '≤',
        Better::More => '≥',
    };
    match goal {
        Goal::BestPeer => format!("{sign} best"),
        Goal::Times(times, base) if times < 1.0 => format!("{sign} {base} ÷ {:.0}", times.recip()),
        Goal::Times(times, base) => format!("{sign} {times} × {base}"),
    }
}

fn no_worse(better: Better, value: f64, than: f64) -> bool {
    match better {
        Better::Less => value <= than,
        Better::More => value >= than,
    }
}

/// Returns the number of decimals. Three significant digits are enough: the last one differs from run to run.
fn digits(value: Option<f64>) -> usize {
    match value {
        Some(value) if value >= 100.0 => 0,
        Some(value) if value >= 10.0 => 1,
        Some(value) if value < 1.0 => 3,
        _ => 2,
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

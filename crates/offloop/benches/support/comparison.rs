//! A table of results, ours beside those of peers, with the goals and the contenders that reach them.

use std::fmt;

/// Which of two values is the better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// The goal for a result of ours.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// At least as good as the best peer.
    BestPeer,
    /// At least as good as this many times the peer of that name.
    Times(f64, &'static str),
}

/// One measured row.
pub(crate) struct Figure {
    /// The name of the measurement, with its unit.
    pub(crate) label: String,
    pub(crate) better: Better,
    /// The goals. There are none for a result that is only reported.
    pub(crate) goals: &'static [Goal],
    /// One value a contender, in their order; `None` where it does not apply.
    pub(crate) values: Vec<Option<f64>>,
}

/// Measured rows of contenders, of which the first few are ours.
pub(crate) struct Comparison {
    names: Vec<&'static str>,
    ours: usize,
    figures: Vec<Figure>,
}

impl Comparison {
    pub(crate) fn new(ours: &[&'static str], peers: &[&'static str]) -> Self {
        Self { names: [ours, peers].concat(), ours: ours.len(), figures: Vec::new() }
    }

    pub(crate) fn add(&mut self, figure: Figure) {
        assert_eq!(figure.values.len(), self.names.len(), "one value a contender");
        self.figures.push(figure);
    }

    fn best_peer(&self, figure: &Figure) -> Option<(&'static str, f64)> {
        let peers = self.names.iter().zip(&figure.values).skip(self.ours);
        let measured = peers.filter_map(|(name, value)| Some((*name, (*value)?)));
        measured.reduce(|best, next| if no_worse(figure.better, best.1, next.1) { best } else { next })
    }

    fn peer(&self, figure: &Figure, name: &str) -> Option<f64> {
        let at = self.names.iter().position(|other| *other == name)?;
        figure.values[at]
    }

    /// Lists the contenders of ours that reach the goal.
    fn reached_by(&self, figure: &Figure, goal: Goal) -> String {
        let (times, base) = match goal {
            Goal::BestPeer => (1.0, self.best_peer(figure).map(|(_, value)| value)),
            Goal::Times(times, name) => (times, self.peer(figure, name)),
        };
        let Some(base) = base else { return "–".to_owned() };
        let ours = self.names.iter().zip(&figure.values).take(self.ours);
        let reached: Vec<String> = ours
            .filter_map(|(name, value)| Some((name, (*value)? / base)))
            .filter(|(_, ratio)| no_worse(figure.better, *ratio, times))
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

    fn row(&self, figure: &Figure) -> Vec<String> {
        let best = self.best_peer(figure);
        let ratio = |value: &Option<f64>| cell(value.zip(best).map(|(value, (_, best))| value / best), 2);
        let mut row = vec![figure.label.clone()];
        row.extend(figure.values.iter().map(|value| cell(*value, digits(*value))));
        row.push(best.map_or("–", |(name, _)| name).to_owned());
        row.extend(figure.values.iter().take(self.ours).map(ratio));
        row.push(for_each_goal(figure, |goal| to_reach(goal, figure.better)));
        row.push(for_each_goal(figure, |goal| self.reached_by(figure, goal)));
        row
    }
}

impl fmt::Display for Comparison {
    /// Formats an aligned Markdown table, with text to the left and numbers to the right.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header();
        let rows: Vec<Vec<String>> = self.figures.iter().map(|figure| self.row(figure)).collect();
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

/// Joins the texts that `describe` returns for each goal, in their order.
fn for_each_goal(figure: &Figure, describe: impl Fn(Goal) -> String) -> String {
    let texts: Vec<String> = figure.goals.iter().map(|goal| describe(*goal)).collect();
    if texts.is_empty() { "–".to_owned() } else { texts.join("; ") }
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

/// Returns the decimal places for about three digits in all. More would change from run to run.
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

//! Code that the benches share: statistics, load for the other cores, values from `/proc`, and the printed table.

mod comparison;
mod hog;
mod procfs;
mod stats;

pub(crate) use comparison::{Better, Comparison, Goal, Row};
pub(crate) use hog::Hogs;
pub(crate) use procfs::field;
pub(crate) use stats::{Spread, median, per_second};

/// The length of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Seconds: a smoke run.
    Quick,
    /// Minutes: for results to quote.
    Full,
}

impl Effort {
    /// Returns `Full` if there is the argument `--bench`, which `cargo bench` passes, and no `--quick`. `cargo test
    /// --all-targets` passes neither, so it makes a smoke run.
    pub(crate) fn from_arguments() -> Self {
        let given = |name: &str| std::env::args().any(|argument| argument == name);
        if given("--bench") && !given("--quick") { Self::Full } else { Self::Quick }
    }

    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

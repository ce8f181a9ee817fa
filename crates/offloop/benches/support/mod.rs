//! Code common to the benches: statistics, load for the other cores, readings from `/proc`, and the table of results.

mod comparison;
mod hog;
mod procfs;
mod stats;

pub(crate) use comparison::{Better, Comparison, Figure, Goal};
pub(crate) use hog::Hogs;
pub(crate) use procfs::field;
pub(crate) use stats::{Spread, median, per_second};

/// The time that a bench may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Seconds: enough to see that it runs.
    Quick,
    /// Minutes: enough for results to quote.
    Full,
}

impl Effort {
    /// Reads the effort from the command line: full with `--bench`, which `cargo bench` passes, unless there is
    /// `--quick`.
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

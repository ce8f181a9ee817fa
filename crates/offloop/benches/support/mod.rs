//! What the benches share: statistics, load for the other cores, what the kernel knows of a process, and the
//! table that they print.

mod comparison;
mod hog;
mod procfs;
mod stats;

pub(crate) use comparison::{Better, Comparison, Figure, Goal};
pub(crate) use hog::Hogs;
pub(crate) use procfs::field;
pub(crate) use stats::{Spread, median, per_second};

/// How long a bench may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Enough to see that it runs: seconds.
    Quick,
    /// Enough for figures to quote: minutes.
    Full,
}

impl Effort {
    /// `cargo bench` passes `--bench`. Without it (`cargo test --all-targets`), or with `--quick`, a smoke run.
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

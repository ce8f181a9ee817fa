//! A service as tables.

mod advice;
mod cells;
mod deaths;
mod jobs;
mod loops;
mod pools;
mod processes;
mod programs;
mod sight;
mod summary;
mod workers;

use advice::advice;
use deaths::deaths;
use jobs::jobs;
use loops::stalls;
use processes::processes;
use workers::workers;

pub(crate) use loops::loops;
pub(crate) use pools::pools;
pub(crate) use programs::programs;
pub(crate) use sight::{Sight, Symbols};
pub(crate) use summary::{Value, summary};

use crate::table::{Order, Table};

/// A panel of the screen, and a section of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panel {
    Overview,
    Processes,
    Pools,
    Jobs,
    Workers,
    Loops,
    Stalls,
    Deaths,
    Advice,
}

impl Panel {
    pub(crate) const ALL: [Self; 9] = [
        Self::Overview,
        Self::Processes,
        Self::Pools,
        Self::Jobs,
        Self::Workers,
        Self::Loops,
        Self::Stalls,
        Self::Deaths,
        Self::Advice,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Processes => "Processes",
            Self::Pools => "Pools",
            Self::Jobs => "Jobs",
            Self::Workers => "Workers",
            Self::Loops => "Loops",
            Self::Stalls => "Stalls",
            Self::Deaths => "Deaths",
            Self::Advice => "Advice",
        }
    }

    /// Returns the panel's table. That of the overview lists the jobs.
    pub(crate) fn table(self, sight: &Sight<'_>) -> Table {
        match self {
            Self::Overview | Self::Jobs => jobs(sight),
            Self::Processes => processes(sight),
            Self::Pools => pools(sight),
            Self::Workers => workers(sight),
            Self::Loops => loops(sight),
            Self::Stalls => stalls(sight),
            Self::Deaths => deaths(sight),
            Self::Advice => advice(sight),
        }
    }

    /// Returns the order in which the panel is shown at first. Without one it is that of the document.
    pub(crate) fn order(self) -> Option<Order> {
        match self {
            Self::Overview | Self::Jobs => Some(Order { column: 2, descends: true }),
            Self::Stalls => Some(Order { column: 3, descends: true }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;

//! What a run came to, in numbers.

use std::collections::BTreeMap;

use super::verdict::Verdict;
use crate::plan::Kind;

/// The columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    Ok,
    Panicked,
    Died,
    /// By a kill from outside.
    Killed,
    Cancelled,
    QueueDeadline,
    RunDeadline,
    Full,
    Shed,
    Closed,
    NoWorker,
    Dropped,
    Detached,
    Wrong,
}

/// What a run came to, in numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) jobs: BTreeMap<(Kind, Column), usize>,
    pub(crate) pools: usize,
    pub(crate) shut_down: usize,
    pub(crate) kills: usize,
    /// Those that a job was told of, and of these the ones whose job had not begun.
    pub(crate) kills_felt: usize,
    pub(crate) kills_felt_unbegun: usize,
    pub(crate) stops: usize,
    pub(crate) queued_for_certain: usize,
}

impl Column {
    pub(crate) const ALL: [(Self, &'static str); 14] = [
        (Self::Ok, "ok"),
        (Self::Panicked, "panicked"),
        (Self::Died, "died"),
        (Self::Killed, "killed"),
        (Self::Cancelled, "cancelled"),
        (Self::QueueDeadline, "queue"),
        (Self::RunDeadline, "run"),
        (Self::Full, "full"),
        (Self::Shed, "shed"),
        (Self::Closed, "closed"),
        (Self::NoWorker, "no worker"),
        (Self::Dropped, "dropped"),
        (Self::Detached, "detached"),
        (Self::Wrong, "WRONG"),
    ];

    pub(super) fn of(verdict: &Verdict, by_outside: bool) -> Self {
        match verdict {
            Verdict::Ok => Self::Ok,
            Verdict::Panicked => Self::Panicked,
            Verdict::Cancelled => Self::Cancelled,
            Verdict::QueueDeadline(_) => Self::QueueDeadline,
            Verdict::RunDeadline(_) => Self::RunDeadline,
            Verdict::Full(_) => Self::Full,
            Verdict::Shed => Self::Shed,
            Verdict::Closed => Self::Closed,
            Verdict::Died { .. } if by_outside => Self::Killed,
            Verdict::Died { .. } => Self::Died,
            Verdict::CouldNotStart(_) => Self::NoWorker,
            Verdict::Dropped => Self::Dropped,
            Verdict::Detached => Self::Detached,
            Verdict::WrongValue(_) | Verdict::Strange(_) => Self::Wrong,
        }
    }
}

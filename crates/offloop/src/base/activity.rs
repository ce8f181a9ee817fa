//! The verdict of the pools' advice and of the watch: does something compute, or does it wait?

/// What a job or a thread does for most of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activity {
    /// It needs a core.
    Computes,
    /// It waits: for a lock, a socket, a file, a timer.
    Waits,
}

impl Activity {
    /// The share of its time that a job or a thread is on a core, from which on it computes.
    const COMPUTING: f64 = 0.5;

    /// Returns the activity of what is on a core for this share of its time, from 0 to 1.
    pub(crate) fn of_share(on_core: f64) -> Self {
        if on_core >= Self::COMPUTING { Self::Computes } else { Self::Waits }
    }

    /// Returns the activity as a word for labels: `computes`, `waits`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Computes => "computes",
            Self::Waits => "waits",
        }
    }
}

//! The place of the blocking work.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Where the blocking work goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Mode {
    /// Nowhere: the event loop does it, and serves nobody else meanwhile.
    Loop,
    /// To tokio's threads for blocking calls (`spawn_blocking`).
    Threads,
    /// Documents and functions to the processes of `procspawn`, the rest to tokio's threads.
    Processes,
    /// To the pools of offloop: documents to processes, the rest to threads.
    Offloop,
    /// Documents to the workers of a cluster, the rest to offloop's threads.
    Cluster,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Loop, Self::Threads, Self::Processes, Self::Offloop, Self::Cluster];

    /// Returns the name, as in the interface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Threads => "threads",
            Self::Processes => "processes",
            Self::Offloop => "offloop",
            Self::Cluster => "cluster",
        }
    }

    pub(crate) fn from_index(index: u8) -> Self {
        Self::ALL.into_iter().find(|mode| *mode as u8 == index).unwrap_or(Self::Offloop)
    }
}

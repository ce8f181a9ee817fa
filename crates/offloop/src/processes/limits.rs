//! What a worker may use, and where it lives.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

/// What a worker imposes on itself before its first job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// How much it gives way to others on the same cores; added to the parent's own.
    pub(crate) nice: i32,
    /// The cores that it may run on; empty: those of its parent.
    pub(crate) cores: Vec<usize>,
    /// Memory of its own, in bytes: what exceeds it is refused by the system.
    pub(crate) max_data: Option<u64>,
    pub(crate) open_files: Option<u64>,
    /// How much memory it keeps for later results, in bytes.
    pub(crate) retained: u64,
}

impl Limits {
    pub(crate) fn impose(&self) -> io::Result<()> {
        if self.nice != 0 {
            // A parent that may not go where it asked to is told when it builds the pool, not here.
            let _ = rustix::process::nice(self.nice);
        }
        if !self.cores.is_empty() {
            let mut set = CpuSet::new();
            self.cores.iter().for_each(|header| set.set(*header));
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        let lower = |resource, limit: Option<u64>| match limit {
            Some(limit) => {
                let maximum = rustix::process::getrlimit(resource).maximum;
                let limit = Some(maximum.map_or(limit, |maximum| limit.min(maximum)));
                rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })
            }
            None => Ok(()),
        };
        lower(Resource::Nofile, self.open_files)?;
        lower(Resource::Data, self.max_data)?;
        Ok(())
    }
}

/// What a worker is started in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) directory: Option<PathBuf>,
    /// Variables that are set, or removed, in this order.
    pub(crate) variables: Vec<(OsString, Option<OsString>)>,
    /// Nothing is inherited.
    pub(crate) cleared: bool,
}

impl Surroundings {
    pub(crate) fn apply(&self, command: &mut Command) {
        if self.cleared {
            command.env_clear();
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
    }
}

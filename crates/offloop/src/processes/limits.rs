//! The limits that a worker process keeps to.

use std::io;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::base::syscall::NameCall;

/// The limits that a worker imposes on itself before its first job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Limits {
    /// The increment of its nice level over the parent's.
    pub(super) nice: i32,
    /// The cores that it may run on. Empty: those of its parent.
    pub(super) cores: Vec<usize>,
    /// The most memory of its own, in bytes. The system refuses what exceeds it.
    pub(super) max_data: Option<u64>,
    /// The most files that it may have open.
    pub(super) open_files: Option<u64>,
    /// The memory that it may have resident between two jobs, in bytes. If it has more, it is replaced.
    pub(super) recycle_rss: Option<u64>,
    /// The most freed shared memory that it keeps for later results, in bytes.
    pub(super) idle_memory: u64,
}

impl Limits {
    /// Imposes the limits on this process, except `idle_memory`, which the arena keeps, and
    /// `recycle_rss`, which the worker looks at after its jobs.
    pub(super) fn impose(&self) -> io::Result<()> {
        if self.nice != 0 {
            // Without the privilege for a negative value the worker runs as its parent does.
            let _ = rustix::process::nice(self.nice);
        }
        if !self.cores.is_empty() {
            let mut set = CpuSet::new();
            self.cores.iter().for_each(|core| set.set(*core));
            rustix::thread::sched_setaffinity(None, &set)
                .of_call("sched_setaffinity (the option cpu_affinity)")?;
        }
        let lower = |resource, limit: Option<u64>| match limit {
            Some(limit) => {
                let maximum = rustix::process::getrlimit(resource).maximum;
                let limit = Some(maximum.map_or(limit, |maximum| limit.min(maximum)));
                rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })
            }
            None => Ok(()),
        };
        lower(Resource::Nofile, self.open_files).of_call("setrlimit (the option max_open_files)")?;
        lower(Resource::Data, self.max_data).of_call("setrlimit (the option max_data)")?;
        Ok(())
    }
}

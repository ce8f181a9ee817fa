//! From the death of a worker to the error of its job.

use super::worker::{LeaveReason, WorkerPhase};
use crate::core::error::{WorkerDied, WorkerExit};
use crate::core::header::Header;
use crate::metrics::Restarts;
use crate::processes::handshake::CANNOT_BECOME_WORKER;
use crate::processes::os::process::{self, ProcessEnd};

/// How a worker ended, and in which phase.
pub(super) struct Death {
    pub(super) pid: u32,
    pub(super) phase: WorkerPhase,
    pub(super) end: ProcessEnd,
}

impl Death {
    /// Returns whether the worker ended although it was not told to, or because it misbehaved.
    pub(super) fn is_crash(&self) -> bool {
        !matches!(self.phase, WorkerPhase::Leaving(LeaveReason::Idle | LeaveReason::JobAborted))
    }

    /// Returns the description of a crash that breaks the pool. `culprit` is the job that the worker ran.
    pub(super) fn describe(&self, culprit: Option<&Header>) -> String {
        let pid = self.pid;
        match &self.phase {
            WorkerPhase::Leaving(LeaveReason::HandshakeFailed(reason)) => {
                format!("worker process {pid} was refused: {reason}")
            }
            _ => match culprit {
                Some(job) => format!(
                    "worker process {pid} {} while it ran job {} `{}`",
                    self.exit(),
                    job.id,
                    job.options.name
                ),
                None => format!("worker process {pid} {}", self.exit()),
            },
        }
    }

    /// Returns the reason why the worker did not come up, if it did not. `stderr` is the end of what it wrote there.
    pub(super) fn start_failure(&self, stderr: &str) -> Option<String> {
        match &self.phase {
            WorkerPhase::Leaving(LeaveReason::HandshakeFailed(_)) => Some(self.describe(None)),
            WorkerPhase::Starting | WorkerPhase::Initialising => {
                let end = format!("worker process {} {} before it was ready", self.pid, self.end.exit);
                let hint = if stderr.contains(CANNOT_BECOME_WORKER) {
                    ""
                } else {
                    "; does `main` begin with `offloop::init();`?"
                };
                let written = if stderr.is_empty() { "" } else { "; it wrote to standard error: " };
                Some(format!("{end}{hint}{written}{stderr}"))
            }
            WorkerPhase::Ready | WorkerPhase::Retiring | WorkerPhase::Leaving(_) => None,
        }
    }

    /// Returns the error of a job that the worker ran, without what is particular to the job. `max_rss` is the pool's.
    pub(super) fn error(
        &self,
        stderr: String,
        max_rss: Option<u64>,
        kills: &mut OutOfMemoryKills,
    ) -> WorkerDied {
        let Self { pid, ref phase, end } = *self;
        let measured = match phase {
            WorkerPhase::Leaving(LeaveReason::Memory(measured)) => Some(*measured),
            _ => None,
        };
        let exit = self.exit();
        let out_of_memory = match phase {
            // It has ended by itself before it could be killed.
            WorkerPhase::Leaving(LeaveReason::ProtocolError) if exit != WorkerExit::Protocol => {
                was_out_of_memory(exit, &stderr, kills)
            }
            WorkerPhase::Leaving(_) => measured.is_some(),
            _ => was_out_of_memory(exit, &stderr, kills),
        };
        WorkerDied {
            pid,
            exit,
            task: String::new(),
            peak_memory: end.peak_memory.max(measured.unwrap_or(0)),
            out_of_memory,
            max_rss: max_rss.filter(|_| measured.is_some()),
            workers_lost: 0,
            stderr,
        }
    }

    /// Returns the way in which the worker ended.
    ///
    /// A worker that exits closes its link a moment before it is dead. The moment can be long: the kernel may have much
    /// memory to free. So what counts is the status, which SIGKILL does not change any more at that point.
    fn exit(&self) -> WorkerExit {
        match (&self.phase, self.end.exit) {
            (
                WorkerPhase::Leaving(LeaveReason::ProtocolError),
                WorkerExit::Signal(libc::SIGKILL) | WorkerExit::Unknown,
            ) => WorkerExit::Protocol,
            (_, exit) => exit,
        }
    }

    /// Counts the worker among those that were replaced.
    pub(super) fn count(&self, restarts: &mut Restarts) {
        if self.end.exit == WorkerExit::Lost {
            restarts.lost += 1;
            return;
        }
        match &self.phase {
            WorkerPhase::Ready | WorkerPhase::Retiring => restarts.crashed += 1,
            WorkerPhase::Starting | WorkerPhase::Initialising => restarts.failed_start += 1,
            WorkerPhase::Leaving(reason) => match reason {
                LeaveReason::JobAborted => restarts.job_ended += 1,
                LeaveReason::Memory(_) => restarts.max_rss += 1,
                LeaveReason::ProtocolError if self.exit() == WorkerExit::Protocol => restarts.protocol += 1,
                LeaveReason::ProtocolError | LeaveReason::Stopped(_) => restarts.crashed += 1,
                LeaveReason::HandshakeFailed(_) => restarts.failed_start += 1,
                // If another worker takes its place, that was counted when it began to retire.
                LeaveReason::Idle => {}
            },
        }
    }
}

/// Notices that the system has killed a process for lack of memory.
pub(super) struct OutOfMemoryKills {
    /// The system's count of such kills when it was last read.
    seen: u64,
}

impl OutOfMemoryKills {
    pub(super) fn new() -> Self {
        Self { seen: process::out_of_memory_kills() }
    }

    /// Returns whether there was such a kill since the last call.
    fn was_one(&mut self) -> bool {
        let kills = process::out_of_memory_kills();
        std::mem::replace(&mut self.seen, kills) < kills
    }
}

/// Returns whether a worker that ended by itself ran out of memory, as far as that can be seen.
fn was_out_of_memory(exit: WorkerExit, stderr: &str, kills: &mut OutOfMemoryKills) -> bool {
    match exit {
        // The system's out-of-memory killer may have sent it.
        WorkerExit::Signal(libc::SIGKILL) => kills.was_one(),
        // Rust's allocation error handler prints this line before it aborts.
        WorkerExit::Signal(libc::SIGABRT) => {
            let is_it =
                |line: &str| line.starts_with("memory allocation of ") && line.ends_with(" bytes failed");
            stderr.lines().any(is_it)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_was_killed_as_it_exited_has_its_own_status() {
        let verdict = |exit| {
            let phase = WorkerPhase::Leaving(LeaveReason::ProtocolError);
            let death = Death { pid: 1, phase, end: ProcessEnd { exit, peak_memory: 0 } };
            let mut restarts = Restarts::default();
            death.count(&mut restarts);
            let died = death.error(String::new(), None, &mut OutOfMemoryKills::new());
            (died.exit, restarts.crashed, restarts.protocol)
        };
        for own in [WorkerExit::Code(3), WorkerExit::Code(0), WorkerExit::Signal(libc::SIGSEGV)] {
            assert_eq!(verdict(own), (own, 1, 0));
        }
        for killed in [WorkerExit::Signal(libc::SIGKILL), WorkerExit::Unknown] {
            assert_eq!(verdict(killed), (WorkerExit::Protocol, 0, 1));
        }
    }
}

//! What submitters and the supervisor share: the queue, the running jobs, the orders to kill.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::builder::Config;
use super::supervisor::Supervisor;
use super::sys::Bell;
use crate::backlog::{Backlog, Offer};
use crate::cell::{Owner, Remote};
use crate::error::{BuildError, ErrorKind};
use crate::fork::Generation;
use crate::job::{Core, JobId};
use crate::report::{Report, Stuck};
use crate::sync::{Condvar, Mutex, MutexGuard, thread, wait_until};

/// The lock is held for moments only, never over a system call or foreign code, so that neither a submitter
/// nor the supervisor waits for the other.
pub(super) struct Desk {
    pub(super) config: Config,
    inbox: Mutex<Inbox>,
    /// Wakes the supervisor.
    pub(super) bell: Bell,
    /// Signalled when a job has left `running` and when the supervisor has ended.
    changed: Condvar,
    born: Generation,
    owner: Weak<dyn Owner>,
}

pub(super) struct Inbox {
    pub(super) backlog: Backlog<Arc<dyn Remote>>,
    /// The jobs that workers have. Written by the supervisor alone.
    pub(super) running: HashMap<JobId, Running>,
    /// Jobs that ended while a worker ran them: that worker is to be killed.
    pub(super) to_kill: Vec<JobId>,
    /// The process ids of the workers that are up. Written by the supervisor alone.
    pub(super) pids: Vec<u32>,
    /// How many workers were killed for the sake of their job. Written by the supervisor alone.
    pub(super) killed: usize,
    /// No more jobs are accepted.
    pub(super) closed: bool,
    /// The supervisor has ended. Written by itself alone.
    pub(super) over: bool,
    /// The bell was rung and the supervisor has not looked yet.
    rung: bool,
}

pub(super) struct Running {
    pub(super) job: Arc<dyn Remote>,
    pub(super) pid: u32,
    pub(super) since: Instant,
}

impl Desk {
    /// Opens a desk and starts its supervisor.
    pub(super) fn open(config: Config) -> Result<Arc<Self>, BuildError> {
        let system = |what| move |source| BuildError::System { what, source };
        let bell = Bell::new().map_err(system("opening the pool's eventfd"))?;
        let desk = Arc::new_cyclic(|me: &Weak<Self>| Self {
            inbox: Mutex::new(Inbox {
                backlog: Backlog::new(config.queue_capacity, config.on_full),
                running: HashMap::new(),
                to_kill: Vec::new(),
                pids: Vec::new(),
                killed: 0,
                closed: false,
                over: false,
                rung: false,
            }),
            config,
            bell,
            changed: Condvar::new(),
            born: Generation::now(),
            owner: me.clone(),
        });
        let supervisor = Supervisor::new(Arc::clone(&desk));
        thread::Builder::new()
            .name("offloop-supervisor".into())
            .spawn(move || supervisor.run())
            .map_err(system("starting the pool's supervisor thread"))?;
        Ok(desk)
    }

    /// Accepts a job, or says why not.
    pub(super) fn execute(&self, job: Arc<dyn Remote>) -> Result<(), ErrorKind> {
        if self.born.is_past() {
            return Err(ErrorKind::Forked);
        }
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err(ErrorKind::Closed);
        }
        let offer = inbox.backlog.offer(job, &self.owner);
        self.ring(inbox);
        match offer {
            Offer::Taken | Offer::Ended(_) => {}
            Offer::Shed(victim) => {
                victim.fail(ErrorKind::Shed);
            }
            Offer::CallerRuns(job) => job.run_here(),
            Offer::Full(_) => return Err(ErrorKind::Full { capacity: self.config.queue_capacity }),
        }
        Ok(())
    }

    /// Releases the inbox and has the supervisor look into it.
    fn ring(&self, mut inbox: MutexGuard<'_, Inbox>) {
        let is_first = !std::mem::replace(&mut inbox.rung, true);
        drop(inbox);
        if is_first {
            self.bell.ring();
        }
    }

    /// The supervisor's way in. Whoever changes the inbox from now on rings again.
    pub(super) fn look(&self) -> MutexGuard<'_, Inbox> {
        let mut inbox = self.inbox.lock();
        inbox.rung = false;
        inbox
    }

    /// The supervisor's other way in: for what it tells, not for what it is told.
    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock()
    }

    /// Tells a shutdown that jobs or workers have gone.
    pub(super) fn announce(&self) {
        self.changed.notify_all();
    }

    /// Takes no more jobs from now on. Those accepted are still run, then the workers leave. Says how many
    /// jobs those are.
    pub(super) fn close(&self) -> usize {
        if self.born.is_past() {
            return 0;
        }
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        let jobs = inbox.backlog.total() + inbox.running.len();
        self.ring(inbox);
        jobs
    }

    /// Drains a closed pool of its `pending` jobs, then cancels and kills, then reports.
    pub(super) fn shut_down(&self, pending: usize, drain: Duration) -> Report {
        if self.born.is_past() {
            return Report::default();
        }
        let mut inbox = self.inbox.lock();
        let killed_before = inbox.killed;
        inbox = wait_until(&self.changed, inbox, drain, |inbox| inbox.over);

        let queued = inbox.backlog.drain();
        let running: Vec<_> = inbox.running.values().map(|running| Arc::clone(&running.job)).collect();
        let ids: Vec<_> = inbox.running.keys().copied().collect();
        inbox.to_kill.extend(ids);
        self.ring(inbox);
        for job in queued.iter().chain(&running) {
            job.fail(ErrorKind::Cancelled);
        }

        // SIGKILL follows after one grace period, and what it ends is collected within the second.
        let grace = self.config.grace.saturating_mul(2).saturating_add(Duration::from_secs(1));
        let inbox = wait_until(&self.changed, self.inbox.lock(), grace, |inbox| inbox.over);
        let stuck: Vec<Stuck> = inbox
            .running
            .values()
            .map(|Running { job, pid, since }| Stuck::new(job.core(), format!("process {pid}"), *since))
            .collect();
        let killed = inbox.killed - killed_before;
        Report {
            drained: pending.saturating_sub(queued.len() + running.len()),
            cancelled: queued.len(),
            killed: killed.min(running.len()),
            stuck,
        }
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        if self.born.is_past() { Vec::new() } else { self.inbox.lock().pids.clone() }
    }

    pub(super) fn queued(&self) -> usize {
        if self.born.is_past() { 0 } else { self.inbox.lock().backlog.total() }
    }
}

impl Owner for Desk {
    fn withdraw(&self, core: &Core) {
        let mut inbox = self.inbox.lock();
        let (removed, admitted) = inbox.backlog.withdraw(core);
        self.ring(inbox);
        drop(removed);
        if let Some(admitted) = admitted {
            admitted.admit();
        }
    }

    fn interrupt(&self, core: &Core) {
        let mut inbox = self.inbox.lock();
        inbox.to_kill.push(core.id);
        self.ring(inbox);
    }
}

//! What the supervisor waits for. Most of that are answers, which it takes as they come; the rest makes it look at all.

use std::time::{Duration, Instant};

use super::child::{Ending, ReapedBy};
use super::config::OnCrash;
use super::scheduler::Sleep;
use super::supervisor::{IDLE, MAX_FAILED_STARTS, MEASURE, Source, Supervisor};
use super::worker::WorkerPhase;

/// The time that a worker may live after it has closed its link. A worker that exits closes its link a moment before it
/// is dead; one that lives on violates the protocol.
const LINK_CLOSED_TIMEOUT: Duration = Duration::from_millis(200);

/// The time that the template has to report how a dead worker ended.
const EXIT_REPORT_TIMEOUT: Duration = Duration::from_millis(200);

/// The interval at which the supervisor looks at a pool that is in use, even without a notification. Whatever a worker
/// has done to the memory that it shares with the pool, jobs do not wait for longer.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The interval at which the supervisor looks whether something is left of the groups of workers that have ended.
const REMNANTS: Duration = Duration::from_millis(20);

impl Supervisor {
    /// Sleeps until there is something to look after: a deadline, a notification, an end, or what a worker or the
    /// template has written. Answers are taken meanwhile.
    pub(super) fn wait(&mut self) {
        self.children.values().for_each(|child| child.link.request_wake_up());
        let Some(Sleep { until, .. }) = self.fall_asleep() else { return };
        while self.sleep(until) {}
    }

    /// Sleeps until something has come up or `until` has passed. Returns whether nothing but answers has come, which are
    /// taken.
    fn sleep(&mut self, until: Option<Instant>) -> bool {
        let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
        let Ok(keys) = self.ready.wait(limit) else {
            // Most likely the kernel is out of memory. The state is consistent, so the next round is soon.
            std::thread::sleep(Duration::from_millis(10));
            return false;
        };
        let mut sources: Vec<Source> = keys.into_iter().map(Source::of).collect();
        // What a worker has written counts, even if it has died since. So links come first, and what the template says of
        // the dead comes last.
        sources.sort_unstable();
        let mut written = Vec::new();
        for source in &sources {
            match *source {
                Source::Event => self.dispatcher.event.drain(),
                Source::Link(number) if self.drain_link(number) => written.push(number),
                Source::Link(_) => {}
                Source::Process(number) => self.notice_death(number),
                Source::Template => self.hear_template(),
                Source::Request => self.take_requests(),
            }
        }
        let only_answers = !sources.is_empty() && written.len() == sources.len();
        only_answers && self.take_answers(&written) && until.is_none_or(|until| Instant::now() < until)
    }

    /// Takes the answers of workers that have written to their links. Returns whether nothing else has to be looked
    /// after: these workers stay as they are.
    fn take_answers(&self, numbers: &[u64]) -> bool {
        let children = || numbers.iter().filter_map(|number| self.children.get(number));
        // Before the look, so that no later answer goes unnoticed.
        children().for_each(|child| child.link.request_wake_up());
        let may_shrink = self.dispatcher.config.idle_timeout.is_some();
        self.dispatcher.look(|scheduler, after| {
            let mut is_all = true;
            for child in children() {
                let found = scheduler.find(child.process.pid());
                let Some(at) = found.filter(|at| scheduler.workers[*at].phase == WorkerPhase::Ready) else {
                    is_all = false;
                    continue;
                };
                scheduler.harvest(at, after);
                is_all &= !may_shrink || scheduler.workers[at].idle_since().is_none();
            }
            is_all
        })
    }

    /// Reads a worker's notifications away. Notices that the worker has closed its link. Returns whether it has not.
    fn drain_link(&mut self, number: u64) -> bool {
        let Some(child) = self.children.get_mut(&number) else { return false };
        if child.link.drain() {
            return true;
        }
        self.ready.remove(child.link.socket());
        child.link_is_open = false;
        // One that was told to end has its own time for that, and one that was killed until it counts as lost.
        if child.ending == Ending::NotBegun {
            let soon = Instant::now().checked_add(LINK_CLOSED_TIMEOUT);
            child.deadline = child.deadline.into_iter().chain(soon).min();
        }
        let pid = child.process.pid();
        // If a crash breaks the pool, no other worker is to take its place.
        if self.dispatcher.config.on_crash == OnCrash::Isolate {
            self.dispatcher.look(|scheduler, after| scheduler.cut_off(pid, after));
        }
        false
    }

    /// Handles the end of a worker's process.
    fn notice_death(&mut self, number: u64) {
        let has_template = self.forks.socket().is_some();
        match self.children.get_mut(&number) {
            Some(child) if child.reaped_by == ReapedBy::Template && has_template => {
                self.ready.remove(child.process.pidfd());
                child.reaped_by = ReapedBy::TemplateLate;
                child.deadline = Instant::now().checked_add(EXIT_REPORT_TIMEOUT);
            }
            Some(_) => self.reap(number, None),
            None => self.collect_lost(number),
        }
    }

    /// Goes to sleep until the next deadline, unless something has come up.
    fn fall_asleep(&mut self) -> Option<Sleep> {
        let config = &self.dispatcher.config;
        let heartbeat = if config.max_rss.is_some() { MEASURE } else { HEARTBEAT };
        let now = Instant::now();
        let next_start = if self.failures > 0 { self.not_before } else { None };
        // Links whose queue has no room for all the freed blocks. They are tried again later.
        let blocked_returns = self.children.values().filter(|child| !child.link.pass_on_returns()).count();
        let retains = self.dispatcher.config.memory.retains();
        let idle = if retains || blocked_returns > 0 { now.checked_add(IDLE) } else { None };
        let children = self.children.values().filter_map(|child| child.deadline);
        let remnants = self.remnants.iter().map(|remnant| remnant.deadline.min(now + REMNANTS));
        let own = children.chain(remnants).chain(self.forks.next_deadline()).chain(idle).min();
        self.dispatcher.fall_asleep(|scheduler| {
            let given = std::mem::replace(&mut self.given, scheduler.given);
            let is_used = scheduler.given != given || !scheduler.is_idle();
            let busy = if is_used { now.checked_add(heartbeat) } else { None };
            // A program that cannot start is tried again only for jobs.
            let next_start = next_start.filter(|_| self.failures < MAX_FAILED_STARTS || is_used);
            let deadline = scheduler.next_deadline(now);
            let until = deadline.into_iter().chain(busy).chain(next_start).chain(own).min();
            Sleep { until, is_used }
        })
    }
}

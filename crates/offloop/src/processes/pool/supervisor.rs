//! The one thread that starts workers, watches them and ends them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::panic;
use crate::core::error::{ErrorKind, WorkerDied, WorkerExit};
use crate::core::runnable::AbortIf;
use crate::metrics::Restarts;
use crate::processes::link::{Answer, Link, Malformed};
use crate::processes::os::process::{self as sys, Ended, Orders, Process};
use crate::processes::pool::builder::OnCrash;
use crate::processes::pool::dispatcher::{Aftermath, Desk, Inbox, Sleep};
use crate::processes::pool::output::{Output, Sink};
use crate::processes::pool::remote::{Outbound, RemoteCall};
use crate::processes::pool::results as outcome;
use crate::processes::pool::template::{self, Template};
use crate::processes::pool::worker::{Member, Phase, Why};
use crate::wire::arena::Arena;
use crate::wire::task::fingerprint;

/// After so many failed starts in a row the jobs are told, if there is no worker that could run them.
const PATIENCE: u32 = 3;

/// A call that takes so long gives back those that were put behind it.
pub(crate) const STALL: Duration = Duration::from_micros(500);

/// How long a worker may be without a link before it counts as broken: one that exits closes its link a
/// moment before it is dead.
const WITHOUT_LINK: Duration = Duration::from_millis(200);

/// How long a dead worker's parent may take to say how it ended.
const OBITUARY: Duration = Duration::from_millis(200);

/// How long a template may take to end when there is no more to do for it.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often the supervisor looks at a pool that is in use although nobody has called for it: whatever a worker has
/// done to the memory that it shares with us, its jobs don't wait for longer.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often the memory of busy workers is measured, if it is limited.
const MEASURE: Duration = Duration::from_millis(50);

/// How long the arena must have been unused before freed memory goes back to the system.
const IDLE: Duration = Duration::from_secs(2);

/// A job may be given to so many workers that die before they begin with it; then it is suspected of having to do
/// with it.
const LOST: u32 = 16;

pub(crate) struct Supervisor {
    desk: Arc<Desk>,
    output: Arc<Output>,
    staff: Vec<Staff>,
    template: Option<Parent>,
    /// Workers that the template was asked for and has not brought about yet.
    expected: Vec<Expected>,
    /// The number of the last of them.
    ordered: u64,
    /// Failed starts since the last one that went well.
    failures: u32,
    /// No start before this time, after failures.
    not_before: Option<Instant>,
    /// The newest count of processes that the system killed for want of memory.
    out_of_memory_kills: u64,
    /// When the memory of the workers was measured last.
    measured: Instant,
    /// How many calls had been given to workers when it looked last.
    given: u64,
    /// The count of the arena's uses when it was looked at last, and when it was seen to change.
    arena_uses: (usize, Instant),
}

/// The template, as long as it has not been collected.
struct Parent {
    template: Template,
    /// It has ended, or says nothing any more.
    is_lost: bool,
}

/// A worker that is being forked.
struct Expected {
    order: u64,
    link: Arc<Link>,
    sink: Arc<Sink>,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Our child, which we collect.
    Child,
    /// The template's child, which it collects; it says how that ended.
    Forked,
    /// The same, dead, but how it ended has not been said.
    Dead,
}

/// A worker's process, as long as it has not been collected.
struct Staff {
    process: Process,
    life: Life,
    link: Arc<Link>,
    sink: Arc<Sink>,
    link_is_open: bool,
    /// It has been told to go.
    told: bool,
    /// When its start, its leave or its death after SIGTERM has taken too long.
    deadline: Option<Instant>,
}

impl Supervisor {
    pub(crate) fn new(desk: Arc<Desk>, output: Arc<Output>) -> Self {
        Self {
            desk,
            output,
            staff: Vec::new(),
            template: None,
            expected: Vec::new(),
            ordered: 0,
            failures: 0,
            not_before: None,
            out_of_memory_kills: sys::out_of_memory_kills(),
            measured: Instant::now(),
            given: 0,
            arena_uses: (0, Instant::now()),
        }
    }

    /// Supervises until the pool is closed and the last worker is gone.
    pub(crate) fn run(mut self) {
        if let Some(arena) = Arena::of_this_process() {
            arena.enter();
        }
        let end = panic::catch(|| while self.step() {});
        if let Some(arena) = Arena::of_this_process() {
            arena.leave();
        }
        self.end_template();
        self.output.close();
        let left = self.desk.end();
        if let Err(panic) = end {
            // A bug of ours, but nobody shall wait for ever because of it. The workers die with this thread.
            for job in left {
                job.fail(
                    ErrorKind::WorkerStart(format!("the pool's supervisor panicked{panic}").into()),
                    &*self.desk.counts,
                );
            }
        }
    }

    /// One round: what has come up, staff, time limits, then a wait for what happens next. False when all is over.
    fn step(&mut self) -> bool {
        let desk = Arc::clone(&self.desk);
        let now = Instant::now();
        let overdue = desk.look(|inbox, after| {
            inbox.retry_what_is_due(now);
            for at in 0..inbox.members.len() {
                inbox.collect(at, after);
                if inbox.members[at].is_stalled(STALL, now) {
                    inbox.members[at].expect_more();
                    inbox.recall(at, after);
                }
            }
            inbox.assign(after);
            if inbox.closed && inbox.is_idle() {
                (0..inbox.members.len()).for_each(|at| inbox.dismiss(at, Why::Released, after));
            }
            inbox.overdue(now)
        });
        for job in overdue {
            let limit = job.header().options.run_timeout.unwrap_or_default();
            job.abort(ErrorKind::RunTimeout(limit), AbortIf::Live);
        }
        self.welcome();
        self.measure(now);
        self.retire(now);
        self.see_off();
        self.hire(now);
        if self.staff.is_empty()
            && self.expected.is_empty()
            && desk.look(|inbox, _| inbox.closed && inbox.is_idle())
        {
            return false;
        }
        self.keep_deadlines();
        self.tidy(now);
        self.wait();
        true
    }

    /// Starts workers until the pool has as many as it should, and one more for each that is to be replaced.
    fn hire(&mut self, now: Instant) {
        loop {
            let config = &self.desk.config;
            let expected = self.expected.len();
            let (missing, has_jobs) = self.desk.look(|inbox, _| {
                let leaves = |member: &&Member| {
                    matches!(member.phase, Phase::Retiring | Phase::Leaving(Why::Released))
                };
                let there = inbox.members.len() - inbox.members.iter().filter(leaves).count();
                let worn = inbox.members.iter().filter(|member| config.is_worn(member, now)).count();
                let has_jobs = !inbox.is_idle();
                let wanted = if inbox.closed && !has_jobs { 0 } else { inbox.wanted + worn };
                (there + expected < wanted, has_jobs)
            });
            let may_start = self.not_before.is_none_or(|time| Instant::now() >= time);
            // A program that cannot start is not tried for nothing.
            if !missing || !may_start || (self.failures >= PATIENCE && !has_jobs) {
                return;
            }
            if let Err(error) = self.start() {
                let program = self.desk.config.program.display();
                let reason = format!("starting {program} as a worker failed: {error}");
                return self.start_failed(&reason);
            }
        }
    }

    /// Starts a worker, or asks the template for one.
    fn start(&mut self) -> std::io::Result<()> {
        let desk = Arc::clone(&self.desk);
        let config = &desk.config;
        let deadline = Instant::now().checked_add(config.start_timeout);
        if let Some(start) = &config.template {
            self.start_template(start)?;
        }
        let (link, handout) = Link::create(u64::from(config.max_payload))?;
        let orders = Orders {
            arenas: (Arena::of_this_process().map_or(0, Arena::size) as u64, link.arena_size()),
            max_payload: u64::from(config.max_payload),
            limits: config.limits.clone(),
        };
        let (sink, stderr, captured) = self.output.connect()?;
        sys::instruct(&orders, &link, &handout.files, &captured, desk.ear.as_fd())?;
        let link = Arc::new(link);
        if let Some(parent) = &self.template {
            self.ordered += 1;
            let sent = parent.template.order(self.ordered, &handout.socket, stderr.as_ref());
            let has_ended = sent.as_ref().is_err_and(template::is_gone);
            if !has_ended {
                sent?;
            }
            self.expected.push(Expected { order: self.ordered, link, sink, deadline });
            if has_ended {
                self.lose_template();
            }
        } else {
            let (program, surroundings) = (&config.program, &config.surroundings);
            let pid = sys::spawn(program, &config.arguments, surroundings, handout.socket, stderr)?;
            self.take_on(Process::of_child(pid)?, Life::Child, Expected { order: 0, link, sink, deadline });
        }
        Ok(())
    }

    /// A worker's process has been started.
    fn take_on(&mut self, process: Process, life: Life, start: Expected) {
        let Expected { link, sink, deadline, .. } = start;
        if self.desk.is_listened_to() {
            link.listen();
        }
        self.output.add(Arc::clone(&sink));
        let config = &self.desk.config;
        let member = Member::new(process.pid(), Arc::clone(&link), Arc::clone(&sink), config.max_jobs);
        self.desk.look(|inbox, _| inbox.members.push(member));
        self.staff.push(Staff { process, life, link, sink, link_is_open: true, told: false, deadline });
    }

    /// Sees to it that there is a template.
    fn start_template(&mut self, start: &template::Start) -> std::io::Result<()> {
        if self.template.as_ref().is_some_and(|parent| parent.is_lost) {
            self.end_template();
        }
        if self.template.is_none() {
            self.template = Some(Parent { template: Template::start(start)?, is_lost: false });
        }
        Ok(())
    }

    /// Takes note of what the template has done.
    fn hear_template(&mut self) {
        let Some(parent) = self.template.as_mut().filter(|parent| !parent.is_lost) else { return };
        for news in parent.template.news() {
            match news {
                template::News::Born { order, process } => {
                    let at = self.expected.iter().position(|expected| expected.order == order);
                    match at.map(|at| self.expected.swap_remove(at)) {
                        Some(expected) => self.take_on(process, Life::Forked, expected),
                        // It came too late.
                        None => process.kill(),
                    }
                }
                template::News::Failed { order, reason } => {
                    self.expected.retain(|expected| expected.order != order);
                    self.start_failed(&format!("the template could not fork a worker: {reason}"));
                }
                template::News::Ended { pid, ended } => {
                    if let Some(at) = self.staff.iter().position(|staff| staff.process.pid() == pid) {
                        self.bury(at, Some(ended));
                    }
                }
                template::News::Silent => self.lose_template(),
            }
        }
    }

    /// The template has ended: whom it was to fork will not come, and whom it has forked dies with it.
    fn lose_template(&mut self) {
        if let Some(parent) = &mut self.template {
            parent.is_lost = true;
            parent.template.process.kill();
            // Nobody will say how they ended.
            let dead = self.staff.iter_mut().filter(|staff| staff.life == Life::Dead);
            dead.for_each(|staff| staff.deadline = Some(Instant::now()));
        }
        if !self.expected.is_empty() {
            self.expected.clear();
            self.start_failed("the workers' template has ended; what it wrote to standard error says why");
        }
    }

    /// Ends the template and collects it.
    fn end_template(&mut self) {
        if let Some(Parent { template, .. }) = self.template.take() {
            let Template { process, socket } = template;
            drop(socket);
            if !sys::is_readable_within(process.pidfd(), FAREWELL) {
                process.kill();
                sys::is_readable_within(process.pidfd(), FAREWELL);
            }
            process.collect();
        }
    }

    /// Notes a worker that did not come up. Jobs that nobody else can run end with the reason.
    fn start_failed(&mut self, reason: &str) {
        self.failures += 1;
        let pause = Duration::from_millis(10).saturating_mul(1 << self.failures.min(9));
        self.not_before = Instant::now().checked_add(pause);
        if self.failures < PATIENCE {
            return;
        }
        let stranded = self.desk.look(|inbox, _| {
            if inbox.members.iter().any(Member::is_ready) { Vec::new() } else { inbox.drain() }
        });
        for job in stranded {
            job.fail(ErrorKind::WorkerStart(reason.to_owned().into()), &*self.desk.counts);
        }
    }

    /// Takes up workers that have come up.
    fn welcome(&mut self) {
        let config = &self.desk.config;
        let mut came_up = false;
        let news: Vec<_> = self.desk.look(|inbox, _| {
            inbox.members.iter_mut().filter_map(|member| Some((member.pid, news_of(member)?))).collect()
        });
        for (pid, news) in news {
            let refusal = match news {
                News::Greeting(theirs) if theirs == fingerprint() => None,
                News::Greeting(_) => {
                    Some("its build differs from this program's; start the same program".to_owned())
                }
                News::InitializerResult(answer) => config.initializer.as_ref().and_then(|initializer| {
                    let outcome = answer.map_err(|error| error.to_string()).and_then(|answer| {
                        let result = outcome::verdict(&answer, "the initializer");
                        let result = result.map_err(|kind| kind.to_string())?;
                        panic::catch(|| (initializer.verdict)(result))
                            .unwrap_or_else(|panic| Err(format!("panicked{panic}")))
                    });
                    outcome.err().map(|reason| format!("its initializer failed: {reason}"))
                }),
            };
            let staff = self.staff.iter_mut().find(|staff| staff.process.pid() == pid);
            self.desk.look(|inbox, after| {
                let Some(at) = inbox.find(pid) else { return };
                match (&config.initializer, refusal) {
                    (_, Some(reason)) => inbox.dismiss(at, Why::Refused(reason), after),
                    (Some(initializer), None) if inbox.members[at].phase == Phase::Starting => {
                        inbox.members[at].initialise(&initializer.call);
                    }
                    _ => {
                        inbox.members[at].phase = Phase::Ready;
                        if let Some(staff) = staff {
                            staff.deadline = None;
                        }
                        came_up = true;
                        inbox.assign(after);
                    }
                }
                let link = &inbox.members[at].link;
                if link.must_wake() {
                    link.wake();
                }
            });
        }
        if came_up {
            self.failures = 0;
            self.not_before = None;
        }
    }

    /// Lets worn workers finish when there is one in their place.
    fn retire(&mut self, now: Instant) {
        let config = &self.desk.config;
        self.desk.look(|inbox, after| {
            let mut spare = inbox.members.iter().filter(|member| member.phase == Phase::Ready).count();
            // Those that are worn out first, then the idle ones.
            let is_worn = |member: &Member| config.is_worn(member, now);
            let mut order: Vec<usize> = (0..inbox.members.len()).collect();
            order.sort_by_key(|at| (!is_worn(&inbox.members[*at]), !inbox.members[*at].calls.is_empty()));
            for at in order {
                let is_ready = inbox.members[at].phase == Phase::Ready;
                let is_spent = inbox.members[at].is_spent();
                if is_ready && (spare > inbox.wanted || is_spent) {
                    // The last job of one that is spent is its own.
                    if !is_spent {
                        inbox.recall(at, after);
                    }
                    let (is_fat, is_worn) = (inbox.members[at].is_fat, is_worn(&inbox.members[at]));
                    inbox.members[at].phase = Phase::Retiring;
                    spare -= 1;
                    let restarts = &mut inbox.restarts;
                    match (is_spent, is_fat, is_worn) {
                        (true, ..) => restarts.max_jobs += 1,
                        (_, true, _) => restarts.memory += 1,
                        (.., true) => restarts.max_age += 1,
                        // The pool has got smaller.
                        _ => {}
                    }
                }
                if inbox.members[at].phase == Phase::Retiring && inbox.members[at].calls.is_empty() {
                    inbox.dismiss(at, Why::Released, after);
                }
            }
            inbox.assign(after);
        });
    }

    /// Measures what busy workers use, and ends those that use too much.
    fn measure(&mut self, now: Instant) {
        let Some(limit) = self.desk.config.max_rss else { return };
        if now < self.measured + MEASURE {
            return;
        }
        self.measured = now;
        let pids: Vec<u32> = self
            .desk
            .look(|inbox, _| inbox.members.iter().filter(|it| it.is_ready()).map(|it| it.pid).collect());
        for pid in pids {
            let used = sys::memory_of(pid);
            self.desk.look(|inbox, after| {
                let Some(at) = inbox.find(pid) else { return };
                if used <= limit {
                    return;
                }
                // A job that was there at the last measurement is to blame; one that came since may be innocent of
                // what its worker has leaked.
                let is_old = |(_, since): (_, Instant)| now.saturating_duration_since(since) >= MEASURE;
                if inbox.members[at].running().is_some_and(is_old) {
                    inbox.dismiss(at, Why::Memory(used), after);
                } else {
                    inbox.members[at].is_fat = true;
                }
            });
        }
    }

    /// Ends the workers that are to go.
    fn see_off(&mut self) {
        let grace = self.desk.config.grace;
        let leaving: Vec<(u32, Farewell)> = self.desk.look(|inbox, _| {
            inbox.members.iter().filter_map(|member| Some((member.pid, farewell_to(member)?))).collect()
        });
        for (pid, farewell) in leaving {
            let staff = self.staff.iter_mut().find(|staff| staff.process.pid() == pid && !staff.told);
            let Some(staff) = staff else { continue };
            staff.told = true;
            staff.deadline = Instant::now().checked_add(grace);
            match farewell {
                Farewell::Release => staff.link.close(),
                Farewell::Terminate => staff.process.terminate(),
                Farewell::Kill => {
                    staff.process.kill();
                    staff.deadline = None;
                }
            }
        }
    }

    /// Kills whoever has had its time.
    fn keep_deadlines(&mut self) {
        let now = Instant::now();
        if self.expected.iter().any(|expected| expected.deadline.is_some_and(|deadline| deadline <= now)) {
            self.lose_template();
        }
        for at in 0..self.staff.len() {
            let staff = &mut self.staff[at];
            if staff.deadline.is_none_or(|deadline| now < deadline) {
                continue;
            }
            staff.deadline = None;
            if staff.life == Life::Dead {
                self.bury(at, None);
                // The others have moved.
                return self.keep_deadlines();
            }
            let (pid, link_is_open) = (staff.process.pid(), staff.link_is_open);
            if staff.told {
                staff.process.kill();
                continue;
            }
            self.desk.look(|inbox, after| {
                let Some(at) = inbox.find(pid) else { return };
                let why = match inbox.members[at].phase {
                    // Only the lack of a link sets a deadline to a worker that is ready.
                    Phase::Ready | Phase::Retiring | Phase::Leaving(_) => Why::BrokeOff,
                    _ if link_is_open => Why::Refused("it was not ready in time".to_owned()),
                    _ => Why::Refused("it closed its link".to_owned()),
                };
                inbox.dismiss(at, why, after);
            });
        }
        self.see_off();
    }

    /// Gives memory back that is not needed.
    fn tidy(&mut self, now: Instant) {
        let Some(arena) = Arena::of_this_process() else { return };
        if arena.is_over() {
            arena.tidy();
        }
        let (uses, since) = self.arena_uses;
        if arena.uses() != uses {
            self.arena_uses = (arena.uses(), now);
        } else if arena.retains() && now.saturating_duration_since(since) >= IDLE {
            arena.shrink_to(0);
        }
    }

    /// Sleeps until a worker has something to say, ends or is due, or until the bell rings.
    fn wait(&mut self) {
        self.staff.iter().for_each(|staff| staff.link.watch());
        let Some(Sleep { until, .. }) = self.fall_asleep() else { return };
        let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
        let mut descriptors = vec![sys::watch(self.desk.bell.as_fd())];
        let template = self.template.as_ref().filter(|parent| !parent.is_lost);
        let has_template = template.is_some();
        descriptors.extend(template.map(|parent| sys::watch(parent.template.socket())));
        for staff in &self.staff {
            descriptors.extend((staff.life != Life::Dead).then(|| sys::watch(staff.process.pidfd())));
            descriptors.extend(staff.link_is_open.then(|| sys::watch(staff.link.socket())));
        }
        if sys::poll(&mut descriptors, limit).is_err() {
            // Out of kernel memory, most likely. The state is sound; look again a little later.
            std::thread::sleep(Duration::from_millis(10));
            return;
        }
        let mut ready = descriptors.iter().map(|it| !it.revents().is_empty());
        if ready.next() == Some(true) {
            self.desk.bell.silence();
        }
        let template = has_template && ready.next() == Some(true);
        let ready: Vec<(bool, bool)> = self
            .staff
            .iter()
            .map(|staff| {
                let dead = staff.life != Life::Dead && ready.next() == Some(true);
                (dead, staff.link_is_open && ready.next() == Some(true))
            })
            .collect();
        let is_told = self.template.as_ref().is_some_and(|parent| !parent.is_lost);
        // From the back, as the dead are removed on the way.
        for (at, (dead, link)) in ready.into_iter().enumerate().rev() {
            let staff = &mut self.staff[at];
            if link && !staff.link.silence() {
                staff.link_is_open = false;
                let soon = Instant::now().checked_add(WITHOUT_LINK);
                staff.deadline = staff.deadline.into_iter().chain(soon).min();
                let pid = staff.process.pid();
                // Where it breaks the pool nobody is to take its place.
                if self.desk.config.on_crash == OnCrash::Isolate {
                    self.desk.look(|inbox, after| inbox.cut_off(pid, after));
                }
            }
            if dead && staff.life == Life::Forked && is_told {
                staff.life = Life::Dead;
                staff.deadline = Instant::now().checked_add(OBITUARY);
            } else if dead {
                self.bury(at, None);
            }
        }
        if template {
            self.hear_template();
        }
    }

    /// Goes to sleep until there is something to do even if nothing happens.
    fn fall_asleep(&mut self) -> Option<Sleep> {
        let config = &self.desk.config;
        let heartbeat = if config.max_rss.is_some() { MEASURE } else { HEARTBEAT };
        let now = Instant::now();
        let starts = if self.failures > 0 { self.not_before } else { None };
        // Freed blocks that the workers have not been told of for want of room.
        let untold = self.staff.iter().filter(|staff| !staff.link.pass_on_returns()).count();
        let retains = Arena::of_this_process().is_some_and(Arena::retains);
        let idle = if retains || untold > 0 { now.checked_add(IDLE) } else { None };
        let staff = self.staff.iter().filter_map(|staff| staff.deadline);
        let expected = self.expected.iter().filter_map(|expected| expected.deadline);
        let own = staff.chain(expected).chain(idle).min();
        self.desk.fall_asleep(|inbox| {
            let given = std::mem::replace(&mut self.given, inbox.given);
            let is_used = inbox.given != given || !inbox.is_idle();
            let busy = if is_used { now.checked_add(heartbeat) } else { None };
            // A program that cannot start is tried again for jobs alone.
            let starts = starts.filter(|_| self.failures < PATIENCE || is_used);
            let retries = inbox.later.iter().map(|(due, _)| *due);
            let members = inbox.members.iter().flat_map(|member| {
                let worn = config.worn_at(member).filter(|time| *time > now);
                member.run_deadline().into_iter().chain(member.stalls_at(STALL)).chain(worn)
            });
            let until = retries.chain(members).chain(busy).chain(starts).chain(own).min();
            Sleep { until, is_used }
        })
    }

    /// Strikes a worker that has ended from the list, and collects it unless that was done elsewhere; its death is its
    /// job's, if it had one.
    fn bury(&mut self, at: usize, ended: Option<Ended>) {
        let staff = self.staff.swap_remove(at);
        let pid = staff.process.pid();
        let ended = ended.unwrap_or_else(|| {
            let unknown = Ended { exit: WorkerExit::Unknown, peak_memory: 0 };
            if staff.life == Life::Child { staff.process.collect() } else { unknown }
        });
        let Some(member) = self.desk.look(|inbox, after| {
            let at = inbox.find(pid)?;
            // What it said before it died counts.
            inbox.harvest(at, after);
            Some(inbox.members.swap_remove(at))
        }) else {
            return;
        };
        let since = member.running().map(|(_, since)| since);
        let (phase, begun, untouched) = member.into_estate();
        let mut suspects = Vec::new();
        self.desk.look(|inbox, after| {
            // Who was killed for its job's sake was noted then.
            if phase != Phase::Leaving(Why::JobEnded) {
                for ((job, _), since) in begun.iter().zip(since) {
                    inbox.note_unanswered(job.header(), since);
                }
            }
            inbox.restarts.count(&phase);
            for (job, call) in untouched {
                if job.header().count_loss() < LOST {
                    inbox.requeue(job, call, after);
                } else {
                    suspects.push((job, call));
                }
            }
            inbox.assign(after);
        });
        let stderr = self.output.finish(&staff.sink);
        let died = WorkerDied {
            pid,
            exit: if phase == Phase::Leaving(Why::BrokeOff) { WorkerExit::Protocol } else { ended.exit },
            task: String::new(),
            peak_memory: match phase {
                Phase::Leaving(Why::Memory(measured)) => ended.peak_memory.max(measured),
                _ => ended.peak_memory,
            },
            out_of_memory: match phase {
                Phase::Leaving(Why::Memory(_)) => true,
                Phase::Leaving(_) => false,
                _ => self.was_out_of_memory(ended.exit, &stderr),
            },
            max_rss: match phase {
                Phase::Leaving(Why::Memory(_)) => self.desk.config.max_rss,
                _ => None,
            },
            workers_lost: 0,
            stderr,
        };
        let is_crash = !matches!(phase, Phase::Leaving(Why::Released | Why::JobEnded));
        if is_crash && self.desk.config.on_crash == OnCrash::Break {
            let why = match &phase {
                Phase::Leaving(Why::Refused(reason)) => format!("worker process {pid} was refused: {reason}"),
                _ => format!("worker process {pid} {}", ended.exit),
            };
            self.break_off(&why);
        }
        for (job, call) in begun.into_iter().chain(suspects) {
            self.worker_died(job, call, died.clone());
        }
        match phase {
            Phase::Leaving(Why::Refused(reason)) => {
                self.start_failed(&format!("worker process {pid} was refused: {reason}"));
            }
            Phase::Starting | Phase::Initialising => self.start_failed(&format!(
                "worker process {pid} {} before it was ready; does `main` begin with `offloop::init();`?",
                ended.exit
            )),
            // A replacement is all that it takes.
            Phase::Ready | Phase::Retiring | Phase::Leaving(_) => {}
        }
    }

    /// Ends the pool, and with it all jobs, because of a crash.
    fn break_off(&self, why: &str) {
        let jobs = self.desk.look(|inbox, after| {
            inbox.closed = true;
            inbox.wanted = 0;
            for at in 0..inbox.members.len() {
                let is_idle = inbox.members[at].calls.is_empty();
                inbox.dismiss(at, if is_idle { Why::Released } else { Why::JobEnded }, after);
            }
            // Those included that were just taken back.
            let mut jobs = inbox.drain();
            jobs.extend(inbox.flights().map(|(_, job)| Arc::clone(job)));
            jobs
        });
        for job in jobs {
            job.fail(ErrorKind::Broken(why.to_owned()), &*self.desk.counts);
        }
    }

    /// Ends a job whose worker has died, or has it tried again.
    fn worker_died(&self, job: Arc<dyn RemoteCall>, call: Outbound, mut died: WorkerDied) {
        let header = job.header();
        died.workers_lost = header.count_death();
        let is_over = self.desk.config.on_crash == OnCrash::Break;
        let pause =
            header.options.retry.filter(|_| !is_over).and_then(|retry| retry.pause_after(died.workers_lost));
        if let Some(due) = pause.and_then(|pause| Instant::now().checked_add(pause)) {
            self.desk.look(|inbox, _| {
                if job.take_back(call) {
                    inbox.retried += 1;
                    inbox.later.push((due, job));
                }
            });
        } else {
            died.task = header.options.name.clone().into_owned();
            job.fail(ErrorKind::WorkerDied(died), &*self.desk.counts);
        }
    }

    /// Whether a worker that was not ended by us ran out of memory, as far as can be told.
    fn was_out_of_memory(&mut self, exit: WorkerExit, stderr: &str) -> bool {
        match exit {
            // The system's killer may have sent it.
            WorkerExit::Signal(libc::SIGKILL) => {
                let kills = sys::out_of_memory_kills();
                std::mem::replace(&mut self.out_of_memory_kills, kills) < kills
            }
            // What Rust's allocation error handler says before it aborts.
            WorkerExit::Signal(libc::SIGABRT) => {
                let says_so =
                    |line: &str| line.starts_with("memory allocation of ") && line.ends_with(" bytes failed");
                stderr.lines().any(says_so)
            }
            _ => false,
        }
    }
}

impl Restarts {
    /// Counts a worker that has ended in this phase.
    fn count(&mut self, phase: &Phase) {
        match phase {
            Phase::Ready | Phase::Retiring => self.crashed += 1,
            Phase::Leaving(Why::JobEnded) => self.job_ended += 1,
            Phase::Leaving(Why::Memory(_)) => self.memory += 1,
            Phase::Leaving(Why::BrokeOff) => self.protocol += 1,
            Phase::Starting | Phase::Initialising | Phase::Leaving(Why::Refused(_)) => self.failed_start += 1,
            // If somebody takes its place, that was counted when it began to retire.
            Phase::Leaving(Why::Released) => {}
        }
    }
}

/// What a worker that is coming up has said.
enum News {
    Greeting(u64),
    InitializerResult(Result<Answer, Malformed>),
}

fn news_of(member: &Member) -> Option<News> {
    match member.phase {
        Phase::Starting => Some(member.link.greeting()).filter(|theirs| *theirs != 0).map(News::Greeting),
        Phase::Initialising => member.initialised().map(News::InitializerResult),
        _ => None,
    }
}

/// How a worker is brought to its end.
enum Farewell {
    Release,
    Terminate,
    Kill,
}

fn farewell_to(member: &Member) -> Option<Farewell> {
    match &member.phase {
        // Who could not start may have something to say to others before it ends.
        Phase::Leaving(Why::Released | Why::Refused(_)) => Some(Farewell::Release),
        Phase::Leaving(Why::JobEnded) => Some(Farewell::Terminate),
        Phase::Leaving(_) => Some(Farewell::Kill),
        _ => None,
    }
}

impl Inbox {
    /// Where the worker with this process id is among the members.
    fn find(&self, pid: u32) -> Option<usize> {
        self.members.iter().position(|member| member.pid == pid)
    }

    /// Puts jobs into the queue whose next attempt is due.
    fn retry_what_is_due(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(due, _)| *due <= now);
        self.later = later;
        let due: Vec<(Instant, Arc<dyn RemoteCall>)> = due;
        for (_, job) in due {
            self.backlog.append(job);
        }
    }

    /// A worker has closed its socket: it gets no more calls, and those that it has not begun with are taken back.
    fn cut_off(&mut self, pid: u32, after: &mut Aftermath) {
        let Some(at) = self.find(pid) else { return };
        if self.members[at].phase == Phase::Ready {
            self.members[at].phase = Phase::Retiring;
            self.recall(at, after);
            self.assign(after);
        }
    }

    /// The jobs that have run for longer than they may.
    fn overdue(&self, now: Instant) -> Vec<Arc<dyn RemoteCall>> {
        let is_overdue = |member: &&Member| member.run_deadline().is_some_and(|deadline| deadline <= now);
        let running = |member: &'_ Member| member.running().map(|(job, _)| Arc::clone(job));
        self.members.iter().filter(is_overdue).filter_map(running).collect()
    }
}

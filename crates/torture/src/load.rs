//! The load: clients that submit jobs and receive their ends in every way there is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use offloop::{Call, ErrorKind, JobState, ProcessPool, prepare};
use serde::de::DeserializeOwned;

use crate::book;
use crate::clock;
use crate::ledger::{Cancel, Ending, Numbers, Value, Verdict};
use crate::payload;
use crate::plan::{Burst, Choices, Job, Kind, Reception, Stream};
use crate::pools::{Open, SLOTS};
use crate::reception::{Held, block_on, hold, identity};
use crate::tasks::{self, Death, chatter, close_all_and_return, compute, die, echo, nap, nest, panics, stay};
use crate::watchdog::Wait;
use crate::world::World;

/// How many clients there are.
pub(crate) const CLIENTS: u64 = 4;

/// How long a blocker is waited for. It is the next to run in its pool.
const UNTIL_BLOCKED: Duration = Duration::from_secs(10);

pub(crate) struct Client<'a> {
    world: &'a World,
    choices: Choices,
}

/// A job that was submitted and whose end is to be received.
struct Ticket {
    number: u64,
    job: Arc<Job>,
    held: Box<dyn Held>,
}

/// Whether a job that is cancelled or dropped now can have been given to a worker.
type IsQueued<'a> = dyn Fn(JobState) -> bool + 'a;

impl<'a> Client<'a> {
    pub(crate) fn new(world: &'a World, index: u64) -> Self {
        Self { world, choices: Choices::of(world.seed, Stream::Client(index)) }
    }

    pub(crate) fn run(mut self) {
        while !self.world.load_is_to_end() {
            match self.choices.burst() {
                Burst::Mixed(count) => self.mixed(count),
                Burst::Storm(count) => self.storm(count),
                Burst::Behind(count) => self.behind(count),
            }
        }
    }

    fn mixed(&mut self, count: usize) {
        let mut tickets = Vec::new();
        for _ in 0..count {
            let (job, slot) = (self.choices.job(), self.choices.slot(SLOTS));
            tickets.extend(self.pool(slot).and_then(|open| self.submit(&open, job)));
        }
        self.receive_all(tickets, &|_| false);
    }

    fn storm(&mut self, count: usize) {
        let slot = self.choices.slot(SLOTS);
        let jobs: Vec<_> = (0..count).map(|_| self.choices.small_job()).collect();
        let Some(open) = self.pool(slot) else { return };
        let tickets = jobs.into_iter().filter_map(|job| self.submit(&open, job)).collect();
        self.receive_all(tickets, &|_| false);
    }

    /// Has the only worker of a pool run a blocker, and cancels jobs behind it.
    ///
    /// The blocker's body has not come to its end, so the worker that began it has begun nothing else since; and its
    /// handle is still pending, so the pool has not replaced that worker.
    fn behind(&mut self, count: usize) {
        let blocker = self.choices.blocker();
        let jobs: Vec<_> = (0..count).map(|_| self.choices.job()).collect();
        let Some(open) = self.pool(0) else { return };
        let Some(blocker) = self.submit(&open, blocker) else { return };
        let has_begun = || book::read(blocker.number).begun > 0 || blocker.held.state() == JobState::Ended;
        if !clock::poll_until(UNTIL_BLOCKED, Duration::from_millis(1), has_begun) {
            self.world.ledger.complain(format!("job {} has not begun for {UNTIL_BLOCKED:?}", blocker.number));
        }
        let mut tickets: Vec<_> = jobs.into_iter().filter_map(|job| self.submit(&open, job)).collect();
        self.choices.shuffle(&mut tickets);
        let (victims, others): (Vec<_>, Vec<_>) = tickets.into_iter().partition(|_| !self.choices.one_in(3));
        let is_blocked = |before: JobState| {
            let mark = book::read(blocker.number);
            open.plan.workers == 1
                && matches!(before, JobState::Queued | JobState::Waiting)
                && (mark.begun, mark.ended) == (1, 0)
                && mark.pid != std::process::id()
                && blocker.held.state() == JobState::Running
        };
        for victim in victims {
            if self.choices.one_in(3) {
                self.drop_handle(victim, &is_blocked);
            } else {
                self.cancel(victim, &is_blocked);
            }
        }
        self.receive(blocker, &|_| false);
        self.receive_all(others, &|_| false);
    }

    /// The pool in a slot, or the one in the next that has one.
    fn pool(&self, slot: usize) -> Option<Arc<Open>> {
        let found = (0..SLOTS).find_map(|next| self.world.slots.get((slot + next) % SLOTS));
        if found.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        found
    }

    fn submit(&self, open: &Open, job: Job) -> Option<Ticket> {
        let job = if open.plan.on_full == offloop::OnFull::CallerRuns { job.tamed() } else { job };
        let job = Arc::new(job);
        let Some(numbers) = self.world.ledger.submit(&job, open.number) else {
            // Everything that the book has room for has been run.
            self.world.end_load();
            return None;
        };
        let number = numbers.number;
        open.given.fetch_add(1, Ordering::SeqCst);
        let wait = Wait::Submission(number);
        match self.world.watchdog.during(wait, || place(&open.pool, &job, numbers)) {
            Err(verdict) => {
                self.settle(number, &verdict.into());
                None
            }
            Ok(held) => {
                let ticket = Ticket { number, job, held };
                if ticket.job.reception == Reception::CancelAtOnce {
                    self.cancel(ticket, &|_| false);
                    return None;
                }
                Some(ticket)
            }
        }
    }

    fn settle(&self, number: u64, ending: &Ending) {
        self.world.ledger.settle(number, ending, book::read(number));
        if ending.verdict == Verdict::Closed {
            // The next pool is about to be there.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn receive_all(&mut self, mut tickets: Vec<Ticket>, is_queued: &IsQueued<'_>) {
        self.choices.shuffle(&mut tickets);
        let is_together = |ticket: &Ticket| ticket.job.reception == Reception::AwaitTogether;
        let (together, others): (Vec<_>, Vec<_>) = tickets.into_iter().partition(is_together);
        for ticket in others {
            self.receive(ticket, is_queued);
        }
        self.await_together(together);
    }

    fn receive(&self, mut ticket: Ticket, is_queued: &IsQueued<'_>) {
        match ticket.job.reception {
            Reception::Wait => self.wait(ticket),
            Reception::WaitInSlices(slice) => {
                let verdict = self.world.watchdog.during(Wait::Job(ticket.number), || {
                    loop {
                        if let Some(verdict) = ticket.held.wait_timeout(slice) {
                            return verdict;
                        }
                    }
                });
                self.settle(ticket.number, &verdict.into());
            }
            Reception::Await | Reception::AwaitTogether => self.await_together(vec![ticket]),
            Reception::CancelAtOnce => self.cancel(ticket, is_queued),
            Reception::Cancel(pause) => {
                std::thread::sleep(pause);
                self.cancel(ticket, is_queued);
            }
            Reception::Drop(pause) => {
                std::thread::sleep(pause);
                self.drop_handle(ticket, is_queued);
            }
            Reception::Detach { accepted } => {
                if accepted {
                    let wait = Wait::Acceptance(ticket.number);
                    self.world.watchdog.during(wait, || ticket.held.wait_accepted());
                }
                if ticket.held.state() == JobState::Ended {
                    // Perhaps it was refused; that is to be known.
                    return self.wait(ticket);
                }
                ticket.held.detach();
                self.settle(ticket.number, &Verdict::Detached.into());
            }
        }
    }

    fn wait(&self, ticket: Ticket) {
        let Ticket { number, held, .. } = ticket;
        let verdict = self.world.watchdog.during(Wait::Job(number), || held.wait());
        self.settle(number, &verdict.into());
    }

    fn cancel(&self, ticket: Ticket, is_queued: &IsQueued<'_>) {
        let Ticket { number, held, .. } = ticket;
        let before = held.state();
        let was_cancelled = held.cancel();
        let queued_for_certain = was_cancelled && is_queued(before);
        let verdict = self.world.watchdog.during(Wait::Job(number), || held.wait());
        let cancel = if was_cancelled { Cancel::Done } else { Cancel::TooLate };
        self.settle(number, &Ending { verdict, cancel, queued_for_certain });
    }

    fn drop_handle(&self, ticket: Ticket, is_queued: &IsQueued<'_>) {
        let Ticket { number, held, .. } = ticket;
        let before = held.state();
        drop(held);
        let queued_for_certain = is_queued(before);
        self.settle(number, &Ending { queued_for_certain, ..Verdict::Dropped.into() });
    }

    /// Awaits these jobs on this thread, and takes down each end as it comes.
    fn await_together(&self, mut tickets: Vec<Ticket>) {
        while let Some(first) = tickets.first() {
            let wait = Wait::Jobs(first.number);
            let (at, verdict) = self.world.watchdog.during(wait, || {
                block_on(|cx| {
                    let mut ready = tickets.iter_mut().enumerate().filter_map(|(at, ticket)| {
                        match ticket.held.poll(cx) {
                            Poll::Ready(verdict) => Some((at, verdict)),
                            Poll::Pending => None,
                        }
                    });
                    ready.next().map_or(Poll::Pending, Poll::Ready)
                })
            });
            let ticket = tickets.swap_remove(at);
            self.settle(ticket.number, &verdict.into());
        }
    }
}

/// Submits a job, or says how it ended already.
fn place(pool: &ProcessPool, job: &Arc<Job>, numbers: Numbers) -> Result<Box<dyn Held>, Verdict> {
    let Numbers { number, inner } = numbers;
    match job.kind {
        Kind::Echo | Kind::EchoLarge | Kind::EchoHuge => {
            let mut argument = Vec::new();
            payload::append(&mut argument, tasks::argument_seed(number), job.argument);
            submit(pool, job, number, echo.with(number, &argument, job.argument, job.result))
        }
        Kind::Nap => submit(pool, job, number, nap.with(number, job.millis)),
        Kind::Compute => submit(pool, job, number, compute.with(number, job.millis)),
        Kind::Chatter => submit(pool, job, number, chatter.with(number, job.variant % 40)),
        Kind::Nest => submit(pool, job, number, nest.with(number, inner, job.variant % 2 == 0)),
        Kind::Panic => submit(pool, job, number, panics.with(number)),
        Kind::Exit => submit(pool, job, number, die.with(number, Death::Exit(job.status()))),
        Kind::Abort => submit(pool, job, number, die.with(number, Death::Abort)),
        Kind::Segfault => submit(pool, job, number, die.with(number, Death::Segfault)),
        Kind::KillSelf => submit(pool, job, number, die.with(number, Death::KillSelf)),
        Kind::Exhaust => submit(pool, job, number, die.with(number, Death::Exhaust)),
        Kind::CloseAll => submit(pool, job, number, die.with(number, Death::CloseAll)),
        Kind::Garbage => submit(pool, job, number, die.with(number, Death::Garbage)),
        Kind::CloseAllReturn => submit(pool, job, number, close_all_and_return.with(number)),
        Kind::Overrun => submit(pool, job, number, stay.with(number, false)),
        Kind::Stubborn => submit(pool, job, number, stay.with(number, true)),
    }
}

fn submit<T: Value + DeserializeOwned>(
    pool: &ProcessPool,
    job: &Arc<Job>,
    number: u64,
    call: Call<'_, T>,
) -> Result<Box<dyn Held>, Verdict> {
    let mut work = prepare(call).priority(job.priority);
    if let Some(name) = &job.name {
        work = work.name(name.clone());
    }
    if let Some(limit) = job.queue_limit {
        work = work.queue_timeout(limit);
    }
    if let Some(limit) = job.run_limit {
        work = work.run_timeout(limit);
    }
    let handle = if job.tried {
        let refusal = |kind: &ErrorKind| Verdict::of_kind(kind, &identity(job, number, None));
        pool.try_run(work).map_err(|rejected| refusal(rejected.kind()))?
    } else {
        pool.run(work)
    };
    let handle = match job.total_limit {
        Some(limit) => handle.timeout(limit),
        None => handle,
    };
    Ok(hold(handle, number, job))
}

//! Serves a worker: the loops beside its jobs (pulls, presence, answers to questions), and the state that all jobs share.

use std::collections::{BTreeMap, HashMap, VecDeque, btree_map};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::{join_all, select_all};
use offloop::ErrorKind;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::driver::{drive, refuse};
use super::items::Outbox;
use super::performer::Performer;
use super::slots::{Slots, Turns};
use super::spans::Spans;
use super::{Clock, WorkerError, WorkerMetrics, WorkerReport};
use crate::Ulid;
use crate::names::Band;
use crate::protocol::{DeliveryEvent as Event, Settings, Terms};
use crate::records::{Ask, End, Job, Outcome, Presence, RecordError, Report};
use crate::security::Seals;
use crate::store::{LayoutError, Message, Pull, Store, random};

/// The interval in which a worker tells that it is there.
const PRESENCE: Duration = Duration::from_secs(5);

/// The longest wait of one request for jobs.
const PULL: Duration = Duration::from_secs(30);

/// The longest wait for jobs of bands that have held some, before bands that seemed to be empty are looked at again.
const HINT: Duration = Duration::from_millis(20);

/// The longest pause before the layout is looked for again, in multiples of the first.
const LONGEST_PAUSE: u32 = 8;

/// The number of lines of a worker's log that are kept.
const LOG: usize = 500;

/// The number of names of other workers that are kept.
const NAMES: usize = 1000;

/// The stage of a worker on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// It takes no more jobs, and those that run go on.
    Draining,
    /// Those that run are killed.
    Stopping,
}

/// A job that was delivered, as others see it.
pub(super) struct Entry {
    job: Ulid,
    task: String,
    pub(super) queue: String,
    pub(super) events: UnboundedSender<Event>,
    /// This worker runs the job, or may be about to.
    is_held: AtomicBool,
    outbox: Mutex<Option<Arc<Outbox>>>,
}

impl Entry {
    pub(super) fn set_held(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    pub(super) fn set_outbox(&self, outbox: Option<Arc<Outbox>>) {
        *lock(&self.outbox) = outbox;
    }

    fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counts of a worker.
#[derive(Default)]
pub(super) struct Counts(Mutex<WorkerMetrics>);

impl Counts {
    fn change(&self, change: impl FnOnce(&mut WorkerMetrics)) {
        change(&mut lock(&self.0));
    }

    pub(super) fn started(&self, was_taken_over: bool) {
        self.change(|it| {
            it.started += 1;
            it.taken_over += u64::from(was_taken_over);
        });
    }

    pub(super) fn stored(&self, took: Duration, outcome: Option<Outcome>) {
        self.change(|it| {
            it.round_trip = took;
            if let Some(outcome) = outcome {
                *it.ended.entry(outcome).or_default() += 1;
            }
        });
    }

    pub(super) fn refused(&self) {
        self.change(|it| it.refused += 1);
    }

    pub(super) fn given_back(&self) {
        self.change(|it| it.given_back += 1);
    }

    pub(super) fn late_renewals(&self) {
        self.change(|it| it.late_renewals += 1);
    }

    pub(super) fn buried(&self, is_buried: bool) {
        self.change(|it| it.dead += u64::from(is_buried));
    }
}

/// The instructions for a worker, and its state.
pub(super) struct Agent {
    pub(super) store: Store,
    pub(super) performer: Box<dyn Performer>,
    pub(super) slots: Slots,
    pub(super) counts: Counts,
    pub(super) result_ttl: Duration,
    pub(super) clock: Box<dyn Clock>,
    pub(super) drain: Duration,
    pub(super) queues: Vec<(String, u32)>,
    pub(super) capacity: Option<u64>,
    pub(super) seals: Seals,
    /// Its description of itself, without the parts that change.
    pub(super) presence: Presence,
    pub(super) spans: Spans,
    pub(super) phase: watch::Sender<Phase>,
    /// The jobs that were delivered and not let go of. There is one machine for each: two of one worker would take each
    /// other's claim for their own.
    deliveries: Mutex<BTreeMap<Ulid, Arc<Entry>>>,
    /// Signalled when a job was let go of.
    left: tokio::sync::Notify,
    /// The names and machines of other workers.
    names: Mutex<HashMap<Ulid, (String, String)>>,
    log: Mutex<VecDeque<String>>,
}

impl Agent {
    #[allow(clippy::too_many_arguments, reason = "each is one instruction of the builder")]
    pub(super) fn new(
        store: Store,
        performer: Box<dyn Performer>,
        clock: Box<dyn Clock>,
        result_ttl: Duration,
        drain: Duration,
        queues: Vec<(String, u32)>,
        capacity: Option<u64>,
        seals: Seals,
        presence: Presence,
        spans: Spans,
    ) -> Self {
        Self {
            store,
            performer,
            slots: Slots::new(presence.slots.try_into().unwrap_or(usize::MAX)),
            counts: Counts::default(),
            result_ttl,
            clock,
            drain,
            queues,
            capacity,
            seals,
            presence,
            spans,
            phase: watch::Sender::new(Phase::Serving),
            deliveries: Mutex::default(),
            left: tokio::sync::Notify::new(),
            names: Mutex::default(),
            log: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> Ulid {
        self.presence.worker
    }

    pub(super) fn settings(&self) -> &Settings {
        self.store.settings()
    }

    /// Adds a line to the log.
    pub(super) fn log(&self, line: String) {
        let mut log = lock(&self.log);
        if log.len() == LOG {
            log.pop_front();
        }
        log.push_back(line);
    }

    /// Moves on to a phase, never back.
    pub(super) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let is_new = *now < phase;
            *now = phase.max(*now);
            is_new
        });
    }

    pub(super) fn metrics(&self) -> WorkerMetrics {
        let running = self.running().len();
        WorkerMetrics { running, slots: self.presence.slots as usize, ..lock(&self.counts.0).clone() }
    }

    /// Records a delivered job. Returns its entry, and its events. `None`: this worker has the job already.
    pub(super) fn enter(&self, job: &Job, queue: String) -> Option<(Arc<Entry>, UnboundedReceiver<Event>)> {
        let (events, inbox) = unbounded_channel();
        let mut deliveries = lock(&self.deliveries);
        let btree_map::Entry::Vacant(place) = deliveries.entry(job.id) else { return None };
        let entry = Arc::new(Entry {
            job: job.id,
            task: job.task.clone(),
            queue,
            events,
            is_held: AtomicBool::new(false),
            outbox: Mutex::default(),
        });
        place.insert(Arc::clone(&entry));
        // Those that come later get no other notice.
        match *self.phase.borrow() {
            Phase::Serving => {}
            Phase::Draining => drop(entry.events.send(Event::Drain)),
            Phase::Stopping => drop(entry.events.send(Event::DrainOver)),
        }
        Some((entry, inbox))
    }

    /// Forgets a job that was let go of.
    pub(super) fn forget(&self, entry: &Entry) {
        lock(&self.deliveries).remove(&entry.job);
        self.left.notify_waiters();
    }

    fn entry(&self, job: Ulid) -> Option<Arc<Entry>> {
        lock(&self.deliveries).get(&job).cloned()
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        lock(&self.deliveries).values().cloned().collect()
    }

    fn running(&self) -> Vec<(Ulid, String)> {
        let held = self.entries().into_iter().filter(|entry| entry.is_held());
        held.map(|entry| (entry.job, entry.task.clone())).collect()
    }

    fn tell_all(&self, event: &Event) {
        // One that has no receiver any more is over.
        self.entries().iter().for_each(|entry| drop(entry.events.send(event.clone())));
    }

    /// Returns the terms of a job that was just delivered.
    pub(super) fn terms(&self, job: &Job, message: &Message) -> Terms {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let issued = Duration::from_millis(job.issued);
        // A record without a time is of no submitter that this check is for.
        let since_issued = if job.issued == 0 { Duration::ZERO } else { now.saturating_sub(issued) };
        let has_task = self.performer.has(job);
        Terms::new(job, has_task, message.is_first, message.age(), since_issued, self.settings())
    }

    /// Decides whether a job may run. `record` is its record as it came.
    pub(super) fn admit(&self, job: &Job, record: &[u8], queue: &str) -> Result<(), ErrorKind> {
        let (namespace, remember) = (self.store.names().namespace(), self.settings().remember);
        let admitted = self.seals.admit(namespace, queue, record, job, remember);
        admitted.map_err(|reason| ErrorKind::NotTrusted(reason.into()))
    }

    /// Signs the record of a job's end, if this worker has a key.
    pub(super) fn seal(&self, job: Ulid, end: Vec<u8>) -> Vec<u8> {
        let sealed = self.seals.seal_end(self.store.names().namespace(), job, end);
        sealed.expect("a signed state has a size that is allowed")
    }

    /// Returns the body of an end that the machine has written without a report. `None`: it has one.
    pub(super) async fn describe(&self, job: &Job, end: &End) -> Option<Vec<u8>> {
        let kind = match end.outcome {
            Outcome::Returned | Outcome::Failed | Outcome::Cancelled | Outcome::Forgotten => return None,
            Outcome::QueueTimeout => ErrorKind::QueueTimeout(job.queue_timeout().unwrap_or_default()),
            Outcome::Expired => ErrorKind::Rejected(
                format!(
                    "its message was older than the states of jobs are remembered ({:?}), or said so; it may have run, \
                     and was not run again; a copy is with the dead jobs",
                    self.settings().remember
                )
                .into(),
            ),
            Outcome::Lost => {
                let worker = <[u8; 16]>::try_from(&*end.body).map_or(end.by, |it| Ulid::from_bits(u128::from_be_bytes(it)));
                let own = (self.presence.name.clone(), self.presence.host.clone());
                let is_own = worker == self.id();
                let known = if is_own { Some(own) } else { lock(&self.names).get(&worker).cloned() };
                let (name, host) = known.unwrap_or_else(|| (worker.to_string(), "a machine that is gone".to_owned()));
                let silent_for = if is_own { Duration::ZERO } else { self.settings().lease };
                ErrorKind::Lost { worker: name, host, attempt: end.attempt, silent_for }
            }
            Outcome::NoSuchTask => self.no_such_task(job).await,
        };
        Some(Report::of_error(&kind))
    }

    async fn no_such_task(&self, job: &Job) -> ErrorKind {
        let wanted = <[u8; 8]>::try_from(&*job.signature).map_or(0, u64::from_be_bytes);
        let others = self.store.workers().await.unwrap_or_default();
        let tasks = others.iter().flat_map(|it| it.tasks.iter()).filter(|(task, _)| *task == job.task);
        let mut offered: Vec<_> = tasks.filter_map(|(_, signature)| *signature).collect();
        offered.sort_unstable();
        offered.dedup();
        ErrorKind::NoSuchTask {
            task: job.task.clone(),
            wanted: offloop::Signature::from_u64(wanted),
            offered: offered.into_iter().map(offloop::Signature::from_u64).collect(),
            workers: others.iter().map(|it| format!("{} on {}", it.name, it.host)).collect(),
        }
    }

    /// Learns the name of a worker while that may be known.
    pub(super) async fn learn_name(&self, worker: Ulid) {
        if lock(&self.names).contains_key(&worker) {
            return;
        }
        let others = self.store.workers().await.unwrap_or_default();
        let mut names = lock(&self.names);
        if names.len() > NAMES {
            names.clear();
        }
        names.extend(others.into_iter().map(|it| (it.worker, (it.name, it.host))));
    }

    /// Serves until the worker is told to end, and has let go of all jobs.
    pub(super) async fn serve(self: Arc<Self>) -> Result<WorkerReport, WorkerError> {
        let mut phase = self.phase.subscribe();
        tokio::select! {
            prepared = self.prepare() => prepared?,
            _ = phase.wait_for(|phase| *phase > Phase::Serving) => return Ok(WorkerReport::default()),
        }
        let beside = [
            tokio::spawn(Arc::clone(&self).answer_questions()),
            tokio::spawn(Arc::clone(&self).notice_reconnects()),
            tokio::spawn(Arc::clone(&self).be_present()),
            tokio::spawn(Arc::clone(&self).take_jobs()),
        ];
        let _ = phase.wait_for(|phase| *phase > Phase::Serving).await;
        self.tell_all(&Event::Drain);
        tokio::select! {
            _ = timeout(self.drain, self.wait_empty()) => {}
            _ = phase.wait_for(|phase| *phase > Phase::Draining) => {}
        }
        self.advance(Phase::Stopping);
        self.tell_all(&Event::DrainOver);
        // Without a server nothing can be let go of. Then other workers take the jobs over, as if this one were lost.
        let patience = self.settings().lease + self.settings().answer * 4;
        let _ = timeout(patience, self.wait_empty()).await;
        beside.iter().for_each(tokio::task::JoinHandle::abort);
        self.store.leave(self.id()).await;
        Ok(WorkerReport { left: self.running().into_iter().map(|(job, _)| job).collect() })
    }

    /// Makes or checks the layout, however long the server is out of reach.
    async fn prepare(&self) -> Result<(), WorkerError> {
        let mut pause = self.settings().pause;
        loop {
            match self.store.prepare(&self.queue_names(), self.capacity).await {
                Ok(_) => return Ok(()),
                Err(LayoutError::Unreachable(reason)) => {
                    self.log(format!("the server is out of reach: {reason}"));
                    // All workers may be here at once, after a start of the server.
                    sleep(pause.mul_f64(0.5 + random() / 2.0)).await;
                    pause = (pause * 2).min(self.settings().pause * LONGEST_PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn queue_names(&self) -> Vec<String> {
        self.queues.iter().map(|(queue, _)| queue.clone()).collect()
    }

    async fn wait_empty(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if lock(&self.deliveries).is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Tells that this worker is there, again and again, and at once when it begins to drain.
    async fn be_present(self: Arc<Self>) {
        let mut phase = self.phase.subscribe();
        let mut tick = interval(PRESENCE);
        loop {
            let tasks = self.performer.offers().into_iter();
            let presence = Presence {
                tasks: tasks.map(|it| (it.task, it.signature.map(offloop::Signature::as_u64))).collect(),
                running: self.running(),
                draining: *phase.borrow_and_update() > Phase::Serving,
                ..self.presence.clone()
            };
            self.store.announce(&presence).await;
            tokio::select! {
                _ = tick.tick() => {}
                _ = phase.changed() => {}
            }
        }
    }

    /// Tells the jobs when the connection was lost and is back. Then the server may be another one, too, with nothing of the
    /// layout.
    async fn notice_reconnects(self: Arc<Self>) {
        let mut link = self.store.link();
        let mut epoch = link.borrow_and_update().epoch;
        while link.changed().await.is_ok() {
            let now = link.borrow_and_update().epoch;
            if now != epoch {
                epoch = now;
                self.tell_all(&Event::Reconnected);
                if let Err(error) = self.store.prepare(&self.queue_names(), self.capacity).await {
                    self.log(format!("after a new connection: {error}"));
                }
            }
        }
    }

    async fn answer_questions(self: Arc<Self>) {
        loop {
            // The subscription outlives a lost connection, but not one that could not be made at first.
            if let Some(mut asked) = self.store.asked(self.id()).await {
                while let Some(question) = asked.next().await {
                    let answer =
                        question.ask.as_ref().map_or_else(|_| encode(&false), |ask| self.answer(ask));
                    question.respond(answer).await;
                }
            }
            sleep(self.settings().pause).await;
        }
    }

    fn answer(&self, ask: &Ask) -> Vec<u8> {
        match ask {
            Ask::Has { id } => encode(&self.entry(*id).is_some_and(|entry| entry.is_held())),
            Ask::Cancel { id } => {
                let entry = self.entry(*id);
                encode(&entry.is_some_and(|entry| entry.events.send(Event::Cancel).is_ok()))
            }
            Ask::Drain => {
                self.advance(Phase::Draining);
                encode(&true)
            }
            Ask::Credit { id, attempt, next, room } => {
                if let Some(outbox) = self.entry(*id).and_then(|entry| lock(&entry.outbox).clone()) {
                    outbox.credit(*attempt, *next, *room);
                }
                encode(&true)
            }
            Ask::Logs => {
                let lines: Vec<String> = lock(&self.log).iter().cloned().collect();
                encode(&lines.join("\n"))
            }
        }
    }

    /// Takes jobs while there are slots.
    async fn take_jobs(self: Arc<Self>) {
        let pulls =
            |(queue, _): &(String, u32)| Band::ALL.map(|band| Line::new(self.store.pull(queue, band)));
        let mut lines: Vec<[Line; 3]> = self.queues.iter().map(pulls).collect();
        let mut turns = Turns::new(self.queues.iter().map(|(_, weight)| *weight));
        loop {
            let order = turns.next();
            let is_serving = *self.phase.borrow() == Phase::Serving;
            let mut room = if is_serving { self.slots.free() } else { 0 };
            // The bands that come first get the room that their backlog needs. Those that seem to be empty are asked for
            // one job each, and what comes beside another job is given back at once.
            for (queue, band) in &order {
                let line = &mut lines[*queue][*band as usize];
                line.wanted = if room == 0 { 0 } else { room.min(line.pending.max(1)) };
                room -= room.min(line.pending);
            }
            let is_short = room == 0 && is_serving;
            // A band with a backlog delivers at once, so that a job comes about when its slot is free.
            let mut ahead = if is_serving { self.slots.ahead() } else { 0 };
            for (queue, band) in &order {
                let line = &mut lines[*queue][*band as usize];
                let more = ahead.min(line.pending.saturating_sub(line.wanted));
                line.wanted += more;
                ahead -= more;
            }
            let taken = self.wait_for_jobs(&order, &mut lines, is_short).await;
            let Some((queue, messages)) = taken else { continue };
            self.deliver(&self.queues[queue].0, messages).await;
        }
    }

    /// Waits until a band has delivered jobs, and returns the number of its queue and those. `None`: there may be other
    /// slots, or other bands, to ask for.
    async fn wait_for_jobs(
        &self,
        order: &[(usize, Band)],
        lines: &mut [[Line; 3]],
        is_short: bool,
    ) -> Option<(usize, Vec<Message>)> {
        let mut phase = self.phase.subscribe();
        {
            let mut rest: Vec<_> = lines.iter_mut().flatten().map(Some).collect();
            let mut waits = Vec::new();
            for (queue, band) in order {
                let line = rest[queue * 3 + *band as usize].take()?;
                if line.wanted > 0 || line.pull.is_open() {
                    waits.push(Box::pin(async move {
                        let messages = line.pull.next(line.wanted, PULL).await;
                        line.pending = messages.last().map_or(0, |message| message.pending);
                        (*queue, messages)
                    }));
                }
            }
            let is_waiting = !waits.is_empty();
            tokio::select! {
                (taken, ..) = async { select_all(waits).await }, if is_waiting => return Some(taken),
                () = self.slots.freed() => return None,
                _ = phase.changed() => return None,
                () = sleep(HINT), if is_waiting && is_short => {}
            }
        }
        // Others have taken what the bands held.
        lines.iter_mut().flatten().for_each(|line| line.pending = 0);
        None
    }

    /// Starts to drive messages that were delivered, as far as there are slots.
    async fn deliver(self: &Arc<Self>, queue: &str, messages: Vec<Message>) {
        let mut surplus = Vec::new();
        for message in messages {
            let is_serving = *self.phase.borrow() == Phase::Serving;
            let Some(slot) = is_serving.then(|| self.slots.take()).flatten() else {
                surplus.push(message);
                continue;
            };
            let (agent, queue) = (Arc::clone(self), queue.to_owned());
            match Job::decode(&message.record) {
                Ok(job) => drop(tokio::spawn(drive(agent, message, job, queue, slot))),
                Err(error) => {
                    self.slots.decline(slot);
                    self.log(format!(
                        "a message of the queue `{queue}` has no record that can be read: {error}"
                    ));
                    let is_newer = matches!(error, RecordError::Newer { .. });
                    drop(tokio::spawn(refuse(agent, message, is_newer, queue)));
                }
            }
        }
        join_all(surplus.iter().map(|message| message.nak(Duration::ZERO))).await;
    }
}

/// One band of a queue.
struct Line {
    pull: Pull,
    /// The number of jobs that it held when the last one was delivered.
    pending: usize,
    /// The number of jobs that are asked for.
    wanted: usize,
}

impl Line {
    fn new(pull: Pull) -> Self {
        Self { pull, pending: 0, wanted: 0 }
    }
}

fn encode<T: serde::Serialize>(answer: &T) -> Vec<u8> {
    rmp_serde::to_vec(answer).expect("a plain value can be encoded")
}

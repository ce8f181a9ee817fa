//! The far side of a [carrier](super::carrier) in this process: one task on the network's thread, which drives the
//! machines of all jobs of a client.

mod items;
mod link;
mod states;
mod timers;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use offloop::ErrorKind;
use offloop::remote::Ender;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use items::ItemState;
use timers::slot;

use super::carrier::{Command, Room, Shared, Submitted, lock};
use super::handle::{Progress, StoredEnd};
use super::outcome;
use crate::Ulid;
use crate::names::{Band, Part, Place};
use crate::protocol::{
    Publication, Submission, SubmissionAction as Action, SubmissionEvent as Event,
    SubmissionTimer as MachineTimer, Written,
};
use crate::records::{Ask, BlobRef, End, Item, Job, State};
use crate::store::{
    Announcement, Asked, Events, Items, JobHeaders, LayoutError, NotStored, Question, Store, StoredBytes,
    random,
};

/// The interval in which the states of all outstanding jobs are read, in case that an announcement was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// The wait until a job that had no room is published again after one of this client's jobs has ended.
const ROOM_SOON: Duration = Duration::from_millis(20);

/// A job, by the number of its local identity.
type Number = u64;

/// The subscriptions of a client.
type Listening = (Events, Items, Asked);

/// The outcome of a request.
enum Done {
    /// The namespace is laid out, with this capacity, or is not.
    Prepared(Result<(u64, Box<Listening>), LayoutError>),
    /// The announcements about the job are listened for; `None` if the server has not answered.
    Watching(Number, Option<Watcher>),
    Published(Number, Option<BlobRef>, Publication),
    Machine(Number, Event),
    Read(Vec<(Number, Found)>),
    /// An item that was stored by itself; `None` if it cannot be had.
    Item(Number, Option<Vec<u8>>),
    Nothing,
}

/// The answer to the question for a job's state.
#[derive(Clone)]
enum Found {
    /// There was none.
    NoAnswer,
    Nothing,
    State(Place, StoredBytes),
}

type Request = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Passes on the announcements about one job, until it is dropped.
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Machine(MachineTimer),
    /// The time by which the job has to be in the queue, while the server cannot be reached.
    Unreachable,
}

/// A job of this client, until nothing is left to do about it.
struct Entry {
    machine: Submission,
    has_begun: bool,
    job: Job,
    /// The encoded job, while it may have to be published. Not made yet if the arguments are to be stored by themselves.
    record: Option<Bytes>,
    /// The arguments that are to be stored by themselves.
    arguments: Bytes,
    /// `None` for a job that was attached to by its id only, until its state is found.
    place: Option<Place>,
    is_attached: bool,
    /// `None` when the job has ended here.
    ender: Option<Ender>,
    room: Option<Room>,
    progress: watch::Sender<Progress>,
    /// It is among those that found no room.
    is_listed: bool,
    /// The times at which its timers fire: of the pause, of the question, of [`Timer::Unreachable`].
    armed: [Option<Instant>; 3],
    items: ItemState,
    watcher: Option<Watcher>,
    settling: Vec<oneshot::Sender<()>>,
}

pub(super) struct Driver {
    store: Store,
    shared: Arc<Shared>,
    /// The capacity that was asked for.
    capacity: Option<u64>,
    jobs: HashMap<Number, Entry>,
    /// The jobs by their ids in the cluster. Several may have the same key.
    ids: BTreeSet<(Ulid, Number)>,
    requests: FuturesUnordered<Request>,
    timers: BinaryHeap<Reverse<(Instant, Number, Timer)>>,
    /// Jobs whose states are to be read, by one request.
    reads: Vec<Number>,
    /// Jobs whose workers are to be told what was received.
    owing: HashSet<Number>,
    /// Jobs that found no room in their queue, in their order.
    full: VecDeque<Number>,
    idle: Vec<oneshot::Sender<()>>,
    watched: mpsc::UnboundedSender<Announcement>,
    /// True when the namespace is laid out.
    is_ready: bool,
    epoch: u64,
}

impl Driver {
    /// Drives the jobs that come until the executor is gone and nothing is left to do.
    pub(super) async fn run(
        store: Store,
        shared: Arc<Shared>,
        capacity: Option<u64>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        let (watched, mut announcements) = mpsc::unbounded_channel();
        let mut link = store.link();
        let mut driver = Self {
            store,
            shared,
            capacity,
            jobs: HashMap::new(),
            ids: BTreeSet::new(),
            requests: FuturesUnordered::new(),
            timers: BinaryHeap::new(),
            reads: Vec::new(),
            owing: HashSet::new(),
            full: VecDeque::new(),
            idle: Vec::new(),
            watched,
            is_ready: false,
            epoch: 0,
        };
        driver.prepare(Duration::ZERO);
        let (mut events, mut items, mut asked) = (None, None, None);
        let mut look = interval(LOOK_AGAIN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut batch, mut is_closed) = (Vec::new(), false);
        loop {
            let timer = driver.timers.peek().map(|Reverse((at, ..))| (*at).into());
            tokio::select! {
                count = commands.recv_many(&mut batch, 256), if !is_closed => {
                    is_closed = count == 0;
                    batch.drain(..).for_each(|command| driver.command(command));
                }
                Some(done) = driver.requests.next() => match done {
                    Done::Prepared(Ok((capacity, listening))) => {
                        let listening = *listening;
                        (events, items, asked) = (Some(listening.0), Some(listening.1), Some(listening.2));
                        driver.begin_all(capacity);
                    }
                    done => driver.done(done),
                },
                Some(announced) = next_event(&mut events) => driver.announced(&announced),
                Some(announced) = announcements.recv() => driver.announced(&announced),
                Some((job, item, record)) = next_item(&mut items) => driver.item(job, &item, &record),
                Some(question) = next_question(&mut asked) => driver.question(question),
                _ = link.changed() => driver.link_changed(&link.borrow_and_update().clone()),
                _ = look.tick() => driver.feed_all(&Event::LookAgain),
                () = at(timer) => driver.fire_timers(),
            }
            driver.read_due();
            driver.send_credit();
            if driver.jobs.is_empty() && (driver.requests.is_empty() || !driver.is_ready) {
                driver.idle.clear();
                if is_closed {
                    return;
                }
            }
        }
    }

    fn request(&mut self, request: impl Future<Output = Done> + Send + 'static) {
        self.requests.push(Box::pin(request));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Submit(submitted) => self.submit(*submitted),
            Command::Cancel(job) => self.cancel(job.as_u64()),
            Command::Resume(job) => self.pass_items(job.as_u64()),
            Command::Settle(job, settled) => {
                if let Some(entry) = self.jobs.get_mut(&job.as_u64())
                    && entry.progress.borrow().stored.is_none()
                {
                    entry.settling.push(settled);
                }
            }
            Command::Idle(idle) => self.idle.push(idle),
        }
    }

    fn submit(&mut self, submitted: Submitted) {
        let Submitted { job, record, arguments, ender, is_attached, refuses_wait, room, progress } =
            submitted;
        if let Some(reason) = lock(&self.shared.unfit).clone() {
            return ender.end(Err(ErrorKind::Unreachable(reason.into())));
        }
        let number = ender.id().as_u64();
        let machine = if is_attached {
            Submission::attached(self.shared.me)
        } else {
            Submission::new(self.shared.me, job.keyed, refuses_wait)
        };
        self.ids.insert((job.id, number));
        let entry = Entry {
            machine,
            has_begun: false,
            record,
            arguments,
            place: (!is_attached).then(|| Place::of(&job)),
            is_attached,
            job,
            ender: Some(ender),
            room,
            progress,
            is_listed: false,
            armed: [None; 3],
            items: ItemState::default(),
            watcher: None,
            settling: Vec::new(),
        };
        self.jobs.insert(number, entry);
        self.arm(number, Timer::Unreachable, self.shared.unreachable_after);
        if self.is_ready {
            self.begin(number);
        }
    }

    /// Starts the machine of a job. One that others may submit or watch is listened for first.
    fn begin(&mut self, number: Number) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        entry.has_begun = true;
        if !entry.job.keyed && !entry.is_attached {
            return self.feed(number, Event::Begin);
        }
        let (store, watched, job) = (self.store.clone(), self.watched.clone(), entry.job.id);
        self.request(async move {
            let Some(mut events) = store.events_about(job).await else {
                sleep(store.settings().pause).await;
                return Done::Watching(number, None);
            };
            let watch = tokio::spawn(async move {
                while let Some(announced) = events.next().await {
                    if watched.send(announced).is_err() {
                        return;
                    }
                }
            });
            Done::Watching(number, Some(Watcher(watch)))
        });
    }

    fn cancel(&mut self, number: Number) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        let late_after = entry.ender.take().and_then(|ender| ender.late_after());
        entry.room = None;
        // Its worker may wait for the reader, and need not any more.
        self.owing.insert(number);
        if !entry.has_begun {
            entry.progress.send_modify(|progress| progress.stored = Some(StoredEnd::NeverRan));
            return self.remove(number);
        }
        let event = if late_after.is_some() {
            // It may be the limit of the handle.
            entry.job.set_queue_timeout(late_after);
            Event::QueueTimeout
        } else {
            Event::Cancel
        };
        self.feed(number, event);
        self.there_may_be_room();
    }

    fn feed(&mut self, number: Number, event: Event) {
        let Some(entry) = self.jobs.get_mut(&number).filter(|entry| entry.has_begun) else { return };
        for action in entry.machine.on(self.store.settings(), event) {
            self.act(number, action);
        }
    }

    fn feed_all(&mut self, event: &Event) {
        let numbers: Vec<_> = self.jobs.keys().copied().collect();
        for number in numbers {
            self.feed(number, event.clone());
        }
    }

    fn act(&mut self, number: Number, action: Action) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        let store = self.store.clone();
        match action {
            Action::Publish => self.publish(number),
            Action::Write { expected, state } => {
                let (place, job, shared) = (entry.place, entry.job.id, Arc::clone(&self.shared));
                let state = outcome::explain(state, &entry.job);
                self.request(async move {
                    let sealed = |bytes| match &state {
                        State::End(_) => shared.seals.seal_end(store.names().namespace(), job, bytes),
                        _ => Ok(bytes),
                    };
                    let (Some(place), Ok(bytes)) = (place, state.encode().and_then(sealed)) else {
                        // It cannot be written before it is found.
                        sleep(store.settings().pause).await;
                        return Done::Machine(number, Event::Written(Written::Unknown));
                    };
                    let written = store.write(&place, expected, bytes, store.settings().remember).await;
                    Done::Machine(number, Event::Written(written))
                });
            }
            Action::Read => self.reads.push(number),
            Action::Delete(message) => {
                self.request(
                    async move { Done::Machine(number, Event::Deleted(store.delete(message).await)) },
                );
            }
            Action::AskToCancel(worker) => {
                let id = entry.job.id;
                self.tell(worker, Ask::Cancel { id });
            }
            Action::Arm(timer, after) => {
                // Those who wait for the same thing do not all try at the same moment.
                let after =
                    if timer == MachineTimer::Pause { after.mul_f64(0.75 + random() / 2.0) } else { after };
                self.arm(number, Timer::Machine(timer), after);
            }
            Action::Accepted => {
                (entry.record, entry.arguments) = (None, Bytes::new());
                entry.armed[slot(Timer::Unreachable)] = None;
                if let Some(ender) = &entry.ender {
                    ender.accept();
                }
            }
            Action::Running(worker) => {
                entry.items.worker = worker;
                entry.armed[slot(Timer::Unreachable)] = None;
                entry.progress.send_modify(|progress| progress.worker = worker);
                if entry.job.stream.is_some() {
                    // Items may have come before it was known whom to tell.
                    self.owing.insert(number);
                }
                if let Some(ender) = &entry.ender {
                    // If it has ended here, a cancellation is under way.
                    let _ = if worker.is_some() { ender.start() } else { ender.release() };
                }
            }
            Action::Ended(end) => self.ended(number, *end),
            Action::QueueFull => {
                if entry.job.blob.is_some() {
                    let id = entry.job.id;
                    self.requests.push(Box::pin(async move {
                        store.delete_blob(id, Part::Arguments).await;
                        Done::Nothing
                    }));
                }
                entry.progress.send_modify(|progress| progress.stored = Some(StoredEnd::NeverRan));
                let full = self.shared.full();
                self.end_here(number, full);
            }
            Action::Detached => {
                entry.progress.send_modify(|progress| progress.stored = Some(StoredEnd::LeftToOthers));
            }
            Action::Over => self.remove(number),
        }
    }

    fn publish(&mut self, number: Number) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        let (store, id, queue, band) =
            (self.store.clone(), entry.job.id, entry.job.queue.clone(), Band::of(entry.job.priority));
        let headers = JobHeaders::of(&entry.job);
        if let Some(record) = entry.record.clone() {
            return self.request(async move {
                Done::Published(number, None, store.publish(&queue, band, id, record, &headers).await)
            });
        }
        let (mut job, arguments, shared) =
            (entry.job.clone(), entry.arguments.clone(), Arc::clone(&self.shared));
        self.request(async move {
            let remember = store.settings().remember;
            match store.try_put_blob(id, Part::Arguments, arguments, remember).await {
                Ok(blob) => job.blob = Some(blob),
                Err(NotStored::Full) => {
                    // Some of it may be there, and takes room from others.
                    store.delete_blob(id, Part::Arguments).await;
                    return Done::Published(number, None, Publication::Full);
                }
                Err(NotStored::Unknown) => return Done::Published(number, None, Publication::Unknown),
            }
            match shared.seals.encode(store.names().namespace(), &job) {
                Ok(record) => {
                    let published = store.publish(&queue, band, id, record.into(), &headers).await;
                    Done::Published(number, job.blob, published)
                }
                Err(_) => Done::Published(number, None, Publication::Unknown),
            }
        });
    }

    /// Takes in what a request has come to.
    fn done(&mut self, done: Done) {
        match done {
            Done::Prepared(Ok(_)) | Done::Nothing => {}
            Done::Prepared(Err(error)) => self.failed_to_prepare(&error),
            Done::Machine(number, event) => self.feed(number, event),
            Done::Watching(number, None) => self.begin(number),
            Done::Watching(number, watcher) => {
                if let Some(entry) = self.jobs.get_mut(&number) {
                    entry.watcher = watcher;
                    self.feed(number, Event::Begin);
                }
            }
            Done::Published(number, blob, published) => {
                if let Some(entry) = self.jobs.get_mut(&number) {
                    if blob.is_some() {
                        entry.job.blob = blob;
                        let namespace = self.store.names().namespace();
                        let record = self.shared.seals.encode(namespace, &entry.job);
                        entry.record = record.ok().map(Bytes::from);
                    }
                    let is_full = published == Publication::Full;
                    if is_full && !std::mem::replace(&mut entry.is_listed, true) {
                        self.full.push_back(number);
                    }
                    if entry.progress.borrow().is_full != is_full {
                        entry.progress.send_modify(|progress| progress.is_full = is_full);
                    }
                    self.feed(number, Event::Published(published));
                }
            }
            Done::Read(found) => {
                for (number, found) in found {
                    self.read(number, found);
                }
            }
            Done::Item(number, item) => self.fetched(number, item),
        }
    }

    /// Passes on the end of a job.
    fn ended(&mut self, number: Number, end: End) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        entry.room = None;
        let stored = outcome::stored_end(&end, self.shared.me);
        entry.progress.send_modify(|progress| progress.stored = Some(stored));
        entry.settling.clear();
        let (id, has_blob, ender) = (entry.job.id, entry.job.blob.is_some(), entry.ender.take());
        let had_ender = ender.is_some();
        let unended = ender.and_then(|ender| outcome::end_at_once(ender, &entry.job, &end));
        let unended = unended.map(|ender| (ender, entry.job.clone()));
        if has_blob {
            let store = self.store.clone();
            self.request(async move {
                store.delete_blob(id, Part::Arguments).await;
                Done::Nothing
            });
        }
        if let Some((ender, job)) = unended {
            let store = self.store.clone();
            self.request(async move {
                outcome::end(&store, ender, &job, &end).await;
                Done::Nothing
            });
        }
        if had_ender {
            self.there_may_be_room();
        }
    }

    /// Ends a job for its handle only.
    fn end_here(&mut self, number: Number, kind: ErrorKind) {
        if let Some(entry) = self.jobs.get_mut(&number) {
            entry.room = None;
            if let Some(ender) = entry.ender.take() {
                ender.end(Err(kind));
            }
        }
    }

    /// Forgets a job about which nothing is left to do.
    fn remove(&mut self, number: Number) {
        if let Some(entry) = self.jobs.remove(&number) {
            self.ids.remove(&(entry.job.id, number));
        }
    }

    /// Publishes the first of the jobs that found no room again soon, since one of this client has gone.
    fn there_may_be_room(&mut self) {
        while let Some(number) = self.full.pop_front() {
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            entry.is_listed = false;
            if entry.ender.is_some() {
                return self.arm(number, Timer::Machine(MachineTimer::Pause), ROOM_SOON);
            }
        }
    }

    fn question(&mut self, question: Question) {
        let answer = match &question.ask {
            Ok(Ask::Has { id }) => {
                let wants =
                    |number: &Number| self.jobs.get(number).is_some_and(|entry| entry.ender.is_some());
                vec![if self.numbers_of(*id).iter().any(wants) { b'y' } else { b'n' }]
            }
            _ => Vec::new(),
        };
        self.request(async move {
            question.respond(answer).await;
            Done::Nothing
        });
    }

    fn tell(&mut self, worker: Ulid, ask: Ask) {
        let store = self.store.clone();
        self.request(async move {
            store.tell(worker, &ask).await;
            Done::Nothing
        });
    }
}

async fn next_event(events: &mut Option<Events>) -> Option<Announcement> {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

async fn next_item(items: &mut Option<Items>) -> Option<(Ulid, Item, Bytes)> {
    match items {
        Some(items) => items.next().await,
        None => pending().await,
    }
}

async fn next_question(asked: &mut Option<Asked>) -> Option<Question> {
    match asked {
        Some(asked) => asked.next().await,
        None => pending().await,
    }
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

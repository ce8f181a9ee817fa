//! The far side of a [carrier](super::carrier) in this process: one task on the network's thread, which drives the
//! machines of all jobs of a client.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use offloop::ErrorKind;
use offloop::remote::Ender;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::carrier::{Command, Room, Shared, Submitted, lock};
use super::handle::{Progress, StoredEnd};
use super::outcome;
use crate::Ulid;
use crate::names::{Band, Part, Place};
use crate::protocol::{
    Publication, Stored, Submission, SubmissionAction as Action, SubmissionEvent as Event,
    SubmissionTimer as MachineTimer, Written,
};
use crate::records::{Ask, BlobRef, End, Item, Job, State};
use crate::store::{
    Announcement, Asked, Events, Items, JobHeaders, LayoutError, Link, Question, Store, StoredBytes, random,
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
    submitted: Instant,
    /// The times at which its timers fire: of the pause, of the question, of [`Timer::Unreachable`].
    armed: [Option<Instant>; 3],
    items: ItemState,
    watcher: Option<Watcher>,
    settling: Vec<oneshot::Sender<()>>,
}

/// The streamed items of a job.
#[derive(Default)]
struct ItemState {
    /// The worker that sends them.
    worker: Option<Ulid>,
    /// The number of the start whose items they are.
    attempt: u32,
    /// The number of the first item that was not passed on.
    next: u64,
    /// Items that have come and were not passed on.
    waiting: VecDeque<Item>,
    /// The first of those is being read from where it is stored.
    is_fetching: bool,
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
                Some((job, item)) = next_item(&mut items) => driver.item(job, &item),
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

    /// Lays the namespace out and begins to listen, after this time.
    fn prepare(&mut self, pause: Duration) {
        let (store, me, capacity) = (self.store.clone(), self.shared.me, self.capacity);
        self.request(async move {
            sleep(pause).await;
            let prepare = async {
                let capacity = store.prepare(&[], capacity).await?;
                let silent = || LayoutError::Unreachable("no room for a subscription".to_owned());
                let events = store.events(me).await.ok_or_else(silent)?;
                let items = store.items(me).await.ok_or_else(silent)?;
                let asked = store.asked(me).await.ok_or_else(silent)?;
                Ok((capacity, Box::new((events, items, asked))))
            };
            Done::Prepared(prepare.await)
        });
    }

    fn begin_all(&mut self, capacity: u64) {
        self.is_ready = true;
        self.shared.capacity.store(capacity, Ordering::Relaxed);
        *lock(&self.shared.trouble) = None;
        let mut waiting: Vec<_> = self.jobs.keys().copied().collect();
        waiting.sort_unstable();
        for number in waiting {
            self.begin(number);
        }
    }

    /// Ends what has come if this program cannot work with the cluster. Else tries again.
    fn failed_to_prepare(&mut self, error: &LayoutError) {
        let text = error.to_string();
        *lock(&self.shared.trouble) = Some(text.clone());
        if !matches!(error, LayoutError::Newer { .. } | LayoutError::OldServer { .. }) {
            let pause = self.store.settings().pause;
            return self.prepare(pause);
        }
        *lock(&self.shared.unfit) = Some(text.clone());
        let numbers: Vec<_> = self.jobs.keys().copied().collect();
        for number in numbers {
            self.end_here(number, ErrorKind::Unreachable(text.clone().into()));
            self.remove(number);
        }
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
            submitted: Instant::now(),
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
        entry.ender = None;
        entry.room = None;
        if !entry.has_begun {
            entry.progress.send_modify(|progress| progress.stored = Some(StoredEnd::NeverRan));
            return self.remove(number);
        }
        let limit = entry.job.queue_timeout();
        let is_late = limit.is_some_and(|limit| entry.submitted.elapsed() >= limit);
        self.feed(number, if is_late { Event::QueueTimeout } else { Event::Cancel });
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
                if let Some(ender) = &entry.ender {
                    // If it has ended here, a cancellation is under way.
                    let _ = if worker.is_some() { ender.start() } else { ender.release() };
                }
            }
            Action::Ended(end) => self.ended(number, *end),
            Action::QueueFull => {
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
        let (store, mut job, record, arguments) =
            (self.store.clone(), entry.job.clone(), entry.record.clone(), entry.arguments.clone());
        let shared = Arc::clone(&self.shared);
        self.request(async move {
            let (blob, record) = if let Some(record) = record {
                (None, record)
            } else {
                let put = store.put_blob(job.id, Part::Arguments, arguments, store.settings().remember);
                job.blob = put.await;
                match shared.seals.encode(store.names().namespace(), &job) {
                    Ok(record) if job.blob.is_some() => (job.blob, record.into()),
                    _ => return Done::Published(number, None, Publication::Unknown),
                }
            };
            let headers = JobHeaders { task: job.task, ..JobHeaders::default() };
            let published = store.publish(&job.queue, Band::of(job.priority), job.id, record, &headers).await;
            Done::Published(number, blob, published)
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
                    if is_full {
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

    /// Reads the states that machines have asked for, by as few requests as possible.
    fn read_due(&mut self) {
        let (mut known, mut places) = (Vec::new(), Vec::new());
        for number in std::mem::take(&mut self.reads) {
            let Some(entry) = self.jobs.get(&number) else { continue };
            let (store, job) = (self.store.clone(), entry.job.id);
            if let Some(place) = entry.place {
                known.push(number);
                places.push(place);
            } else {
                self.request(async move {
                    let found = match store.find(job).await {
                        None => Found::NoAnswer,
                        Some(None) => Found::Nothing,
                        Some(Some((place, stored))) => Found::State(place, stored),
                    };
                    Done::Read(vec![(number, found)])
                });
            }
        }
        if known.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.request(async move {
            let read = if let [place] = places[..] {
                store.read(&place).await.map(|read| vec![read])
            } else {
                store.read_many(&places).await
            };
            let found = match read {
                Some(read) => {
                    let read = places.into_iter().zip(read);
                    read.map(|(place, read)| read.map_or(Found::Nothing, |read| Found::State(place, read)))
                        .collect()
                }
                None => vec![Found::NoAnswer; known.len()],
            };
            Done::Read(known.into_iter().zip(found).collect())
        });
    }

    fn read(&mut self, number: Number, found: Found) {
        let event = match found {
            Found::NoAnswer => Event::Read(None),
            Found::Nothing => Event::Read(Some(None)),
            Found::State(place, stored) => {
                if let Some(entry) = self.jobs.get_mut(&number) {
                    entry.place = Some(place);
                }
                match self.decode(place.job, &stored.bytes) {
                    Ok(state) => Event::Read(Some(Some(Stored { revision: stored.revision, state }))),
                    Err(kind) => return self.give_up(number, kind),
                }
            }
        };
        self.feed(number, event);
    }

    fn announced(&mut self, announced: &Announcement) {
        let Announcement { place, revision, bytes } = announced;
        for number in self.numbers_of(place.job) {
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            if *entry.place.get_or_insert(*place) != *place {
                continue;
            }
            match self.decode(place.job, bytes) {
                Ok(state) => self.feed(number, Event::Announced(Stored { revision: *revision, state })),
                Err(kind) => self.give_up(number, kind),
            }
        }
    }

    fn numbers_of(&self, job: Ulid) -> Vec<Number> {
        self.ids.range((job, 0)..=(job, Number::MAX)).map(|(_, number)| *number).collect()
    }

    /// Reads the state of a job. An end that does not count is an error.
    fn decode(&self, job: Ulid, bytes: &[u8]) -> Result<State, ErrorKind> {
        let unreadable = |error| ErrorKind::Decode(format!("the state of the job in the cluster: {error}"));
        let state = State::decode(bytes).map_err(unreadable)?;
        if let State::End(end) = &state {
            let admitted = self.shared.seals.admit_end(self.store.names().namespace(), job, bytes, end);
            admitted.map_err(|reason| ErrorKind::NotTrusted(reason.into()))?;
        }
        Ok(state)
    }

    /// Ends a job here whose state is no record, one of a newer version, or an end that does not count. What becomes of it
    /// cannot be known.
    fn give_up(&mut self, number: Number, kind: ErrorKind) {
        self.end_here(number, kind);
        self.remove(number);
    }

    /// Passes on the end of a job.
    fn ended(&mut self, number: Number, end: End) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        entry.room = None;
        let stored = outcome::stored_end(&end, self.shared.me);
        entry.progress.send_modify(|progress| progress.stored = Some(stored));
        entry.settling.clear();
        let (store, job, ender) = (self.store.clone(), entry.job.clone(), entry.ender.take());
        if job.blob.is_some() {
            let (store, id) = (store.clone(), job.id);
            self.request(async move {
                store.delete_blob(id, Part::Arguments).await;
                Done::Nothing
            });
        }
        let Some(ender) = ender else { return };
        if let Some(ender) = outcome::end_at_once(ender, &job, &end) {
            self.request(async move {
                outcome::end(&store, ender, &job, &end).await;
                Done::Nothing
            });
        }
        self.there_may_be_room();
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

    /// Has the first of the jobs that found no room published again soon, since one of this client has gone.
    fn there_may_be_room(&mut self) {
        while let Some(number) = self.full.pop_front() {
            if self.jobs.get(&number).is_some_and(|entry| entry.ender.is_some()) {
                return self.arm(number, Timer::Machine(MachineTimer::Pause), ROOM_SOON);
            }
        }
    }

    fn arm(&mut self, number: Number, timer: Timer, after: Duration) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        let Some(at) = Instant::now().checked_add(after) else { return };
        entry.armed[slot(timer)] = Some(at);
        self.timers.push(Reverse((at, number, timer)));
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, number, timer))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            // It may have been started anew since.
            if entry.armed[slot(timer)] == Some(at) {
                entry.armed[slot(timer)] = None;
                match timer {
                    Timer::Machine(timer) => self.feed(number, Event::Fired(timer)),
                    Timer::Unreachable => self.unreachable(number),
                }
            }
        }
    }

    /// Ends a job that is not in the queue, if that is because the server cannot be reached. If it gets into the queue yet,
    /// it is taken out again.
    fn unreachable(&mut self, number: Number) {
        let link = self.store.link();
        let link = link.borrow().clone();
        if link.is_up && self.is_ready {
            return self.arm(number, Timer::Unreachable, self.shared.unreachable_after);
        }
        let trouble = lock(&self.shared.trouble).clone();
        let reason = if link.is_up { trouble.unwrap_or_default() } else { link.reason };
        let text = format!(
            "the cluster's server did not take the job within {:?}: {reason}",
            self.shared.unreachable_after
        );
        self.end_here(number, ErrorKind::Unreachable(text.into()));
        self.cancel(number);
    }

    fn link_changed(&mut self, link: &Link) {
        if link.is_up && link.epoch != self.epoch {
            self.epoch = link.epoch;
            self.feed_all(&Event::Reconnected);
            self.owing.extend(self.jobs.iter().filter(|(_, it)| it.job.stream.is_some()).map(|(it, _)| *it));
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

    /// Takes an item that has come. One that is not the next one was sent before, or will be sent again.
    fn item(&mut self, job: Ulid, item: &Item) {
        for number in self.numbers_of(job) {
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            let (state, stream) = (&mut entry.items, entry.job.stream.unwrap_or(0) as usize);
            if item.attempt > state.attempt {
                let worker = state.worker;
                *state = ItemState { worker, attempt: item.attempt, ..ItemState::default() };
            }
            if entry.ender.is_none() {
                // Nobody reads them, and the worker does not wait for a reader.
                state.next = state.next.max(item.number.saturating_add(1));
                self.owing.insert(number);
                continue;
            }
            let expected = state.next + state.waiting.len() as u64;
            if item.attempt == state.attempt && item.number == expected && state.waiting.len() <= stream {
                state.waiting.push_back(item.clone());
            }
            self.pass_items(number);
        }
    }

    /// Passes on the items for which the reader has room.
    fn pass_items(&mut self, number: Number) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        let Some(ender) = &entry.ender else { return };
        let state = &mut entry.items;
        self.owing.insert(number);
        while let Some(mut item) = state.waiting.pop_front() {
            if let Some(blob) = item.blob.filter(|_| item.item.is_empty()) {
                let is_fetching = std::mem::replace(&mut state.is_fetching, true);
                let (store, job, part) = (self.store.clone(), entry.job.id, Part::Item(item.number));
                state.waiting.push_front(item);
                if !is_fetching {
                    self.request(
                        async move { Done::Item(number, store.get_blob(job, part, &blob).await.ok()) },
                    );
                }
                return;
            }
            match ender.item(std::mem::take(&mut item.item)) {
                Ok(()) => state.next += 1,
                Err(bytes) => {
                    item.item = bytes;
                    return state.waiting.push_front(item);
                }
            }
        }
    }

    fn fetched(&mut self, number: Number, bytes: Option<Vec<u8>>) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        entry.items.is_fetching = false;
        match (bytes, entry.items.waiting.front_mut()) {
            (Some(bytes), Some(first)) => {
                (first.item, first.blob) = (bytes, None);
                self.pass_items(number);
            }
            // The worker sends them again.
            _ => entry.items.waiting.clear(),
        }
    }

    /// Tells workers what has come of their items, and what there is room for.
    fn send_credit(&mut self) {
        for number in std::mem::take(&mut self.owing) {
            let Some(entry) = self.jobs.get(&number) else { continue };
            let ItemState { worker: Some(worker), attempt, next, .. } = entry.items else { continue };
            let room = entry.ender.as_ref().map_or(u64::from(u32::MAX), |ender| ender.room() as u64);
            let credit = Ask::Credit { id: entry.job.id, attempt, next, room };
            self.tell(worker, credit);
        }
    }
}

fn slot(timer: Timer) -> usize {
    match timer {
        Timer::Machine(MachineTimer::Pause) => 0,
        Timer::Machine(MachineTimer::Ask) => 1,
        Timer::Unreachable => 2,
    }
}

async fn next_event(events: &mut Option<Events>) -> Option<Announcement> {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

async fn next_item(items: &mut Option<Items>) -> Option<(Ulid, Item)> {
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

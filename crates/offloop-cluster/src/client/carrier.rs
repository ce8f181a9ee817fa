//! The near end of the way to the cluster: takes calls on the submitter's thread, and gives them to the network's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use offloop::remote::{Carrier, Ender, NamedCall, Outbound};
use offloop::{ErrorKind, JobId, OnFull, Rejected};
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::Progress;
use crate::Ulid;
use crate::names::Band;
use crate::records::{Codec, Job};
use crate::security::Seals;
use crate::store::{INLINE, Store};

/// The instructions that only a cluster's jobs have, beside those of every job.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra {
    pub(super) key: Option<String>,
    pub(super) queue: Option<String>,
    pub(super) exclusive: bool,
    /// The job was submitted before, and is only to be watched.
    pub(super) attach: Option<Ulid>,
    pub(super) pickle: Option<String>,
}

/// The facts about a job that the submitter's handle and the network's thread share.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) id: Ulid,
    pub(super) job: JobId,
    pub(super) progress: watch::Receiver<Progress>,
}

thread_local! {
    /// The extras of the call that this thread is submitting, and afterwards its ticket. An executor hands a call to its
    /// carrier on the submitter's thread, before it returns.
    static SUBMITTING: RefCell<(Option<Extra>, Option<Ticket>)> = const { RefCell::new((None, None)) };
}

/// Submits a call with these extras. Returns the call's ticket, if the carrier has taken it.
pub(super) fn submitting<T>(extra: Extra, submit: impl FnOnce() -> T) -> (T, Option<Ticket>) {
    // Arguments may submit calls of their own while they are encoded.
    let before = SUBMITTING.replace((Some(extra), None));
    let submitted = submit();
    (submitted, SUBMITTING.replace(before).1)
}

/// A call that was taken.
#[derive(Debug)]
pub(super) struct Submitted {
    /// The job, without its arguments.
    pub(super) job: Job,
    /// The encoded job, unless its arguments are too large for it.
    pub(super) record: Option<Bytes>,
    /// The arguments that are too large.
    pub(super) arguments: Bytes,
    pub(super) ender: Ender,
    pub(super) is_attached: bool,
    pub(super) refuses_wait: bool,
    /// `None` if it was submitted elsewhere.
    pub(super) room: Option<Room>,
    pub(super) progress: watch::Sender<Progress>,
}

#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<Submitted>),
    Cancel(JobId),
    Resume(JobId),
    /// Asks for a sign when the end of a job is stored. It is dropped then.
    Settle(JobId, oneshot::Sender<()>),
    /// Asks for a sign when nothing is left to do. It is dropped then.
    Idle(oneshot::Sender<()>),
}

/// The hook that returns what jobs carry.
#[derive(Clone)]
pub(super) struct Carry(pub(super) Arc<dyn Fn() -> Option<Vec<u8>> + Send + Sync>);

impl Carry {
    /// Calls it. If it panics, the job carries nothing.
    fn call(&self) -> Vec<u8> {
        catch_unwind(AssertUnwindSafe(|| (self.0)())).ok().flatten().unwrap_or_default()
    }
}

impl fmt::Debug for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carry")
    }
}

/// The state that submitters' threads and the network's thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) me: Ulid,
    pub(super) queue: Arc<str>,
    pub(super) on_full: OnFull,
    pub(super) cancel_if_lost: bool,
    pub(super) unreachable_after: Duration,
    pub(super) seals: Seals,
    pub(super) carry: Option<Carry>,
    /// The number of jobs that a band holds; 0 while that is not known. Written by the driver.
    pub(super) capacity: AtomicU64,
    /// The jobs of this client that have not ended, in each band of each queue.
    live: Mutex<HashMap<(String, Band), u64>>,
    /// The reason why the namespace cannot be used yet. Written by the driver.
    pub(super) trouble: Mutex<Option<String>>,
    /// The reason why this program cannot work with the cluster. Never cleared. Written by the driver.
    pub(super) unfit: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(
        queue: String,
        on_full: OnFull,
        cancel_if_lost: bool,
        unreachable_after: Duration,
        seals: Seals,
        carry: Option<Carry>,
    ) -> Self {
        Self {
            me: Ulid::new(),
            queue: queue.into(),
            on_full,
            cancel_if_lost,
            unreachable_after,
            seals,
            carry,
            capacity: AtomicU64::new(0),
            live: Mutex::default(),
            trouble: Mutex::default(),
            unfit: Mutex::default(),
        }
    }

    pub(super) fn full(&self) -> ErrorKind {
        let capacity = self.capacity.load(Ordering::Relaxed);
        ErrorKind::QueueFull { capacity: usize::try_from(capacity).unwrap_or(usize::MAX) }
    }
}

/// A job's place among those of its band, until it has ended here.
#[derive(Debug)]
pub(super) struct Room {
    shared: Arc<Shared>,
    band: (String, Band),
}

impl Room {
    /// Takes a place. The second value is true if the band holds no more, by what this client knows.
    fn take(shared: &Arc<Shared>, queue: &str, band: Band) -> (Self, bool) {
        let band = (queue.to_owned(), band);
        let capacity = shared.capacity.load(Ordering::Relaxed);
        let mut live = lock(&shared.live);
        let count = live.entry(band.clone()).or_default();
        let is_full = capacity > 0 && *count >= capacity;
        *count += 1;
        drop(live);
        (Self { shared: Arc::clone(shared), band }, is_full)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut live = lock(&self.shared.live);
        if let Some(count) = live.get_mut(&self.band) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.band);
            }
        }
    }
}

/// Takes calls to the cluster.
#[derive(Debug)]
pub(super) struct ToCluster {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) store: Store,
}

impl ToCluster {
    pub(super) fn command(&self, command: Command) {
        // The driver lives as long as this, unless the network's thread has died with the process.
        let _ = self.commands.send(command);
    }

    fn refusal(&self, is_full: bool, never_waits: bool, can_run_here: bool) -> Option<Refusal> {
        if let Some(reason) = lock(&self.shared.unfit).clone() {
            return Some(Refusal::Reject(ErrorKind::Unreachable(reason.into())));
        }
        if never_waits {
            let link = self.store.link();
            let link = link.borrow();
            if !link.is_up {
                return Some(Refusal::Reject(ErrorKind::Unreachable(link.reason.clone().into())));
            }
        }
        let rejects = never_waits || self.shared.on_full == OnFull::Reject || !can_run_here;
        match self.shared.on_full {
            OnFull::Wait if !never_waits => None,
            _ if !is_full => None,
            _ if rejects => Some(Refusal::Reject(self.shared.full())),
            _ => Some(Refusal::RunHere),
        }
    }
}

enum Refusal {
    Reject(ErrorKind),
    RunHere,
}

impl Carrier for ToCluster {
    fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
        let extra = SUBMITTING.with_borrow_mut(|(extra, _)| extra.take()).unwrap_or_default();
        let asked = outbound.instructions();
        let queue = extra.queue.unwrap_or_else(|| self.shared.queue.to_string());
        let (room, is_full) = Room::take(&self.shared, &queue, Band::of(asked.priority));
        let is_named = outbound.signature() == NamedCall::<()>::ANY;
        let is_full = is_full && extra.attach.is_none();
        match self.refusal(is_full, asked.never_wait, !is_named) {
            Some(Refusal::Reject(kind)) => return Err(Rejected::new(ender, kind)),
            Some(Refusal::RunHere) => {
                ender.run_here(outbound);
                return Ok(());
            }
            None => {}
        }
        if extra.key.is_some() && asked.stream.is_some() {
            let reason = "it has a key and sends items, which go to one reader: submit it without the key";
            return Err(Rejected::new(ender, ErrorKind::Rejected(reason.into())));
        }
        let id = match (extra.attach, &extra.key) {
            (Some(id), _) => id,
            (None, Some(key)) => id_of_key(key),
            (None, None) => Ulid::new(),
        };
        let refuses_wait = asked.never_wait || self.shared.on_full == OnFull::Reject;
        let mut job = Job::new(id, self.shared.me, outbound.task(), Vec::new());
        if !is_named {
            job.signature = outbound.signature().as_u64().to_be_bytes().to_vec();
        }
        if let Some(python) = extra.pickle {
            (job.codec, job.python) = (Codec::Pickle, python);
        }
        job.name.clone_from(&asked.name);
        job.priority = asked.priority;
        job.set_queue_timeout(asked.queue_timeout);
        job.set_run_timeout(asked.run_timeout);
        if let Some(retry) = asked.retry {
            job.retry = retry.max_retries();
            job.set_backoff(retry.first_pause());
            job.on_failure = retry.retries_failures();
        }
        job.exclusive = extra.exclusive;
        job.keyed = extra.key.is_some();
        job.cancel_if_lost = self.shared.cancel_if_lost;
        job.carry = match (&asked.carried, &self.shared.carry) {
            (Some(own), _) => own.to_vec(),
            (None, Some(hook)) => hook.call(),
            (None, None) => Vec::new(),
        };
        job.request = asked.request.clone().unwrap_or_default();
        job.capture = asked.capture.map(|bytes| bytes as u64);
        job.stream = asked.stream.map(|items| u32::try_from(items).unwrap_or(u32::MAX));
        job.queue = queue;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        job.issued = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let local = outbound.id();
        let mut arguments = outbound.into_arguments();
        let record = if arguments.len() > INLINE {
            None
        } else {
            job.arguments = std::mem::take(&mut arguments);
            match self.shared.seals.encode(self.store.names().namespace(), &job) {
                Ok(record) => Some(record.into()),
                Err(error) => return Err(Rejected::new(ender, ErrorKind::Encode(error.to_string()))),
            }
        };
        job.arguments = Vec::new();
        let (progress, seen) = watch::channel(Progress::default());
        SUBMITTING.with_borrow_mut(|(_, ticket)| *ticket = Some(Ticket { id, job: local, progress: seen }));
        let is_attached = extra.attach.is_some();
        let (room, arguments) = ((!is_attached).then_some(room), arguments.into());
        let submitted =
            Submitted { job, record, arguments, ender, is_attached, refuses_wait, room, progress };
        self.command(Command::Submit(Box::new(submitted)));
        Ok(())
    }

    fn cancel(&self, job: JobId) {
        self.command(Command::Cancel(job));
    }

    fn queue(&self) -> Option<Arc<str>> {
        SUBMITTING.with_borrow(|(extra, _)| match extra {
            // It was submitted before, perhaps to another queue.
            Some(Extra { attach: Some(_), .. }) => None,
            Some(Extra { queue: Some(own), .. }) => Some(own.as_str().into()),
            _ => Some(Arc::clone(&self.shared.queue)),
        })
    }

    fn resume(&self, job: JobId) {
        self.command(Command::Resume(job));
    }
}

/// Locks what no thread leaves half changed, whatever happens to it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the id of the job with a key.
pub(super) fn id_of_key(key: &str) -> Ulid {
    let hash = ring::digest::digest(&ring::digest::SHA256, format!("offloop key\0{key}").as_bytes());
    let bits = hash.as_ref().first_chunk().expect("it has 32 bytes");
    Ulid::from_bits(u128::from_be_bytes(*bits))
}

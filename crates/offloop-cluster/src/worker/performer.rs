//! The seam between the agent and what runs its jobs: a process pool of this program, or of a binding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use offloop::remote::{Answer, Canceller, Instructions, Outbound, Performance, perform, tasks};
use offloop::{ErrorKind, ProcessPool, Signature};
use tokio::sync::oneshot;

use super::items::Outbox;
use crate::Ulid;
use crate::records::{Codec, Job};

/// A task that a worker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The name of the task.
    pub task: String,
    /// Its signature, if it has one. A task of a binding may be known by its name alone.
    pub signature: Option<Signature>,
}

/// Runs the jobs of a worker. All methods are called on the network's thread, so they must not block for long.
pub trait Performer: Send + Sync + 'static {
    /// Returns the tasks that it has, for those who look at the worker.
    fn offers(&self) -> Vec<Offer>;

    /// Returns whether it can run a job: it has the task, with the signature that the job names if it names one, and reads
    /// the format of the arguments.
    fn has(&self, job: &Job) -> bool;

    /// Starts a job. It has to [end](Run::end) `run` once no process of the job is left.
    ///
    /// # Errors
    ///
    /// The reason why the job has not run. It ends with it.
    fn perform(&self, job: &Job, arguments: Vec<u8>, run: Run) -> Result<Box<dyn Running>, ErrorKind>;
}

/// A job that was started.
pub trait Running: Send + Sync {
    /// Kills the job's process: asks it to end, and kills it after the usual grace, or kills it `at_once`. Does not block.
    /// It may be called several times.
    fn kill(&self, at_once: bool);
}

/// The outcome of a job's run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ran {
    /// The encoded result, or the reason why there is none. [`ErrorKind::WorkerDied`], [`ErrorKind::Broken`],
    /// [`ErrorKind::Cancelled`], [`ErrorKind::Closed`] and [`ErrorKind::Unreachable`] say that the process died. All other
    /// reasons are failures of the task.
    pub result: Result<Answer, ErrorKind>,
    /// Its standard output, if that was asked for.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// True if more was printed than is kept.
    pub is_truncated: bool,
}

impl Ran {
    /// Makes it of a result, without any output.
    pub fn new(result: Result<Answer, ErrorKind>) -> Self {
        Self { result, stdout: Vec::new(), stderr: Vec::new(), is_truncated: false }
    }
}

/// The agent's end of a job that runs. A run that is dropped without an end counts as one whose process died.
#[derive(Debug)]
pub struct Run {
    job: Ulid,
    attempt: u32,
    outbox: Option<Arc<Outbox>>,
    end: Option<oneshot::Sender<Ran>>,
}

impl Run {
    pub(super) fn new(
        job: Ulid,
        attempt: u32,
        outbox: Option<Arc<Outbox>>,
        end: oneshot::Sender<Ran>,
    ) -> Self {
        Self { job, attempt, outbox, end: Some(end) }
    }

    /// Returns the id of the job.
    pub fn job(&self) -> Ulid {
        self.job
    }

    /// Returns the number of this start, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Sends an item, encoded, to the reader of the job's stream. Waits while that has no room for it. If nobody reads, the
    /// item is dropped.
    pub async fn send(&self, item: Vec<u8>) {
        if let Some(outbox) = &self.outbox {
            outbox.send(item).await;
        }
    }

    /// Does the same with an item of this job. If the job is killed meanwhile, items for which the reader has no room are
    /// dropped, as a pool drops them: the end of the job must not wait for somebody to read.
    pub async fn pass_on(&self, item: Vec<u8>, performance: &mut Performance) {
        let mut sending = std::pin::pin!(self.send(item));
        tokio::select! {
            biased;
            () = &mut sending => return,
            () = performance.killed() => {}
        }
        if let Some(outbox) = &self.outbox {
            outbox.cut();
        }
        sending.await;
    }

    /// Does the same as [`send`](Self::send), and blocks this thread meanwhile, which must not be the network's.
    pub fn wait_send(&self, item: Vec<u8>) {
        if let Some(outbox) = self.outbox.clone() {
            // It fails in a forked child only, where nothing is to be sent.
            let _ = crate::network::block_on(async move { outbox.send(item).await });
        }
    }

    /// Ends the run. No process of the job may be left.
    pub fn end(mut self, ran: Ran) {
        self.finish(ran);
    }

    fn finish(&mut self, ran: Ran) {
        if let Some(end) = self.end.take() {
            // The agent may have given up.
            let _ = end.send(ran);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let reason = "what ran it has dropped it without telling its end; it may have run";
        self.finish(Ran::new(Err(ErrorKind::Unreachable(reason.into()))));
    }
}

/// Runs the tasks of this program in a process pool.
#[derive(Debug)]
pub struct PoolPerformer {
    pool: ProcessPool,
    tasks: HashMap<&'static str, Signature>,
}

impl PoolPerformer {
    /// Makes it of a pool.
    pub fn new(pool: ProcessPool) -> Self {
        Self { pool, tasks: tasks().iter().map(|task| (task.name, task.signature)).collect() }
    }

    fn signature(&self, job: &Job) -> Option<Signature> {
        let own = *self.tasks.get(&*job.task)?;
        match <[u8; 8]>::try_from(&*job.signature) {
            Ok(wanted) => (u64::from_be_bytes(wanted) == own.as_u64()).then_some(own),
            Err(_) => job.signature.is_empty().then_some(own),
        }
    }
}

impl Performer for PoolPerformer {
    fn offers(&self) -> Vec<Offer> {
        let offer = |(task, signature): (&&str, &Signature)| Offer {
            task: (*task).to_owned(),
            signature: Some(*signature),
        };
        self.tasks.iter().map(offer).collect()
    }

    fn has(&self, job: &Job) -> bool {
        job.codec == Codec::MessagePack && self.signature(job).is_some()
    }

    fn perform(&self, job: &Job, arguments: Vec<u8>, run: Run) -> Result<Box<dyn Running>, ErrorKind> {
        let Some(signature) = self.signature(job) else {
            return Err(ErrorKind::Rejected("this worker does not have its task".into()));
        };
        let outbound = Outbound::received(&*job.task, signature, arguments, instructions(job))
            .map_err(|error| ErrorKind::Decode(error.to_string()))?;
        let performance = perform(&self.pool, outbound)?;
        let canceller = performance.canceller();
        crate::network::runtime()
            .map_err(|error| ErrorKind::WorkerStart(error.to_string().into()))?
            .spawn(attend(performance, canceller.clone(), run));
        Ok(Box::new(canceller))
    }
}

/// The largest number of items of a job that wait in the worker until the reader has room for them.
const AHEAD: usize = 1024;

/// Returns a job's instructions for the pool that runs it. Its starts and its wait in the queue are the worker's matter.
pub fn instructions(job: &Job) -> Instructions {
    let mut asked = Instructions::default();
    asked.name.clone_from(&job.name);
    asked.priority = job.priority;
    asked.run_timeout = job.run_timeout();
    asked.capture = job.capture.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    asked.carried = (!job.carry.is_empty()).then(|| job.carry.clone().into_boxed_slice());
    asked.request = (!job.request.is_empty()).then(|| job.request.clone());
    asked.stream = job.stream.map(|items| usize::try_from(items).map_or(AHEAD, |items| items.min(AHEAD)));
    asked
}

/// Passes on the items of a job, and its end when no process is left.
async fn attend(mut performance: Performance, canceller: Canceller, run: Run) {
    while let Some(item) = performance.next_item().await {
        run.pass_on(item, &mut performance).await;
    }
    let performed = performance.finish().await;
    canceller.gone().await;
    let (result, is_truncated) = (performed.result, performed.is_truncated);
    run.end(Ran { result, stdout: performed.stdout, stderr: performed.stderr, is_truncated });
}

impl Running for Canceller {
    fn kill(&self, at_once: bool) {
        if at_once {
            Self::kill(self);
        } else {
            self.cancel();
        }
    }
}

/// The kill of a job, which may come before the job was started.
#[derive(Default)]
pub(super) struct Kill {
    state: Mutex<KillState>,
    /// Closed when the job is to be killed.
    asked: tokio::sync::Notify,
}

#[derive(Default)]
struct KillState {
    /// `Some` if it is to be killed; then, whether at once.
    at_once: Option<bool>,
    running: Option<Box<dyn Running>>,
}

impl Kill {
    fn lock(&self) -> std::sync::MutexGuard<'_, KillState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the job now, or when it is started.
    pub(super) fn kill(&self, at_once: bool) {
        let mut state = self.lock();
        state.at_once = Some(at_once || state.at_once == Some(true));
        if let Some(running) = &state.running {
            running.kill(at_once);
        }
        drop(state);
        self.asked.notify_waiters();
    }

    /// Records that the job was started, or (`None`) that no process of it is left.
    pub(super) fn set(&self, running: Option<Box<dyn Running>>) {
        let mut state = self.lock();
        state.running = running;
        if let (Some(at_once), Some(running)) = (state.at_once, &state.running) {
            running.kill(at_once);
        }
    }

    /// Waits until the job is to be killed.
    pub(super) async fn asked(&self) {
        let mut asked = std::pin::pin!(self.asked.notified());
        loop {
            asked.as_mut().enable();
            if self.lock().at_once.is_some() {
                return;
            }
            asked.as_mut().await;
            asked.set(self.asked.notified());
        }
    }
}

//! A carrier whose other end is in this process: it hands calls to a real process pool, as bytes through channels.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its own part of this module")]

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offloop::remote::{
    Answer, Canceller, Carrier, Ender, Instructions, Outbound, Performance, Performed, pack_error, perform,
    unpack_error,
};
use offloop::{ErrorKind, JobId, OnFull, ProcessPool, Rejected, Retry, Signature};
use serde::{Deserialize, Serialize};

/// The near end. One thread owns the enders; this only sends it commands.
pub struct InMemory {
    commands: Sender<Command>,
    /// The number of calls that have come and have not been given to the far end.
    queued: Arc<AtomicUsize>,
    capacity: usize,
    on_full: OnFull,
}

#[expect(clippy::large_enum_variant, reason = "there are few at a time")]
enum Command {
    Carry(Outbound, Ender),
    Cancel(JobId),
    Resume(JobId),
    FromFar(Vec<u8>),
    Close,
}

/// A message to the far end.
#[derive(Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "there are few at a time")]
enum ToFar {
    Call {
        job: u64,
        task: String,
        signature: String,
        #[serde(with = "serde_bytes")]
        arguments: Vec<u8>,
        name: String,
        priority: i8,
        run_timeout: Option<Duration>,
        retry: Option<(u32, Duration)>,
        capture: Option<usize>,
        carried: Option<Vec<u8>>,
        request: Option<String>,
        stream: Option<usize>,
    },
    Cancel {
        job: u64,
    },
    /// The reader has taken an item.
    Taken {
        job: u64,
    },
}

/// A message from there.
#[derive(Serialize, Deserialize)]
enum FromFar {
    Item {
        job: u64,
        #[serde(with = "serde_bytes")]
        item: Vec<u8>,
    },
    Ended {
        job: u64,
        result: Result<(Vec<u8>, bool), Vec<u8>>,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
        is_truncated: bool,
    },
}

impl InMemory {
    /// Connects to a far end with this pool, which is given as many calls at a time as it has workers.
    pub fn new(pool: ProcessPool, workers: usize, capacity: usize, on_full: OnFull) -> Self {
        let (commands, received) = mpsc::channel();
        let (to_far, from_near) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let near = Near {
            to_far,
            queued: Arc::clone(&queued),
            capacity,
            free: workers,
            waiting: VecDeque::new(),
            enders: HashMap::new(),
            parked: HashMap::new(),
        };
        let to_near = commands.clone();
        std::thread::spawn(move || near.run(received));
        std::thread::spawn(move || run_far(&pool, &from_near, &to_near));
        Self { commands, queued, capacity, on_full }
    }

    fn command(&self, command: Command) {
        self.commands.send(command).expect("the thread lives as long as the carrier");
    }
}

impl Carrier for InMemory {
    fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
        let queued = self.queued.fetch_add(1, Ordering::SeqCst);
        if queued >= self.capacity && (outbound.instructions().never_wait || self.on_full != OnFull::Wait) {
            self.queued.fetch_sub(1, Ordering::SeqCst);
            if self.on_full == OnFull::CallerRuns && !outbound.instructions().never_wait {
                ender.run_here(outbound);
                return Ok(());
            }
            return Err(Rejected::new(ender, ErrorKind::QueueFull { capacity: self.capacity }));
        }
        self.command(Command::Carry(outbound, ender));
        Ok(())
    }

    fn cancel(&self, job: JobId) {
        self.command(Command::Cancel(job));
    }

    fn resume(&self, job: JobId) {
        self.command(Command::Resume(job));
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Close);
    }
}

struct Near {
    to_far: Sender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    capacity: usize,
    /// The number of calls that the far end can take.
    free: usize,
    /// Calls that wait to be sent. The first ones, up to the capacity, count as queued.
    waiting: VecDeque<(Outbound, Ender)>,
    /// The enders of the calls that were sent. Those that were cancelled stay until the far end answers.
    enders: HashMap<u64, Option<Ender>>,
    /// Items for which their reader had no room.
    parked: HashMap<u64, Vec<u8>>,
}

fn pack(message: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(message).unwrap()
}

impl Near {
    fn run(mut self, received: Receiver<Command>) {
        for command in received {
            match command {
                Command::Carry(outbound, ender) => {
                    let priority = outbound.instructions().priority;
                    let is_behind = |(it, _): &(Outbound, Ender)| it.instructions().priority < priority;
                    let at = self.waiting.iter().position(is_behind).unwrap_or(self.waiting.len());
                    self.waiting.insert(at, (outbound, ender));
                }
                Command::Cancel(job) => self.cancel(job),
                Command::Resume(job) => self.deliver(job.as_u64(), None),
                Command::FromFar(bytes) => match rmp_serde::from_slice(&bytes).unwrap() {
                    FromFar::Item { job, item } => self.deliver(job, Some(item)),
                    FromFar::Ended { job, result, stdout, stderr, is_truncated } => {
                        self.free += 1;
                        self.parked.remove(&job);
                        if let Some(ender) = self.enders.remove(&job).flatten() {
                            ender.output(&stdout, &stderr, is_truncated);
                            ender.end(match result {
                                Ok((bytes, has_failed)) => Ok(Answer::new(bytes).failed(has_failed)),
                                Err(error) => Err(unpack_error(&error).unwrap()),
                            });
                        }
                    }
                },
                Command::Close => return,
            }
            self.send();
        }
    }

    fn send(&mut self) {
        while self.free > 0 {
            let Some((outbound, ender)) = self.waiting.pop_front() else { break };
            self.queued.fetch_sub(1, Ordering::SeqCst);
            if !ender.start() {
                continue;
            }
            self.free -= 1;
            let job = outbound.id().as_u64();
            let asked = outbound.instructions().clone();
            let call = ToFar::Call {
                job,
                task: outbound.task().to_owned(),
                signature: outbound.signature().to_string(),
                name: asked.name,
                priority: asked.priority,
                run_timeout: asked.run_timeout,
                retry: asked.retry.map(|retry| (retry.max_retries(), retry.first_pause())),
                capture: asked.capture,
                carried: asked.carried.map(Vec::from),
                request: asked.request,
                stream: asked.stream,
                arguments: outbound.into_arguments(),
            };
            self.enders.insert(job, Some(ender));
            let _ = self.to_far.send(pack(&call));
        }
        self.waiting.iter().take(self.capacity).for_each(|(_, ender)| ender.accept());
    }

    fn cancel(&mut self, job: JobId) {
        if let Some(at) = self.waiting.iter().position(|(outbound, _)| outbound.id() == job) {
            self.waiting.remove(at);
            self.queued.fetch_sub(1, Ordering::SeqCst);
        } else if let Some(ender) = self.enders.get_mut(&job.as_u64()) {
            *ender = None;
            let _ = self.to_far.send(pack(&ToFar::Cancel { job: job.as_u64() }));
        }
    }

    /// Passes on an item that has come or was parked. The far end sends the next one when it has been taken.
    fn deliver(&mut self, job: u64, item: Option<Vec<u8>>) {
        let Some(item) = item.or_else(|| self.parked.remove(&job)) else { return };
        let Some(Some(ender)) = self.enders.get(&job) else { return };
        match ender.item(item) {
            Ok(()) => {
                let _ = self.to_far.send(pack(&ToFar::Taken { job }));
            }
            Err(item) => {
                // This thread handles `resume`, too, so none is missed.
                self.parked.insert(job, item);
                if ender.room() > 0 {
                    self.deliver(job, None);
                }
            }
        }
    }
}

/// A job at the far end: how to cancel it, and how to tell it that an item was taken.
type FarJob = (Canceller, Sender<()>);

fn run_far(pool: &ProcessPool, from_near: &Receiver<Vec<u8>>, to_near: &Sender<Command>) {
    let jobs: Arc<Mutex<HashMap<u64, FarJob>>> = Arc::default();
    for message in from_near {
        match rmp_serde::from_slice(&message).unwrap() {
            ToFar::Call {
                job,
                task,
                signature,
                arguments,
                name,
                priority,
                run_timeout,
                retry,
                capture,
                carried,
                request,
                stream,
            } => {
                let signature: Signature = signature.parse().unwrap();
                let mut asked = Instructions::default();
                asked.name = name;
                asked.priority = priority;
                asked.run_timeout = run_timeout;
                asked.retry = retry.map(|(times, pause)| Retry::times(times).backoff(pause));
                asked.capture = capture;
                asked.carried = carried.map(Vec::into_boxed_slice);
                asked.request = request;
                asked.stream = stream;
                let outbound = Outbound::received(task, signature, arguments, asked).unwrap();
                match perform(pool, outbound) {
                    Ok(performance) => {
                        let (taken, wait_taken) = mpsc::channel();
                        jobs.lock().unwrap().insert(job, (performance.canceller(), taken));
                        let (jobs, to_near) = (Arc::clone(&jobs), to_near.clone());
                        std::thread::spawn(move || {
                            let ended = attend(job, performance, &wait_taken, &to_near);
                            jobs.lock().unwrap().remove(&job);
                            let _ = to_near.send(Command::FromFar(pack(&ended)));
                        });
                    }
                    Err(kind) => {
                        let result = Err(pack_error(&kind));
                        let (stdout, stderr) = (Vec::new(), Vec::new());
                        let ended = FromFar::Ended { job, result, stdout, stderr, is_truncated: false };
                        let _ = to_near.send(Command::FromFar(pack(&ended)));
                    }
                }
            }
            ToFar::Cancel { job } => {
                // Its thread waits no longer for the reader of its items.
                let job = jobs.lock().unwrap().remove(&job);
                if let Some((canceller, _)) = job {
                    canceller.cancel();
                }
            }
            ToFar::Taken { job } => {
                if let Some((_, taken)) = jobs.lock().unwrap().get(&job) {
                    let _ = taken.send(());
                }
            }
        }
    }
}

/// Sends the items of a job, one at a time, and then its end.
fn attend(
    job: u64,
    mut performance: Performance,
    taken: &Receiver<()>,
    to_near: &Sender<Command>,
) -> FromFar {
    while let Some(item) = performance.wait_next_item() {
        let _ = to_near.send(Command::FromFar(pack(&FromFar::Item { job, item })));
        if taken.recv().is_err() {
            break;
        }
    }
    let performed = performance.wait();
    let result = match performed.result {
        Ok(answer) => Ok((answer.bytes, answer.has_failed)),
        Err(kind) => Err(pack_error(&kind)),
    };
    let Performed { stdout, stderr, is_truncated, .. } = performed;
    FromFar::Ended { job, result, stdout, stderr, is_truncated }
}

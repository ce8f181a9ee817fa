//! Operates a cluster: looks at a namespace, puts dead jobs into their queues again, and drains workers.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;

use crate::Ulid;
use crate::connection::Connection;
use crate::names::{Band, Part};
use crate::network::block_on;
use crate::protocol::Publication;
use crate::records::{Ask, Job, Presence};
use crate::security::Seals;
use crate::store::{BlobError, ConnectError, DeadJob, JobHeaders, NotStored, Reply, Store};

/// An operator's request that was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The way to the cluster cannot be right.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server does not answer, or not to this user.
    #[error("the cluster's server has not answered: {0}")]
    Unreachable(String),
    /// The namespace has no streams.
    #[error(
        "nothing was found in the namespace `{0}`, which its first worker makes; check --namespace, that the server has \
         JetStream, and that this user may see it"
    )]
    Empty(String),
    /// There is no such dead job.
    #[error("there is no dead job {0}; `offloop cluster dead list` shows those that there are")]
    NotDead(Ulid),
    /// There is no such worker.
    #[error(
        "there is no worker `{0}`; `offloop cluster status` shows the names and ids of those that there are"
    )]
    NoWorker(String),
    /// Several workers have the name.
    #[error("{count} workers have the name `{name}`; use the id of one of them")]
    Ambiguous {
        /// The name.
        name: String,
        /// The number of workers.
        count: usize,
    },
    /// A dead job cannot be put into its queue again.
    #[error("job {id} cannot be put into its queue again: {reason}")]
    NotRetried {
        /// The job.
        id: Ulid,
        /// The reason.
        reason: String,
    },
    /// The system has refused something.
    #[error("the network's thread cannot be used: {0}")]
    System(#[from] io::Error),
}

/// An operator's connection to a cluster. All methods block until the server has answered, or its time has passed.
#[derive(Debug)]
pub struct Admin {
    store: Store,
    seals: Seals,
}

/// The contents of a namespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The namespace.
    pub namespace: String,
    /// The queues that hold jobs, or that a worker takes jobs from.
    pub queues: Vec<QueueStatus>,
    /// The workers that have told of themselves within the last 15 s.
    pub workers: Vec<WorkerStatus>,
    /// The number of dead jobs.
    pub dead: usize,
}

/// The contents of a queue. Jobs that run are included: their messages stay in the queue until they have ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueueStatus {
    /// The name.
    pub name: String,
    /// The number of jobs whose priority is above 0.
    pub high: u64,
    /// The number of jobs whose priority is 0.
    pub normal: u64,
    /// The number of jobs whose priority is below 0.
    pub low: u64,
    /// The number of jobs that workers run.
    pub running: u64,
    /// The number of jobs that workers could run at a time.
    pub slots: u64,
    /// The age of the oldest job, in seconds, by the server's clock.
    pub oldest: Option<f64>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// The machine.
    pub host: String,
    /// The id of its process.
    pub pid: u32,
    /// The version of its program, if it was given one.
    pub build: String,
    /// The queues that it takes jobs from, with their weights.
    pub queues: Vec<(String, u32)>,
    /// The labels that it was given.
    pub labels: Vec<String>,
    /// The number of jobs that it runs at most at a time.
    pub slots: u32,
    /// The jobs that it runs.
    pub running: Vec<RunningJob>,
    /// True if it takes no more jobs.
    pub draining: bool,
    /// The names of the tasks that it has.
    pub tasks: Vec<String>,
}

/// A job that a worker runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunningJob {
    /// The id.
    pub id: String,
    /// The name of the task.
    pub task: String,
}

/// A dead job: one that was given up, with its record.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadEntry {
    /// The id.
    pub id: String,
    /// The name of the task; empty if the record cannot be read.
    pub task: String,
    /// The queue that it was in.
    pub queue: String,
    /// The outcome that it had.
    pub reason: String,
    /// The time since then, in seconds, by the server's clock.
    pub age: f64,
}

impl Admin {
    /// Makes a connection to the cluster at this URL, or by this [`Connection`]. Does not wait for the server.
    ///
    /// # Errors
    ///
    /// The URL, the credentials or the namespace cannot be right.
    pub fn connect(connection: impl Into<Connection>) -> Result<Self, AdminError> {
        let mut connection = connection.into();
        "offloop-operator".clone_into(&mut connection.name);
        let seals = connection.seals.clone();
        let store = block_on(async move { Store::connect(&connection).await })??;
        Ok(Self { store, seals })
    }

    /// Runs a request on the network's thread.
    fn run<T: Send + 'static, F: Future<Output = Result<T, AdminError>> + Send + 'static>(
        &self,
        request: impl FnOnce(Store) -> F,
    ) -> Result<T, AdminError> {
        block_on(request(self.store.clone()))?
    }

    /// Returns what is in the namespace.
    ///
    /// # Errors
    ///
    /// The server has not answered, or has no such namespace.
    pub fn status(&self) -> Result<Status, AdminError> {
        self.run(|store| async move {
            let Some(queues) = store.queues().await else { return Err(silent(&store)) };
            let workers = store.workers().await.ok_or_else(|| silence(&store))?;
            let dead = store.dead().await.ok_or_else(|| silence(&store))?.len();
            let mut statuses: Vec<QueueStatus> = queues
                .into_iter()
                .map(|info| {
                    let [high, normal, low] = info.jobs;
                    let oldest = info.oldest.map(|age| age.as_secs_f64());
                    QueueStatus { name: info.queue, high, normal, low, running: 0, slots: 0, oldest }
                })
                .collect();
            for worker in &workers {
                for (name, _) in &worker.queues {
                    let at = statuses.iter().position(|it| it.name == *name).unwrap_or_else(|| {
                        let (name, zero) = (name.clone(), 0);
                        statuses.push(QueueStatus {
                            name,
                            high: zero,
                            normal: zero,
                            low: zero,
                            running: zero,
                            slots: zero,
                            oldest: None,
                        });
                        statuses.len() - 1
                    });
                    statuses[at].running += worker.running.len() as u64;
                    statuses[at].slots += u64::from(worker.slots);
                }
            }
            statuses.sort_by(|one, other| one.name.cmp(&other.name));
            let workers = workers.into_iter().map(worker_status).collect();
            Ok(Status { namespace: store.names().namespace().to_owned(), queues: statuses, workers, dead })
        })
    }

    /// Returns the dead jobs, the oldest first. They are kept for 30 days.
    ///
    /// # Errors
    ///
    /// The server has not answered, or has no such namespace.
    pub fn dead(&self) -> Result<Vec<DeadEntry>, AdminError> {
        self.run(|store| async move {
            let Some(dead) = store.dead().await else { return Err(silent(&store)) };
            Ok(dead.iter().map(dead_entry).collect())
        })
    }

    /// Puts a dead job into its queue again, as a new one. Returns its new id.
    ///
    /// A key that the job had is left out: with it the new job would be the old one, which has ended.
    ///
    /// # Errors
    ///
    /// There is no such dead job, its arguments are not stored any more, its queue is full, or the server has not
    /// answered.
    pub fn retry(&self, id: Ulid) -> Result<Ulid, AdminError> {
        let seals = self.seals.clone();
        self.run(move |store| async move {
            let Some(dead) = store.dead().await else { return Err(silent(&store)) };
            let dead = dead.into_iter().find(|job| job.id == id).ok_or(AdminError::NotDead(id))?;
            retry(&store, &seals, dead).await.map_err(|reason| AdminError::NotRetried { id, reason })
        })
    }

    /// Tells a worker to take no more jobs, and to end when those that run have ended. `worker` is its id or its name.
    /// Returns its id. Does not wait for its end.
    ///
    /// # Errors
    ///
    /// There is no such worker, several have the name, or it has not answered.
    pub fn drain(&self, worker: &str) -> Result<String, AdminError> {
        let name = worker.to_owned();
        self.run(|store| async move {
            let Some(workers) = store.workers().await else { return Err(silent(&store)) };
            let named: Vec<Ulid> = workers
                .iter()
                .filter(|it| it.name == name || it.worker.to_string() == name)
                .map(|it| it.worker)
                .collect();
            let id = match &named[..] {
                [id] => *id,
                [] => return Err(AdminError::NoWorker(name)),
                several => return Err(AdminError::Ambiguous { name, count: several.len() }),
            };
            match store.ask(id, &Ask::Drain, store.settings().answer).await {
                Reply::Answer(_) => Ok(id.to_string()),
                Reply::NoResponders => Err(AdminError::NoWorker(name)),
                Reply::Silent => Err(AdminError::Unreachable(format!("the worker {name} has not answered"))),
            }
        })
    }
}

fn worker_status(presence: Presence) -> WorkerStatus {
    let running = presence.running.into_iter();
    let mut tasks: Vec<_> = presence.tasks.into_iter().map(|(task, _)| task).collect();
    tasks.sort();
    WorkerStatus {
        id: presence.worker.to_string(),
        name: presence.name,
        host: presence.host,
        pid: presence.pid,
        build: presence.build,
        queues: presence.queues,
        labels: presence.labels,
        slots: presence.slots,
        running: running.map(|(id, task)| RunningJob { id: id.to_string(), task }).collect(),
        draining: presence.draining,
        tasks,
    }
}

fn dead_entry(dead: &DeadJob) -> DeadEntry {
    DeadEntry {
        id: dead.id.to_string(),
        task: Job::decode(&dead.record).map(|job| job.task).unwrap_or_default(),
        queue: dead.queue.clone(),
        reason: dead.reason.clone(),
        age: dead.age.as_secs_f64(),
    }
}

async fn retry(store: &Store, seals: &Seals, dead: DeadJob) -> Result<Ulid, String> {
    let mut job = Job::decode(&dead.record).map_err(|error| format!("its record: {error}"))?;
    let id = Ulid::new();
    if let Some(blob) = job.blob {
        let arguments = store.get_blob(dead.id, Part::DeadArguments, &blob).await;
        let arguments = arguments.map_err(|error: BlobError| format!("its arguments: {error}"))?;
        let ttl = store.settings().remember;
        let stored = store.try_put_blob(id, Part::Arguments, arguments.into(), ttl).await;
        job.blob = Some(stored.map_err(|reason| match reason {
            NotStored::Full => "the store has no room for its arguments; try again later",
            NotStored::Unknown => "the server has not taken its arguments; try again",
        })?);
    }
    (job.id, job.client, job.keyed) = (id, Ulid::new(), false);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    job.issued = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    job.queue.clone_from(&dead.queue);
    let record = seals.encode(store.names().namespace(), &job).map_err(|error| error.to_string())?;
    let headers = JobHeaders::of(&job);
    match store.publish(&dead.queue, Band::of(job.priority), id, Bytes::from(record), &headers).await {
        Publication::Stored(_) => {
            // If that fails, the copy stays with the dead jobs.
            store.forget_dead(dead.id).await;
            Ok(id)
        }
        Publication::Full => Err(format!("the queue `{}` is full; try again later", dead.queue)),
        Publication::Unknown => Err(format!(
            "the server has not answered, and may have taken it as job {id}; look at the queue before you try again"
        )),
    }
}

/// Returns the error of a server that has not answered as it should.
fn silence(store: &Store) -> AdminError {
    let link = store.link();
    let reason = link.borrow().reason.clone();
    AdminError::Unreachable(if reason.is_empty() { "the connection is there".to_owned() } else { reason })
}

/// Does the same. If the server is connected, it has no such namespace.
fn silent(store: &Store) -> AdminError {
    if store.link().borrow().is_up {
        AdminError::Empty(store.names().namespace().to_owned())
    } else {
        silence(store)
    }
}

//! Stores and asks for presence, questions between parties, streamed items, dead jobs, and the contents of queues.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::jobs::Receipt;
use super::{Failure, Store, header, read_answer, stored_at};
use crate::Ulid;
use crate::names::{Band, MESSAGE_ID, Names, Part, Place, QUEUE, REASON, SEQUENCE};
use crate::records::{Ask, Item, Job, Outcome, Presence, RecordError};

/// The number of messages that are read by one request.
const PAGE: usize = 256;

/// The reply to a question.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// The answer.
    Answer(Bytes),
    /// The server says that the party is not connected.
    NoResponders,
    /// There was no answer in time.
    Silent,
}

/// The questions to a party.
#[derive(Debug)]
pub(crate) struct Asked {
    store: Store,
    questions: Subscriber,
}

/// A question to this party.
#[derive(Debug)]
pub(crate) struct Question {
    store: Store,
    /// The question, or why it cannot be read.
    pub(crate) ask: Result<Ask, RecordError>,
    reply: Option<String>,
}

impl Asked {
    /// Waits for the next question. `None`: the connection was given up.
    pub(crate) async fn next(&mut self) -> Option<Question> {
        let raw = self.questions.next().await?;
        let reply = raw.reply.map(|reply| reply.to_string());
        Some(Question { store: self.store.clone(), ask: Ask::decode(&raw.payload), reply })
    }
}

impl Question {
    /// Answers, if an answer is wanted.
    pub(crate) async fn respond(self, answer: Vec<u8>) {
        if let Some(reply) = self.reply {
            self.store.send(reply, answer.into()).await;
        }
    }
}

/// The items of a client's jobs. Some may be missed.
#[derive(Debug)]
pub(crate) struct Items(Subscriber);

impl Items {
    /// Waits for the next item. Returns it with its job and its record. `None`: the connection was given up.
    pub(crate) async fn next(&mut self) -> Option<(Ulid, Item, Bytes)> {
        loop {
            let raw = self.0.next().await?;
            let job = Place::from_subject(raw.subject.as_str()).map(|place| place.job);
            if let (Some(job), Ok(item)) = (job, Item::decode(&raw.payload)) {
                return Some((job, item, raw.payload));
            }
        }
    }
}

/// A job that ended without being done, with its record.
#[derive(Debug, Clone)]
pub(crate) struct DeadJob {
    pub(crate) id: Ulid,
    pub(crate) queue: String,
    /// The end that it had.
    pub(crate) reason: String,
    /// The time since then, by the server's clock.
    pub(crate) age: Duration,
    pub(crate) record: Bytes,
}

/// The jobs of a queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueInfo {
    pub(crate) queue: String,
    /// The number of jobs in each band, those that run included.
    pub(crate) jobs: [u64; 3],
    /// The age of the oldest one, by the server's clock.
    pub(crate) oldest: Option<Duration>,
}

#[derive(Deserialize)]
struct SubjectsInfo {
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

impl Store {
    /// Tells about a worker. Returns whether it is stored.
    pub(crate) async fn announce(&self, presence: &Presence) -> bool {
        let Ok(record) = presence.encode() else { return false };
        self.put(self.names().worker(presence.worker), None, record.into()).await
    }

    /// Removes a worker that ends.
    pub(crate) async fn leave(&self, worker: Ulid) {
        self.purge(&self.names().workers(), &self.names().worker(worker)).await;
    }

    /// Returns the workers that are there. `None`: the server has not answered.
    pub(crate) async fn workers(&self) -> Option<Vec<Presence>> {
        let stored = self.scan(&self.names().workers(), &self.names().all_workers()).await?;
        Some(stored.iter().filter_map(|raw| Presence::decode(&raw.payload).ok()).collect())
    }

    /// Asks a party, and waits for at most `wait`.
    pub(crate) async fn ask(&self, party: Ulid, ask: &Ask, wait: Duration) -> Reply {
        let Ok(question) = ask.encode() else { return Reply::Silent };
        match self.request_within(wait, self.names().ask(party), None, question.into()).await {
            Ok(raw) => Reply::Answer(raw.payload),
            Err(Failure::Nobody) => Reply::NoResponders,
            Err(_) => Reply::Silent,
        }
    }

    /// Tells a party something, without an answer.
    pub(crate) async fn tell(&self, party: Ulid, ask: &Ask) {
        if let Ok(question) = ask.encode() {
            self.send(self.names().ask(party), question.into()).await;
        }
    }

    /// Begins to listen for questions to a party.
    pub(crate) async fn asked(&self, party: Ulid) -> Option<Asked> {
        let questions = self.subscribe(self.names().ask(party)).await?;
        Some(Asked { store: self.clone(), questions })
    }

    /// Sends the record of a streamed item to the reader.
    pub(crate) async fn send_item(&self, client: Ulid, job: Ulid, record: Bytes) {
        self.send(self.names().item(client, job), record).await;
    }

    /// Begins to listen for the items of a client's jobs.
    pub(crate) async fn items(&self, client: Ulid) -> Option<Items> {
        self.subscribe(self.names().items_of(client)).await.map(Items)
    }

    /// Stores a copy of a job that is dead, with its end. Returns whether that is certain.
    pub(crate) async fn bury(&self, job: Ulid, queue: &str, record: Bytes, outcome: Outcome) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, job.to_string());
        headers.insert(QUEUE, queue);
        headers.insert(REASON, format!("{outcome:?}"));
        self.put(self.names().dead_job(job), Some(headers), record).await
    }

    /// Returns the dead jobs, the oldest first. `None`: the server has not answered.
    pub(crate) async fn dead(&self) -> Option<Vec<DeadJob>> {
        let stored = self.scan(&self.names().dead(), &self.names().all_dead()).await?;
        let read = |raw: &async_nats::Message| {
            let job = Job::decode(&raw.payload).ok();
            let subject = header(raw, crate::names::SUBJECT)?;
            Some(DeadJob {
                id: subject.rsplit('.').next()?.parse().ok()?,
                queue: header(raw, QUEUE).map(str::to_owned).or(job.map(|job| job.queue)).unwrap_or_default(),
                reason: header(raw, REASON).unwrap_or_default().to_owned(),
                age: self.age(stored_at(raw)?),
                record: raw.payload.clone(),
            })
        };
        Some(stored.iter().filter_map(read).collect())
    }

    /// Forgets a dead job, which was put into its queue again for instance.
    pub(crate) async fn forget_dead(&self, job: Ulid) -> bool {
        let is_forgotten = self.purge(&self.names().dead(), &self.names().dead_job(job)).await;
        if is_forgotten {
            self.delete_blob(job, Part::DeadArguments).await;
        }
        is_forgotten
    }

    /// Returns what the queues hold. `None`: the server has not answered.
    pub(crate) async fn queues(&self) -> Option<Vec<QueueInfo>> {
        let stream = self.names().jobs();
        let filter = json!({ "subjects_filter": ">" });
        let info: SubjectsInfo = self.api(&format!("STREAM.INFO.{stream}"), &filter).await.ok()?;
        let mut queues: BTreeMap<String, QueueInfo> = BTreeMap::new();
        for (subject, count) in info.state.subjects.iter().flatten() {
            let Some((queue, band)) = Names::queue_of(subject) else { continue };
            let oldest = json!({ "next_by_subj": subject, "seq": 1, "batch": 1 });
            let oldest = self.get_batch(&stream, &oldest).await?.pop();
            let oldest = oldest.and_then(|raw| stored_at(&raw)).map(|time| self.age(time));
            let info = queues.entry(queue.to_owned()).or_default();
            queue.clone_into(&mut info.queue);
            info.jobs[Band::ALL.iter().position(|it| *it == band).unwrap_or(0)] = *count;
            info.oldest = info.oldest.max(oldest);
        }
        Some(queues.into_values().collect())
    }

    async fn put(&self, subject: String, headers: Option<HeaderMap>, payload: Bytes) -> bool {
        let answer = self.request(subject, headers, payload).await;
        answer.and_then(|message| read_answer::<Receipt>(&message)).is_ok()
    }

    pub(super) async fn purge(&self, stream: &str, subject: &str) -> bool {
        let purged: Result<Value, _> =
            self.api(&format!("STREAM.PURGE.{stream}"), &json!({ "filter": subject })).await;
        purged.is_ok()
    }

    /// Reads all messages of a stream whose subjects match, page by page.
    async fn scan(&self, stream: &str, pattern: &str) -> Option<Vec<async_nats::Message>> {
        let (mut all, mut from) = (Vec::new(), 1_u64);
        loop {
            let page = json!({ "next_by_subj": pattern, "seq": from, "batch": PAGE });
            let page = self.get_batch(stream, &page).await?;
            let Some(last) = page.last().and_then(|raw| header(raw, SEQUENCE)?.parse::<u64>().ok()) else {
                return Some(all);
            };
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Some(all);
            }
            from = last + 1;
        }
    }
}

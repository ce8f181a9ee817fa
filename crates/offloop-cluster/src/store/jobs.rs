//! The queue: publishing jobs, taking them, and letting go of them.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Message as Raw, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::{ApiError, Failure, Link, Store, header, is_full, nanos, read_answer};
use crate::Ulid;
use crate::names::{Band, MESSAGE_ID, Names, TASK};
use crate::protocol::{Publication, Revision};
use crate::records::Job;
use crate::trace::Trace;

/// The interval of the server's signs of life while it has nothing to deliver.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The facts about a job that are visible without its record.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobHeaders {
    pub(crate) task: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
}

impl JobHeaders {
    pub(crate) fn of(job: &Job) -> Self {
        let trace = Trace::of(&job.carry);
        Self {
            task: job.task.clone(),
            traceparent: trace.map(|it| it.parent.to_owned()),
            tracestate: trace.and_then(|it| it.state).map(str::to_owned),
        }
    }
}

/// The server's receipt for a stored message.
#[derive(Deserialize)]
pub(super) struct Receipt {
    pub(super) seq: Revision,
}

#[derive(Deserialize)]
struct Success {
    success: bool,
}

impl Store {
    /// Puts a job's message into its queue, under the job's id: within a minute, a second copy is dropped.
    pub(crate) async fn publish(
        &self,
        queue: &str,
        band: Band,
        id: Ulid,
        record: Bytes,
        headers: &JobHeaders,
    ) -> Publication {
        let mut map = HeaderMap::new();
        map.insert(MESSAGE_ID, id.to_string());
        let JobHeaders { task, traceparent, tracestate } = headers;
        let entries =
            [(TASK, Some(task)), ("traceparent", traceparent.as_ref()), ("tracestate", tracestate.as_ref())];
        for (name, value) in entries {
            // A value with the end of a line in it is left out: it is for those who watch only.
            if let Some(Ok(value)) = value.map(|it| it.parse::<async_nats::HeaderValue>()) {
                map.insert(name, value);
            }
        }
        let answer = self.request(self.names().job(queue, band), Some(map), record).await;
        match answer.and_then(|message| read_answer::<Receipt>(&message)) {
            Ok(receipt) => Publication::Stored(receipt.seq),
            Err(Failure::Refused(ApiError { err_code, .. })) if is_full(err_code) => Publication::Full,
            Err(_) => Publication::Unknown,
        }
    }

    /// Removes a job's message from its queue. Returns whether it is certain to be gone.
    pub(crate) async fn delete(&self, message: Revision) -> bool {
        let method = format!("STREAM.MSG.DELETE.{}", self.names().jobs());
        match self.api::<Success>(&method, &json!({ "seq": message, "no_erase": true })).await {
            Ok(answer) => answer.success,
            Err(Failure::Refused(error)) => {
                // There is none: 10037, 10043, or 10057 with the store's own words.
                let words = ["not found", "no message found"];
                matches!(error.err_code, 10037 | 10043)
                    || words.iter().any(|words| error.description.contains(words))
            }
            Err(_) => false,
        }
    }

    /// Prepares to take jobs from a band.
    pub(crate) fn pull(&self, queue: &str, band: Band) -> Pull {
        let consumer = Names::consumer(queue, band);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{consumer}", self.names().jobs());
        let (store, link) = (self.clone(), self.link());
        Pull { store, link, subject, inbox: None, asked: 0, silent_at: Instant::now(), ready: Vec::new() }
    }
}

/// One band of a queue, as a worker takes from it.
#[derive(Debug)]
pub(crate) struct Pull {
    store: Store,
    link: watch::Receiver<Link>,
    /// The subject of requests.
    subject: String,
    /// The subscription for what is delivered. `None` before the first request, and after one has failed.
    inbox: Option<(Subscriber, String)>,
    /// The number of messages that were asked for and have not come.
    asked: usize,
    /// The time until when the server has to show a sign of life, if something was asked for.
    silent_at: Instant,
    /// Messages that have come and were not taken.
    ready: Vec<Message>,
}

impl Pull {
    /// Returns the number of messages that were asked for and have not come.
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// Asks no longer. Messages that are under way are lost, and delivered again after a lease.
    pub(crate) fn forget(&mut self) {
        self.inbox = None;
        self.asked = 0;
    }

    /// Sees to it that `batch` messages are asked for, and returns those that are there as soon as there is one. Returns
    /// none if none has come after `expires`; if that is zero, as soon as the server says that it has none.
    ///
    /// It may be dropped at any time: what comes for it is returned by the next call. The server shows signs of life while
    /// it has nothing. If two are missing, or the connection was made anew, all is asked for again.
    pub(crate) async fn next(&mut self, batch: usize, expires: Duration) -> Vec<Message> {
        let answer = self.store.settings().answer;
        let deadline = Instant::now() + if expires.is_zero() { answer } else { expires };
        let mut was_asked = false;
        while self.ready.is_empty() && Instant::now() < deadline {
            if self.asked < batch {
                // All of a request for what is there now has been answered.
                if was_asked && expires.is_zero() {
                    break;
                }
                was_asked = true;
                if !self.ask(batch - self.asked, expires).await {
                    self.fail(deadline).await;
                    continue;
                }
            }
            let Some((inbox, _)) = &mut self.inbox else { break };
            let until = self.silent_at.min(deadline).into();
            tokio::select! {
                raw = inbox.next() => if !raw.is_some_and(|raw| self.take(raw)) {
                    self.fail(deadline).await;
                },
                // The server knows nothing of what the former connection asked for.
                _ = self.link.changed() => self.forget(),
                () = sleep_until(until) => if self.silent_at <= Instant::now() { self.forget() },
            }
        }
        // What is there already comes along.
        while let Some(Some(raw)) = self.inbox.as_mut().and_then(|(inbox, _)| inbox.next().now_or_never()) {
            if !self.take(raw) {
                self.forget();
            }
        }
        std::mem::take(&mut self.ready)
    }

    /// Asks for nothing for a while after a failure.
    async fn fail(&mut self, deadline: Instant) {
        self.forget();
        sleep_until(deadline.min(Instant::now() + self.store.settings().pause).into()).await;
    }

    /// Asks for messages. Returns whether the request has left.
    async fn ask(&mut self, count: usize, expires: Duration) -> bool {
        if !self.link.borrow_and_update().is_up {
            return false;
        }
        let (client, answer) = (self.store.0.client.clone(), self.store.settings().answer);
        if self.inbox.is_none() {
            let subject = client.new_inbox();
            let Some(inbox) = self.store.subscribe(subject.clone()).await else { return false };
            self.inbox = Some((inbox, subject));
        }
        let Some((_, inbox)) = &self.inbox else { return false };
        let mut request = json!({ "batch": count });
        let silence = if expires.is_zero() {
            request["no_wait"] = true.into();
            answer
        } else {
            request["expires"] = nanos(expires).into();
            if expires > HEARTBEAT * 2 {
                request["idle_heartbeat"] = nanos(HEARTBEAT).into();
                HEARTBEAT * 2 + HEARTBEAT / 2
            } else {
                expires + answer
            }
        };
        let sent = client.publish_with_reply(self.subject.clone(), inbox.clone(), request.to_string().into());
        self.asked += count;
        self.silent_at = Instant::now() + silence;
        matches!(timeout(answer, sent).await, Ok(Ok(())))
    }

    /// Takes what the server has sent: a message, or a word about a request. Returns false if nothing that was asked for
    /// will come.
    fn take(&mut self, raw: Raw) -> bool {
        self.silent_at = self.silent_at.max(Instant::now() + HEARTBEAT * 2 + HEARTBEAT / 2);
        let Some(status) = raw.status else {
            self.asked = self.asked.saturating_sub(1);
            self.ready.extend(Message::read(&self.store, raw));
            return true;
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            return true;
        }
        // Nothing was there (404), or the time of the request has passed (408). Else the server has ended all of them.
        let unfilled = header(&raw, "Nats-Pending-Messages").and_then(|it| it.parse().ok());
        self.asked = self.asked.saturating_sub(unfilled.unwrap_or(usize::MAX));
        matches!(status, StatusCode::NOT_FOUND | StatusCode::TIMEOUT)
    }
}

/// A message with a job that was delivered to this worker. It is held until it is acknowledged or given back, or for a
/// lease after the last sign of [`progress`](Self::progress).
#[derive(Debug, Clone)]
pub(crate) struct Message {
    store: Store,
    pub(crate) record: Bytes,
    pub(crate) headers: Option<HeaderMap>,
    /// The number of jobs that its band held beside it when it was delivered.
    pub(crate) pending: usize,
    /// When it was stored, in nanoseconds since 1970 by the server's clock.
    stored_at: u64,
    /// The subject that answers go to.
    reply: String,
}

impl Message {
    fn read(store: &Store, raw: Raw) -> Option<Self> {
        let reply = raw.reply?.to_string();
        // $JS.ACK.stream.consumer.deliveries.sequence.consumer sequence.time.pending, or with the domain and the account
        // before the stream and a token at the end.
        let tokens: Vec<&str> = reply.split('.').collect();
        let first = if tokens.len() > 9 { 4 } else { 2 };
        let number = |at: usize| tokens.get(first + at)?.parse::<u64>().ok();
        let stored_at = number(5)?;
        let pending = number(6).and_then(|it| it.try_into().ok()).unwrap_or(0);
        let (record, headers, store) = (raw.payload, raw.headers, store.clone());
        Some(Self { store, record, headers, pending, stored_at, reply })
    }

    /// Returns its age by the server's clock.
    pub(crate) fn age(&self) -> Duration {
        self.store.age(self.stored_at)
    }

    /// Returns a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Removes it from the queue.
    pub(crate) async fn ack(&self) {
        self.answer("+ACK".into()).await;
    }

    /// Gives it back, to be delivered again after this time.
    pub(crate) async fn nak(&self, delay: Duration) {
        let text = if delay.is_zero() {
            "-NAK".to_owned()
        } else {
            format!("-NAK {}", json!({ "delay": nanos(delay) }))
        };
        self.answer(text.into()).await;
    }

    /// Renews the lease.
    pub(crate) async fn progress(&self) {
        self.answer("+WPI".into()).await;
    }

    async fn answer(&self, text: Bytes) {
        self.store.send(self.reply.clone(), text).await;
    }
}

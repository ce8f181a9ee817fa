//! The queue: publishing jobs, taking them, and letting go of them.

use std::future::poll_fn;
use std::task::Poll;
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

/// The time without a sign of life after which the server may have lost a request: two signs are missing.
const SILENCE: Duration = Duration::from_secs(5);

/// The greatest number of inboxes of a band. If the server loses a request, there are others to ask with; if it is late, not
/// more than this number of requests wait there for the same job.
const INBOXES: usize = 3;

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
        Pull { store, link, epoch: 0, subject, inboxes: Vec::new(), ready: Vec::new() }
    }
}

/// One band of a queue, as a worker takes from it.
///
/// The server shows signs of life while it has nothing to deliver. If they stay out, either it has lost the request, or it
/// is late: it has many workers to serve. So the request is made again, and what the former one brings is taken too. The
/// messages do not say which request they answer, so both requests have inboxes of their own.
#[derive(Debug)]
pub(crate) struct Pull {
    store: Store,
    link: watch::Receiver<Link>,
    /// The number of the connection that the inboxes belong to.
    epoch: u64,
    /// The subject of requests.
    subject: String,
    /// The inboxes, [`INBOXES`] at most. One is enough unless the server is late.
    inboxes: Vec<Inbox>,
    /// Messages that have come and were not taken.
    ready: Vec<Message>,
}

/// A subscription for what is delivered, and the account of its requests.
#[derive(Debug)]
struct Inbox {
    messages: Subscriber,
    subject: String,
    /// The number of messages that were asked for and have not come.
    asked: usize,
    /// The time until when the server has to show a sign of life, if something was asked for. Later it is doubtful
    /// whether the server knows the requests.
    silent_at: Instant,
    /// The time when the server has ended all requests that it knows.
    over_at: Instant,
}

/// The fate of an inbox after a word of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    /// A request has failed. The account of the others is right.
    Failed,
    /// It is not known which requests are left.
    Lost,
}

impl Inbox {
    fn is_silent(&self) -> bool {
        self.silent_at <= Instant::now()
    }

    /// Returns the time when something changes if nothing is heard. `None`: nothing was asked for.
    fn next_change(&self) -> Option<Instant> {
        let next = if self.is_silent() { self.over_at } else { self.silent_at };
        (self.asked > 0).then_some(next)
    }

    /// Returns whether requests may be answered here, now or later.
    fn is_of_use(&self) -> bool {
        self.asked == 0 || !self.is_silent() || Instant::now() < self.over_at
    }

    /// Takes what the server has sent: a message, or a word about a request.
    fn take(&mut self, raw: Raw, store: &Store, ready: &mut Vec<Message>) -> Fate {
        self.silent_at = self.silent_at.max(Instant::now() + SILENCE);
        let Some(status) = raw.status else {
            self.asked = self.asked.saturating_sub(1);
            ready.extend(Message::read(store, raw));
            return Fate::Good;
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            return Fate::Good;
        }
        // The end of one request, which says how much of it is left.
        let unfilled = header(&raw, "Nats-Pending-Messages").and_then(|it| it.parse().ok());
        let Some(unfilled) = unfilled else { return Fate::Lost };
        self.asked = self.asked.saturating_sub(unfilled);
        // Nothing was there (404), or the time of the request has passed (408).
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::TIMEOUT) { Fate::Good } else { Fate::Failed }
    }
}

impl Pull {
    /// Returns whether messages may come that were asked for.
    pub(crate) fn is_open(&self) -> bool {
        self.inboxes.iter().any(|inbox| inbox.asked > 0)
    }

    /// Returns the number of messages that were asked for and have not come, without those whose requests the server may
    /// have lost.
    fn asked(&self) -> usize {
        self.inboxes.iter().filter(|inbox| !inbox.is_silent()).map(|inbox| inbox.asked).sum()
    }

    /// Sees to it that `batch` messages are asked for, and returns those that are there as soon as there is one. Returns
    /// none if none has come after `expires`; if that is zero, as soon as the server says that it has none.
    ///
    /// It may be dropped at any time: what comes for it is returned by the next call. If two signs of life are missing,
    /// messages are asked for again, and so they are if the connection was made anew. So more than `batch` may come, but
    /// not more than [`INBOXES`] times as many.
    pub(crate) async fn next(&mut self, batch: usize, expires: Duration) -> Vec<Message> {
        let answer = self.store.settings().answer;
        let deadline = Instant::now() + if expires.is_zero() { answer } else { expires };
        let mut was_asked = false;
        while self.take_all() && Instant::now() < deadline {
            self.inboxes.retain(Inbox::is_of_use);
            if self.asked() < batch && self.inbox_for_request().is_some() {
                // All of a request for what is there now has been answered.
                if was_asked && expires.is_zero() {
                    break;
                }
                was_asked = true;
                if !self.ask(batch - self.asked(), expires).await {
                    self.pause(deadline).await;
                    continue;
                }
            }
            let Some(change) = self.inboxes.iter().filter_map(Inbox::next_change).min() else { break };
            tokio::select! {
                biased;
                (at, raw) = next_of(&mut self.inboxes) => if self.take(at, raw) != Fate::Good {
                    self.pause(deadline).await;
                },
                _ = self.link.changed() => self.look_at_connection(),
                () = sleep_until(change.min(deadline).into()) => {}
            }
        }
        std::mem::take(&mut self.ready)
    }

    /// Takes all that is there, before it is judged which inbox was silent. Returns whether that is no message.
    fn take_all(&mut self) -> bool {
        while let Some((at, raw)) = next_of(&mut self.inboxes).now_or_never() {
            self.take(at, raw);
        }
        self.ready.is_empty()
    }

    fn take(&mut self, at: usize, raw: Option<Raw>) -> Fate {
        let inbox = &mut self.inboxes[at];
        let fate = raw.map_or(Fate::Lost, |raw| inbox.take(raw, &self.store, &mut self.ready));
        if fate == Fate::Lost {
            self.inboxes.remove(at);
        }
        fate
    }

    /// Asks for nothing for a while after a failure.
    async fn pause(&self, deadline: Instant) {
        sleep_until(deadline.min(Instant::now() + self.store.settings().pause).into()).await;
    }

    /// Forgets all requests if they were made over another connection than the present one: the server knows nothing of
    /// them. Messages that were under way are delivered again after a lease.
    fn look_at_connection(&mut self) {
        let epoch = self.link.borrow_and_update().epoch;
        if epoch != self.epoch {
            self.epoch = epoch;
            self.inboxes.clear();
        }
    }

    /// Returns the place of the inbox for the next request: one that is in use, or else one that waits for nothing, or a
    /// new one. `None`: there are as many that are silent as there may be.
    fn inbox_for_request(&self) -> Option<usize> {
        let place = |fits: fn(&Inbox) -> bool| self.inboxes.iter().position(fits);
        place(|inbox| inbox.asked > 0 && !inbox.is_silent())
            .or_else(|| place(|inbox| inbox.asked == 0))
            .or_else(|| (self.inboxes.len() < INBOXES).then_some(self.inboxes.len()))
    }

    /// Asks for messages. Returns whether the request has left.
    async fn ask(&mut self, count: usize, expires: Duration) -> bool {
        self.look_at_connection();
        if !self.link.borrow().is_up {
            return false;
        }
        let (client, answer) = (self.store.0.client.clone(), self.store.settings().answer);
        let Some(at) = self.inbox_for_request() else { return false };
        let now = Instant::now();
        if at == self.inboxes.len() {
            let subject = client.new_inbox();
            let Some(messages) = self.store.subscribe(subject.clone()).await else { return false };
            self.inboxes.push(Inbox { messages, subject, asked: 0, silent_at: now, over_at: now });
        }
        let mut request = json!({ "batch": count });
        let silence = if expires.is_zero() {
            request["no_wait"] = true.into();
            answer
        } else {
            request["expires"] = nanos(expires).into();
            if expires > HEARTBEAT * 2 {
                request["idle_heartbeat"] = nanos(HEARTBEAT).into();
                SILENCE
            } else {
                expires + answer
            }
        };
        let inbox = &mut self.inboxes[at];
        inbox.asked += count;
        inbox.silent_at = now + silence;
        inbox.over_at = inbox.over_at.max(now + expires + SILENCE);
        let request = request.to_string().into();
        let sent = client.publish_with_reply(self.subject.clone(), inbox.subject.clone(), request);
        matches!(timeout(answer, sent).await, Ok(Ok(())))
    }
}

/// Waits for what comes next to one of the inboxes. Returns its place, and what has come; `None` at the end of the
/// subscription.
async fn next_of(inboxes: &mut [Inbox]) -> (usize, Option<Raw>) {
    poll_fn(|context| {
        for (at, inbox) in inboxes.iter_mut().enumerate() {
            if let Poll::Ready(raw) = inbox.messages.poll_next_unpin(context) {
                return Poll::Ready((at, raw));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
impl Pull {
    /// Makes the server's signs of life late.
    pub(super) fn hear_nothing(&mut self) {
        self.inboxes.iter_mut().for_each(|inbox| inbox.silent_at = Instant::now());
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
    /// True if the server knows of no earlier delivery. After a crash it may have forgotten one.
    pub(crate) is_first: bool,
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
        let (is_first, stored_at) = (number(2)? == 1, number(5)?);
        let pending = number(6).and_then(|it| it.try_into().ok()).unwrap_or(0);
        let (record, headers, store) = (raw.payload, raw.headers, store.clone());
        Some(Self { store, record, headers, pending, is_first, stored_at, reply })
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

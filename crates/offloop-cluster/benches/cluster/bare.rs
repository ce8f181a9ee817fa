//! The least that a job costs with this protocol: a stored message, a stored claim, a stored end, and its announcement.
//! Without handles, deadlines, leases, takeovers and processes of jobs. The worker is a program of its own with two slots.

use std::process::{Command, Stdio};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::support::{Killed, PATIENCE, Servers};
use crate::{BURST, Effort, Results, bursts, round_trips};

const SLOTS: usize = 2;

/// The size of a record, which is about that of a job without arguments.
const RECORD: usize = 200;

pub(crate) fn measure(effort: Effort) -> Results {
    let servers = Servers::start(1);
    let runtime = runtime();
    let mut party = runtime.block_on(Submitter::connect(&servers.url()));
    let own = std::env::current_exe().expect("the path of this program");
    let worker = Command::new(own).args(["--bare-worker", &servers.url()]).stdin(Stdio::null()).spawn();
    let _worker = Killed(worker.expect("the worker"));
    Results::from([
        ("trip", round_trips(effort, || runtime.block_on(party.run(1)))),
        ("burst", bursts(effort, || runtime.block_on(party.run(BURST)))),
    ])
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

struct Submitter {
    client: Client,
    events: Subscriber,
    next: usize,
}

impl Submitter {
    /// Lays the streams out.
    async fn connect(url: &str) -> Self {
        let client = async_nats::connect(url).await.expect("a connection");
        let jobs = json!({
            "name": "JOBS", "subjects": ["job"], "retention": "workqueue", "storage": "file", "duplicate_window":
            60_000_000_000u64,
        });
        let states = json!({
            "name": "STATE", "subjects": ["state.*"], "storage": "file", "max_msgs_per_subject": 1, "allow_msg_ttl": true,
            "republish": { "src": "state.*", "dest": "event.{{wildcard(1)}}" },
        });
        for stream in [jobs, states] {
            let name = stream["name"].as_str().expect("a text");
            request(&client, format!("$JS.API.STREAM.CREATE.{name}"), None, stream.to_string()).await;
        }
        let consumer = json!({
            "stream_name": "JOBS", "config": { "durable_name": "c", "ack_policy": "explicit", "max_ack_pending": -1 },
        });
        request(&client, "$JS.API.CONSUMER.CREATE.JOBS.c".to_owned(), None, consumer.to_string()).await;
        let events = client.subscribe("event.*").await.expect("a subscription");
        Self { client, events, next: 0 }
    }

    /// Submits jobs and waits until all have ended.
    async fn run(&mut self, count: usize) {
        let stored = (0..count).map(|at| {
            let id = self.next + at;
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.to_string());
            let mut record = vec![b' '; RECORD];
            record[..8].copy_from_slice(&id.to_be_bytes());
            request(&self.client, "job".to_owned(), Some(headers), record)
        });
        let ended = async {
            let mut left = count;
            while left > 0 {
                let event = timeout(PATIENCE, self.events.next()).await.ok().flatten().expect("an event");
                left -= usize::from(event.payload.starts_with(b"end"));
            }
        };
        tokio::join!(join_all(stored), ended);
        self.next += count;
    }
}

/// The worker: claims jobs and ends them.
pub(crate) fn work(url: &str) {
    runtime().block_on(async {
        let client = async_nats::connect(url).await.expect("a connection");
        join_all((0..SLOTS).map(|_| slot(&client))).await;
    });
}

async fn slot(client: &Client) {
    let inbox = client.new_inbox();
    let mut jobs = client.subscribe(inbox.clone()).await.expect("a subscription");
    loop {
        let wanted = Bytes::from_static(b"{\"batch\":1,\"expires\":30000000000}");
        let next = client.publish_with_reply("$JS.API.CONSUMER.MSG.NEXT.JOBS.c", inbox.clone(), wanted).await;
        next.expect("a connection");
        let Some(job) = jobs.next().await else { return };
        // Without a reply it is a word about the request.
        let Some(reply) = job.reply.filter(|_| job.status.is_none()) else { continue };
        let id: [u8; 8] = job.payload[..8].try_into().expect("eight bytes");
        let place = format!("state.{}", u64::from_be_bytes(id));
        let mut revision = 0;
        for word in ["claim", "end"] {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
            headers.insert("Nats-TTL", "86400s");
            let mut record = vec![b' '; RECORD];
            record[..word.len()].copy_from_slice(word.as_bytes());
            let receipt = request(client, place.clone(), Some(headers), record).await;
            revision = receipt["seq"].as_u64().expect("a receipt");
        }
        client.publish(reply, Bytes::from_static(b"+ACK")).await.expect("a connection");
    }
}

async fn request(
    client: &Client,
    subject: String,
    headers: Option<HeaderMap>,
    body: impl Into<Bytes>,
) -> Value {
    let request = async_nats::Request::new().payload(body.into()).timeout(Some(Duration::from_secs(60)));
    let request = if let Some(headers) = headers { request.headers(headers) } else { request };
    let answer = client.send_request(subject, request).await.expect("an answer");
    serde_json::from_slice(&answer.payload).expect("an answer in JSON")
}

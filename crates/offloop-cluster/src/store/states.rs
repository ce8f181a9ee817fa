//! The states of jobs: compare-and-set writes, reads, and announcements.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{HeaderMap, Message as Raw, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::jobs::Receipt;
use super::{ApiError, Failure, Store, header, read_answer, stored_at};
use crate::Ulid;
use crate::names::{EXPECTED, MARKER, Place, SEQUENCE, SUBJECT, TTL};
use crate::protocol::{Revision, Written};
use crate::records::{End, Outcome, State};

/// The number of states that are read by one request.
const BATCH: usize = 256;

/// A state record as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredBytes {
    pub(crate) revision: Revision,
    pub(crate) bytes: Bytes,
    /// Its age by the server's clock.
    pub(crate) age: Duration,
}

/// The announcement of a state.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    pub(crate) place: Place,
    pub(crate) revision: Revision,
    pub(crate) bytes: Bytes,
}

/// The announcements of the states of a client's jobs. Some may be missed, when the connection is lost or the client is
/// slow.
#[derive(Debug)]
pub(crate) struct Events(Subscriber);

impl Events {
    /// Waits for the next one. `None`: the connection was given up.
    pub(crate) async fn next(&mut self) -> Option<Announcement> {
        loop {
            let raw = self.0.next().await?;
            let place = Place::from_subject(raw.subject.as_str());
            let revision = header(&raw, SEQUENCE).and_then(|it| it.parse().ok());
            if let (Some(place), Some(revision)) = (place, revision) {
                return Some(Announcement { place, revision, bytes: state_of(raw) });
            }
        }
    }
}

/// Returns the state of a message. The server's mark of a state that is forgotten stands for an end.
fn state_of(raw: Raw) -> Bytes {
    if header(&raw, MARKER).is_none() {
        return raw.payload;
    }
    let end = End { by: Ulid::default(), attempt: 0, outcome: Outcome::Forgotten, body: Vec::new() };
    State::End(Box::new(end)).encode().map(Bytes::from).unwrap_or_default()
}

impl Store {
    /// Stores a state if the last revision is still the expected one; 0 stands for none. The server forgets it after `ttl`.
    /// For as long as states are remembered after that, the job has [an end](Outcome::Forgotten) that says so.
    pub(crate) async fn write(
        &self,
        place: &Place,
        expected: Revision,
        state: Vec<u8>,
        ttl: Duration,
    ) -> Written {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, expected.to_string());
        headers.insert(TTL, format!("{}s", ttl.as_secs().max(1)));
        let answer = self.request(self.names().state(place), Some(headers), state.into()).await;
        match answer.and_then(|message| read_answer::<Receipt>(&message)) {
            Ok(receipt) => Written::Stored(receipt.seq),
            // The last sequence is another one.
            Err(Failure::Refused(ApiError { err_code: 10071 | 10164, .. })) => Written::Refused,
            Err(_) => Written::Unknown,
        }
    }

    /// Reads a state. The outer `None`: there was no answer.
    pub(crate) async fn read(&self, place: &Place) -> Option<Option<StoredBytes>> {
        let subject = self.names().state(place);
        let subject = format!("$JS.API.DIRECT.GET.{}.{subject}", self.names().states());
        let raw = self.request(subject, None, Bytes::new()).await.ok()?;
        if raw.status == Some(StatusCode::NOT_FOUND) {
            return Some(None);
        }
        self.stored(raw).map(Some)
    }

    /// Reads the states of many jobs, in few requests. `None`: an answer was missing.
    pub(crate) async fn read_many(&self, places: &[Place]) -> Option<Vec<Option<StoredBytes>>> {
        let mut found: HashMap<Place, StoredBytes> = HashMap::new();
        for places in places.chunks(BATCH) {
            let subjects: Vec<String> = places.iter().map(|place| self.names().state(place)).collect();
            let request = json!({ "multi_last": subjects, "batch": subjects.len() });
            for raw in self.get_batch(&self.names().states(), &request).await? {
                let place = header(&raw, SUBJECT).and_then(Place::from_subject);
                if let (Some(place), Some(stored)) = (place, self.stored(raw)) {
                    found.insert(place, stored);
                }
            }
        }
        Some(places.iter().map(|place| found.remove(place)).collect())
    }

    /// Looks for the state of a job whose client is not known.
    pub(crate) async fn find(&self, job: Ulid) -> Option<Option<(Place, StoredBytes)>> {
        let request = json!({ "multi_last": [self.names().state_of_any(job)], "batch": 1 });
        let raw = self.get_batch(&self.names().states(), &request).await?.pop();
        Some(raw.and_then(|raw| {
            let place = header(&raw, SUBJECT).and_then(Place::from_subject)?;
            Some((place, self.stored(raw)?))
        }))
    }

    /// Begins to listen for the announcements of a client's jobs.
    pub(crate) async fn events(&self, client: Ulid) -> Option<Events> {
        self.subscribe(self.names().events_of(client)).await.map(Events)
    }

    /// Begins to listen for the announcements about one job, of any client or none.
    pub(crate) async fn events_about(&self, job: Ulid) -> Option<Events> {
        self.subscribe(self.names().events_about(job)).await.map(Events)
    }

    pub(super) async fn subscribe(&self, subject: String) -> Option<Subscriber> {
        timeout(self.settings().answer, self.0.client.subscribe(subject)).await.ok()?.ok()
    }

    fn stored(&self, raw: Raw) -> Option<StoredBytes> {
        let revision = header(&raw, SEQUENCE)?.parse().ok()?;
        let age = self.age(stored_at(&raw)?);
        Some(StoredBytes { revision, bytes: state_of(raw), age })
    }

    /// Reads several messages of a stream by one request. Each has [`Settings::answer`](crate::protocol::Settings::answer) to
    /// come after the one before. `None`: the answer is not whole.
    pub(super) async fn get_batch(&self, stream: &str, request: &Value) -> Option<Vec<Raw>> {
        let (client, wait) = (&self.0.client, self.settings().answer);
        let begin = async {
            let mut link = self.0.link.clone();
            link.wait_for(|link| link.is_up).await.ok()?;
            let inbox = client.new_inbox();
            let answers = client.subscribe(inbox.clone()).await.ok()?;
            let subject = format!("$JS.API.DIRECT.GET.{stream}");
            client.publish_with_reply(subject, inbox, request.to_string().into()).await.ok()?;
            Some(answers)
        };
        let mut answers = timeout(wait, begin).await.ok()??;
        let mut found = Vec::new();
        loop {
            let raw = timeout(wait, answers.next()).await.ok()??;
            match raw.status {
                // The end of the batch, or there is nothing.
                Some(StatusCode::NOT_FOUND) => return Some(found),
                Some(status) if status.as_u16() == 204 => return Some(found),
                Some(status) if status.as_u16() >= 400 => return None,
                _ => found.push(raw),
            }
        }
    }
}

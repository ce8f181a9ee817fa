//! The delivery of messages, by the blocking connectors, with growing pauses between attempts.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument;

use super::store::{Counts, Message, Outcome, Store, StoredMessage};
use crate::failure::Failure;
use crate::places::{Places, Task};
use crate::service::Service;
use crate::systems::{Call, CallError, Via};

/// The messages that are delivered at a time.
const AT_ONCE: usize = 8;

/// The time that an attempt may take: longer than any function.
const TIME_LIMIT: Duration = Duration::from_secs(65);

/// The time after which the delivery looks for messages, whatever it knows.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The file of messages, and its calls in the place for blocking work.
#[derive(Debug)]
pub struct Messages {
    /// The one writer. Its lock is held during a call alone, on the thread that blocks.
    store: Arc<Mutex<Store>>,
    /// Notified when a message may be due.
    changed: Notify,
}

impl Messages {
    /// Opens the file. Messages whose delivery was cut off are due again. Blocks.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let store = Store::open(path)?;
        let again = store.hand_back()?;
        if again > 0 {
            tracing::info!(again, "messages whose delivery was cut off are delivered again");
        }
        Ok(Self { store: Arc::new(Mutex::new(store)), changed: Notify::new() })
    }

    /// Accepts a message. It is on the disk when this returns.
    pub async fn accept(&self, places: &Places, message: Message) -> Result<(), Failure> {
        self.ask(places, "messages.accept", move |store| store.accept(&message)).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Returns a message.
    pub async fn read(&self, places: &Places, id: String) -> Result<Option<StoredMessage>, Failure> {
        self.ask(places, "messages.read", move |store| store.read(&id)).await
    }

    /// Counts the messages.
    pub async fn count(&self, places: &Places) -> Result<Counts, Failure> {
        self.ask(places, "messages.count", Store::count).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        places: &Places,
        name: &'static str,
        question: impl FnOnce(&Store) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = Arc::clone(&self.store);
        let ask = move || question(&store.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = places.run(Task::Messages(name), ask).await?;
        answer.map_err(|error| Failure::Internal(format!("the file of messages: {error}")))
    }
}

/// The task that delivers.
#[derive(Debug)]
pub struct Delivery {
    service: Arc<Service>,
    attempts: JoinSet<()>,
}

impl Delivery {
    /// Prepares the delivery.
    pub fn new(service: Arc<Service>) -> Self {
        Self { service, attempts: JoinSet::new() }
    }

    /// Delivers until the service stops. Then lets the attempts under way end for `patience`, and hands the others back.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>, patience: Duration) {
        while !*stop.borrow_and_update() {
            let pause = self.begin_attempts().await.unwrap_or_else(|failure| {
                tracing::error!(%failure, "the messages cannot be read: this is tried again");
                Duration::from_secs(1)
            });
            let changed = self.service.messages.changed.notified();
            tokio::select! {
                () = changed => {}
                Some(_) = self.attempts.join_next() => {}
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => {}
            }
        }
        let all = async { while self.attempts.join_next().await.is_some() {} };
        if timeout(patience, all).await.is_err() {
            // Dropping an attempt cancels its call on the server.
            self.attempts.shutdown().await;
        }
        let messages = &self.service.messages;
        match messages.ask(&self.service.places, "messages.hand_back", Store::hand_back).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "messages are handed back to the next start"),
            Err(failure) => tracing::error!(%failure, "messages are handed back by the next start"),
        }
    }

    /// Begins to deliver what is due, as far as there is room. Returns the time until there is more.
    async fn begin_attempts(&mut self) -> Result<Duration, Failure> {
        while self.attempts.try_join_next().is_some() {}
        let room = AT_ONCE.saturating_sub(self.attempts.len());
        if room == 0 {
            return Ok(LOOK_EVERY);
        }
        let (messages, places) = (&self.service.messages, &self.service.places);
        let due = messages.ask(places, "messages.take_due", move |store| store.take_due(room)).await?;
        for message in due {
            let span = tracing::info_span!("delivery", request = message.request, id = message.id);
            self.attempts.spawn(attempt(Arc::clone(&self.service), message).instrument(span));
        }
        if self.attempts.len() >= AT_ONCE {
            return Ok(LOOK_EVERY);
        }
        let next = messages.ask(places, "messages.next_due", Store::next_due).await?;
        Ok(next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY))
    }
}

/// Makes one attempt, and notes what it has come to.
async fn attempt(service: Arc<Service>, message: Message) {
    let Message { id, system, function, arguments, .. } = message;
    let outcome = match service.systems.named(&system) {
        Some(system) => {
            let call = Call { function, arguments, message: Some(id.clone()) };
            match system.call(&service.places, Via::Blocking, call, TIME_LIMIT).await {
                Ok(answer) => Outcome::Delivered(answer.result),
                Err(Failure::Call(CallError::Function(error))) => Outcome::Failed(error),
                Err(failure) => Outcome::TryAgain(failure.to_string()),
            }
        }
        None => Outcome::Failed(format!("there is no system `{system}`")),
    };
    tracing::info!(id, ?outcome, "an attempt to deliver has ended");
    let outcome = Arc::new(outcome);
    // It must not be lost, or the message would be delivered again without need.
    for pause in [100, 500, 2000] {
        let (id, outcome) = (id.clone(), Arc::clone(&outcome));
        let note = move |store: &Store| store.end_attempt(&id, &outcome);
        match service.messages.ask(&service.places, "messages.end_attempt", note).await {
            Ok(()) => return,
            Err(failure) => tracing::error!(%failure, "the end of an attempt was not written"),
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

//! The file of messages: an SQLite database with one writer. Each call blocks until the disk has what it has written.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::systems::Function;

/// The attempts after which a message has failed. A system may be down for eight hours before.
const MAX_ATTEMPTS: u32 = 1000;

/// The pause after the first attempt. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    -- A commit returns when the disk has it.
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS messages (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        request TEXT NOT NULL,
        system TEXT NOT NULL,
        function TEXT NOT NULL,
        args TEXT NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0,
        error TEXT,
        result TEXT
    );
    CREATE INDEX IF NOT EXISTS messages_by_state ON messages (state, due);
";

/// The state of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// On the disk, and not delivered yet.
    Accepted,
    /// An attempt is under way.
    Delivering,
    /// The function has returned.
    Delivered,
    /// The function has failed, or all attempts have.
    Failed,
}

impl MessageState {
    const ALL: [Self; 4] = [Self::Accepted, Self::Delivering, Self::Delivered, Self::Failed];

    /// Returns the name, as in the interface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivering => "delivering",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// The number of messages in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; 4]);

impl Counts {
    /// Returns each state with its number.
    pub fn iter(&self) -> impl Iterator<Item = (MessageState, u64)> + '_ {
        MessageState::ALL.into_iter().zip(self.0)
    }
}

/// A message that is to be delivered.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its identity, for clients and for the system.
    pub id: String,
    /// The id of the request that has sent it.
    pub request: String,
    /// The system that it goes to.
    pub system: String,
    /// The function to call.
    pub function: Function,
    /// Its arguments.
    pub arguments: Vec<Value>,
}

/// A message as clients see it.
#[derive(Debug, Serialize)]
pub struct StoredMessage {
    id: String,
    state: MessageState,
    attempts: u32,
    error: Option<String>,
    result: Value,
}

/// What an attempt has come to.
#[derive(Debug)]
pub enum Outcome {
    /// The function has returned this.
    Delivered(Value),
    /// The function has failed, which is final.
    Failed(String),
    /// The system was not reached, or has not answered.
    TryAgain(String),
}

/// The database.
#[derive(Debug)]
pub struct Store {
    database: Connection,
}

impl Store {
    /// Opens the file, or makes it. Messages whose delivery was cut off are due again.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let database = Connection::open(path)?;
        database.busy_timeout(Duration::from_secs(10))?;
        database.execute_batch(SCHEMA)?;
        Ok(Self { database })
    }

    /// Adds a message. When this returns, it is on the disk.
    pub fn accept(&self, message: &Message) -> rusqlite::Result<()> {
        let arguments = Value::from(message.arguments.clone()).to_string();
        let Message { id, request, system, function, .. } = message;
        self.database
            .prepare(
                "INSERT INTO messages (id, request, system, function, args, state)
                 VALUES (?, ?, ?, ?, ?, 'accepted')",
            )?
            .execute(params![id, request, system, function.name(), arguments])?;
        Ok(())
    }

    /// Returns a message.
    pub fn read(&self, id: &str) -> rusqlite::Result<Option<StoredMessage>> {
        let row = |row: &Row<'_>| {
            let (state, result): (String, Option<String>) = (row.get(0)?, row.get(3)?);
            Ok(StoredMessage {
                id: id.to_owned(),
                state: MessageState::named(&state).unwrap_or(MessageState::Accepted),
                attempts: row.get(1)?,
                error: row.get(2)?,
                result: result.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
            })
        };
        self.database
            .prepare("SELECT state, attempts, error, result FROM messages WHERE id = ?")?
            .query_row([id], row)
            .optional()
    }

    /// Counts the messages.
    pub fn count(&self) -> rusqlite::Result<Counts> {
        let mut counts = Counts::default();
        let mut statement = self.database.prepare("SELECT state, count(*) FROM messages GROUP BY state")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let state: String = row.get(0)?;
            if let Some(state) = MessageState::named(&state) {
                let count: i64 = row.get(1)?;
                counts.0[state as usize] = count.unsigned_abs();
            }
        }
        Ok(counts)
    }

    /// Takes up to `limit` messages that are due, and marks them as being delivered. Each with its attempts.
    pub fn take_due(&self, limit: usize) -> rusqlite::Result<Vec<Message>> {
        let mut statement = self.database.prepare(
            "UPDATE messages SET state = 'delivering', attempts = attempts + 1
             WHERE number IN (
                 SELECT number FROM messages WHERE state = 'accepted' AND due <= ?
                 ORDER BY due, number LIMIT ?
             )
             RETURNING id, request, system, function, args",
        )?;
        let rows = statement.query_map(params![now(), i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            let (function, arguments): (String, String) = (row.get(3)?, row.get(4)?);
            Ok(Message {
                id: row.get(0)?,
                request: row.get(1)?,
                system: row.get(2)?,
                // A file of a newer version may have other functions: the call of `running` is harmless.
                function: Function::named(&function).unwrap_or(Function::Running),
                arguments: serde_json::from_str(&arguments).unwrap_or_default(),
            })
        })?;
        rows.collect()
    }

    /// Returns the time until the next message is due.
    pub fn next_due(&self) -> rusqlite::Result<Option<Duration>> {
        let due: Option<f64> = self
            .database
            .prepare("SELECT min(due) FROM messages WHERE state = 'accepted'")?
            .query_row([], |row| row.get(0))?;
        Ok(due.map(|due| Duration::try_from_secs_f64(due - now()).unwrap_or_default()))
    }

    /// Notes what an attempt has come to.
    pub fn end_attempt(&self, id: &str, outcome: &Outcome) -> rusqlite::Result<()> {
        match outcome {
            Outcome::Delivered(result) => {
                self.end(id, MessageState::Delivered, None, Some(&result.to_string()))
            }
            Outcome::Failed(error) => self.end(id, MessageState::Failed, Some(error), None),
            Outcome::TryAgain(error) => {
                let attempts: u32 = self
                    .database
                    .prepare("SELECT attempts FROM messages WHERE id = ?")?
                    .query_row([id], |row| row.get(0))?;
                if attempts >= MAX_ATTEMPTS {
                    return self.end(id, MessageState::Failed, Some(error), None);
                }
                let due = now() + pause_after(attempts).as_secs_f64();
                self.database
                    .prepare("UPDATE messages SET state = 'accepted', due = ?, error = ? WHERE id = ?")?
                    .execute(params![due, error, id])?;
                Ok(())
            }
        }
    }

    fn end(
        &self,
        id: &str,
        state: MessageState,
        error: Option<&str>,
        result: Option<&str>,
    ) -> rusqlite::Result<()> {
        self.database
            .prepare("UPDATE messages SET state = ?, error = ?, result = ? WHERE id = ?")?
            .execute(params![state.name(), error, result, id])?;
        Ok(())
    }

    /// Makes messages whose delivery was cut off due again. Returns their number.
    ///
    /// The attempt does not count, since nobody knows what has become of it.
    pub fn hand_back(&self) -> rusqlite::Result<usize> {
        self.database.execute(
            "UPDATE messages SET state = 'accepted', attempts = attempts - 1, due = 0
             WHERE state = 'delivering'",
            [],
        )
    }
}

fn pause_after(attempts: u32) -> Duration {
    let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

/// Returns the time in seconds since 1970. It is compared with times of earlier starts of the service.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

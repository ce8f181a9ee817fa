//! The audit log: one line a request, appended by file calls that block, in batches that each reach the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::Notify;

use crate::places::{Places, Task};

/// The lines that may wait. Beyond that, requests wait for room: no line is dropped.
const ROOM: usize = 10_000;

/// The file, and the lines that wait for the next batch.
#[derive(Debug)]
pub struct Audit {
    file: Arc<File>,
    waiting: Mutex<Vec<String>>,
    /// Notified when a line was added.
    added: Notify,
    /// Notified when there is room again.
    room: Notify,
}

impl Audit {
    /// Opens the file. Blocks.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file: Arc::new(file),
            waiting: Mutex::default(),
            added: Notify::new(),
            room: Notify::new(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the next batch. Does not block.
    pub fn record(&self, line: &Value) {
        self.waiting().push(format!("{line}\n"));
        self.added.notify_one();
    }

    /// Waits until there is room for another line.
    pub async fn room(&self) {
        while self.waiting().len() >= ROOM {
            self.room.notified().await;
        }
    }

    /// Writes batches until the future is dropped.
    pub async fn write(&self, places: &Places) {
        loop {
            self.added.notified().await;
            self.write_batch(places).await;
        }
    }

    /// Writes the lines that wait. What cannot be written is reported, and stays for the next batch.
    pub async fn write_batch(&self, places: &Places) {
        let lines = std::mem::take(&mut *self.waiting());
        self.room.notify_waiters();
        if lines.is_empty() {
            return;
        }
        let (file, lines) = (Arc::clone(&self.file), Arc::new(lines));
        let batch = Arc::clone(&lines);
        let written = places.run(Task::File("audit.append"), move || append(&file, &batch)).await;
        let problem = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.to_string(),
        };
        tracing::error!(problem, lines = lines.len(), "the audit log was not written");
        self.waiting().splice(..0, lines.iter().cloned());
    }

    /// Writes what is left, on this thread. Blocks.
    pub fn finish(&self) -> io::Result<()> {
        append(&self.file, &std::mem::take(&mut *self.waiting()))
    }
}

/// Appends lines, and waits until the disk has them. Blocks.
fn append(mut file: &File, lines: &[String]) -> io::Result<()> {
    file.write_all(lines.concat().as_bytes())?;
    file.sync_data()
}

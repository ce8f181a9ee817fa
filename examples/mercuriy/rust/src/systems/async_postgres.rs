//! PostgreSQL's async connector, to compare the blocking one with. It runs on the event loop itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_postgres::{CancelToken, Client, NoTls};

use super::connection::{Call, CallError};
use super::postgres::{FUNCTIONS, call_error, config, statement, with_cause};

/// The most connections. Each serves one call at a time: a slow one would hold up those behind it.
const CONNECTIONS: usize = 16;

pub(super) struct AsyncPostgres {
    url: String,
    permits: Semaphore,
    idle: Mutex<Vec<Client>>,
}

impl AsyncPostgres {
    pub(super) fn new(url: String) -> Self {
        Self { url, permits: Semaphore::new(CONNECTIONS), idle: Mutex::default() }
    }

    /// Calls a function. If the future is dropped, the query is cancelled on the server.
    pub(super) async fn call(&self, call: &Call, cancelled: &AtomicU64) -> Result<Value, CallError> {
        let _permit = self.permits.acquire().await.map_err(|_| CallError::Cancelled)?;
        let client = self.connection().await?;
        let guard = CancelOnDrop { token: Some(client.cancel_token()), cancelled };
        let arguments = Value::from(call.arguments.clone()).to_string();
        let row = client.query_one(&statement(call), &[&arguments]).await;
        guard.disarm();
        let row = row.map_err(call_error);
        if matches!(row, Ok(_) | Err(CallError::Function(_))) {
            self.idle().push(client);
        }
        let row = row?;
        let text: &str = row.try_get(0).map_err(call_error)?;
        serde_json::from_str(text).map_err(|error| CallError::Function(error.to_string()))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> Result<Client, CallError> {
        while let Some(client) = { self.idle().pop() } {
            if !client.is_closed() {
                return Ok(client);
            }
        }
        let down = |error: tokio_postgres::Error| CallError::Down(with_cause(&error));
        let (client, connection) = config(&self.url).map_err(down)?.connect(NoTls).await.map_err(down)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = with_cause(&error), "a connection to PostgreSQL has ended");
            }
        });
        client.batch_execute(FUNCTIONS).await.map_err(down)?;
        Ok(client)
    }
}

/// Cancels a query whose caller has gone.
struct CancelOnDrop<'a> {
    token: Option<CancelToken>,
    cancelled: &'a AtomicU64,
}

impl CancelOnDrop<'_> {
    fn disarm(mut self) {
        self.token = None;
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let Some(token) = self.token.take() else { return };
        self.cancelled.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            if let Err(error) = token.cancel_query(NoTls).await {
                tracing::warn!(error = with_cause(&error), "the server could not be asked to cancel a query");
            }
        });
    }
}

//! One system: the same call, in each of the four places.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use offloop::{Handle, OnFull, ShutdownReport, StatePool, ThreadPool, job, prepare, run_in_executor};
use serde_json::Value;

use super::Built;
use super::async_postgres::AsyncPostgres;
use super::cancel::{Cancellation, REPEAT};
use super::connection::{Address, BoxedConnection, Call, CallError, Canceller};
use super::in_process::{self, Order};
use super::shelf::Shelf;
use crate::failure::Failure;
use crate::logs;
use crate::mode::Mode;
use crate::places::{CancelOnDrop, Places, on_blocking_thread};

/// The most connections to one system.
const CONNECTIONS: usize = 16;

/// The most calls that wait for a connection.
const QUEUE: usize = 1000;

/// A system whose functions can be called.
pub struct System {
    name: &'static str,
    address: Address,
    stand_in: Option<&'static str>,
    /// Written by each call: whether it has reached the server.
    is_up: AtomicBool,
    /// Counts the calls that were ended on the server.
    cancelled: Arc<AtomicU64>,
    /// One connection a thread, for [`Mode::Offloop`] and [`Mode::Cluster`].
    pool: StatePool<BoxedConnection>,
    /// The connections for the other modes that use threads.
    shelf: Arc<Shelf>,
    async_connector: Option<AsyncPostgres>,
}

/// The connector that a call goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The one that blocks.
    Blocking,
    /// The async one.
    Async,
}

/// The result of a call.
#[derive(Debug)]
pub struct Answer {
    /// What the function has returned.
    pub result: Value,
    /// The thread, the process or the connection that has called it.
    pub worker: String,
}

impl System {
    pub(super) fn new(name: &'static str, address: Address, stand_in: Option<&'static str>) -> Built<Self> {
        let connect_to = address.clone();
        let pool = ThreadPool::builder()
            .name(name)
            .max_workers(CONNECTIONS)
            .queue_capacity(QUEUE)
            .on_full(OnFull::Reject)
            .build_with_worker_state(move || connect_to.connect())?;
        let async_connector = match &address {
            Address::Postgres(url) => Some(AsyncPostgres::new(url.clone())),
            _ => None,
        };
        Ok(Self {
            name,
            stand_in,
            is_up: AtomicBool::new(true),
            cancelled: Arc::default(),
            pool,
            shelf: Arc::new(Shelf::new(address.clone())),
            async_connector,
            address,
        })
    }

    /// Returns the system's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the address that the connections are opened to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the system that takes this one's place.
    pub fn stand_in(&self) -> Option<&'static str> {
        self.stand_in
    }

    /// Returns whether there is an async connector.
    pub fn has_async_connector(&self) -> bool {
        self.async_connector.is_some()
    }

    /// Returns whether the last call has reached the server.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Returns the number of calls that were ended on the server, by their time or because their client had gone.
    pub fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Calls a function, for at most `limit`. If the future is dropped, the call is ended on the server.
    pub async fn call(
        &self,
        places: &Places,
        via: Via,
        call: Call,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let result = match (via, places.mode()) {
            (Via::Async, _) => self.call_async(&call, limit).await,
            (Via::Blocking, Mode::Loop) => self.call_here(&call, limit),
            (Via::Blocking, Mode::Threads) => self.call_on_tokio_thread(call, limit).await,
            (Via::Blocking, Mode::Processes) => self.call_in_procspawn(places, &call, limit).await,
            (Via::Blocking, Mode::Offloop | Mode::Cluster) => self.call_on_offloop(call, limit).await,
        };
        match &result {
            Ok(_) | Err(Failure::Call(CallError::Function(_))) => self.is_up.store(true, Ordering::Relaxed),
            Err(Failure::Call(CallError::Down(_) | CallError::Lost(_))) => {
                self.is_up.store(false, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        result
    }

    /// Calls the function on a thread of offloop's, which owns its connection. A cancel, by the limit or by the handle's
    /// drop, reaches the server through the hook.
    async fn call_on_offloop(&self, call: Call, limit: Duration) -> Result<Answer, Failure> {
        let (address, cancelled) = (self.address.clone(), Arc::clone(&self.cancelled));
        let name = format!("{}.{}", self.name, call.function.name());
        let job = move |connection: &mut BoxedConnection| {
            if connection.is_lost() {
                *connection = address.connect()?;
            }
            let result = with_hook(connection, &cancelled, |connection| connection.call(&call));
            let is_usable = matches!(result, Ok(_) | Err(CallError::Function(_)));
            if job::is_cancelled() || !is_usable {
                job::discard_worker_state();
            }
            result.map(|result| Answer { result, worker: thread_name() })
        };
        let job = prepare(job).name(name).request(logs::current_request());
        let handle = run_in_executor(&self.pool, job).timeout(limit);
        Ok(handle.await??)
    }

    /// Calls the function on one of tokio's threads for blocking calls.
    async fn call_on_tokio_thread(&self, call: Call, limit: Duration) -> Result<Answer, Failure> {
        let (connections, cancellation) = (Arc::clone(&self.shelf), Arc::new(Cancellation::default()));
        let guard = self.cancel_on_drop(&cancellation);
        let work = on_blocking_thread(move || connections.call(&call, &cancellation));
        let result = tokio::time::timeout(limit, work).await.map_err(|_| Failure::Timeout(limit))??;
        guard.disarm();
        Ok(Answer { result: result?, worker: "spawn_blocking".to_owned() })
    }

    fn cancel_on_drop(&self, cancellation: &Arc<Cancellation>) -> CancelOnDrop {
        let (cancellation, cancelled) = (Arc::clone(cancellation), Arc::clone(&self.cancelled));
        CancelOnDrop::new(move || {
            if cancellation.cancel() {
                cancelled.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Calls the function in a process of procspawn. A process that has to end its call is killed; its connection closes.
    async fn call_in_procspawn(
        &self,
        places: &Places,
        call: &Call,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let order = Order::new(&self.address, call);
        let cancelled = Arc::clone(&self.cancelled);
        let on_kill = move || {
            cancelled.fetch_add(1, Ordering::Relaxed);
        };
        let run = places.processes().run(order, in_process::perform, limit, on_kill);
        let (result, pid) = run.await??;
        let result = serde_json::from_str(&result).map_err(|error| Failure::Internal(error.to_string()))?;
        Ok(Answer { result, worker: format!("process {pid}") })
    }

    /// Calls the function at once, and blocks this thread until it has returned: what `/health` then waits for.
    ///
    /// Some drivers contain a runtime, and panic on a thread of another one. So a second thread calls, and this one waits.
    fn call_here(&self, call: &Call, limit: Duration) -> Result<Answer, Failure> {
        let cancellation = Cancellation::default();
        let (send, receive) = mpsc::channel();
        thread::scope(|scope| {
            let call = || drop(send.send(self.shelf.call(call, &cancellation)));
            thread::Builder::new()
                .spawn_scoped(scope, call)
                .map_err(|error| Failure::Internal(format!("no thread was started: {error}")))?;
            let result = receive.recv_timeout(limit).map_err(|_| {
                if cancellation.cancel() {
                    self.cancelled.fetch_add(1, Ordering::Relaxed);
                }
                Failure::Timeout(limit)
            })?;
            Ok(Answer { result: result?, worker: "the event loop".to_owned() })
        })
    }

    async fn call_async(&self, call: &Call, limit: Duration) -> Result<Answer, Failure> {
        let Some(connector) = &self.async_connector else { return Err(Failure::NoAsyncConnector) };
        let call = connector.call(call, &self.cancelled);
        let result = tokio::time::timeout(limit, call).await.map_err(|_| Failure::Timeout(limit))??;
        Ok(Answer { result, worker: "tokio-postgres".to_owned() })
    }

    pub(super) fn shut_down(&self, drain: Duration) -> Handle<ShutdownReport> {
        let connections = Arc::clone(&self.shelf);
        // Closing a connection may block.
        offloop::run(move || connections.clear()).detach();
        self.pool.shutdown(drain)
    }
}

/// Calls `work`. If the job is cancelled meanwhile, asks the server to end the call, until it has ended.
fn with_hook<T>(
    connection: &mut BoxedConnection,
    cancelled: &Arc<AtomicU64>,
    work: impl FnOnce(&mut BoxedConnection) -> Result<T, CallError>,
) -> Result<T, CallError> {
    let end_call = connection.canceller()?;
    let count = Arc::clone(cancelled);
    let (end, ended) = mpsc::channel::<()>();
    let hook = job::on_cancel(move || {
        count.fetch_add(1, Ordering::Relaxed);
        cancel_until(&ended, &end_call);
    });
    let result = work(connection);
    drop(end);
    drop(hook);
    result
}

/// Asks the server to cancel until the call has ended. Once is not enough: a server ignores a cancel that comes before
/// the call.
fn cancel_until(ended: &mpsc::Receiver<()>, canceller: &Canceller) {
    loop {
        canceller();
        match ended.recv_timeout(REPEAT) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
}

fn thread_name() -> String {
    thread::current().name().unwrap_or("a thread").to_owned()
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System").field("name", &self.name).finish_non_exhaustive()
    }
}

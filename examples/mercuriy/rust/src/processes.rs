//! The processes of `procspawn`, the nearest that Rust has to a standard process pool.
//!
//! What it lacks is done here by hand: it blocks, so each call also occupies one of tokio's threads; it cannot be
//! cancelled from another thread, so that thread looks every few milliseconds; and it reports no progress.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::places::on_blocking_thread;

/// The time between two looks whether the caller has gone.
const LOOK: Duration = Duration::from_millis(20);

type Pool = Result<procspawn::Pool, String>;

/// A pool of processes, which is started when it is first needed.
#[derive(Debug, Default)]
pub struct Processes {
    pool: Arc<OnceLock<Pool>>,
}

impl Processes {
    /// Calls `function` in a process, for at most `limit`. The process is killed if that passes, and if the future is
    /// dropped; then `on_kill` is called.
    pub fn run<A, R>(
        &self,
        argument: A,
        function: fn(A) -> R,
        limit: Duration,
        on_kill: impl FnOnce() + Send + 'static,
    ) -> impl Future<Output = Result<R, Failure>> + Send + 'static
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let pool = Arc::clone(&self.pool);
        let caller = Caller::default();
        let has_gone = Arc::clone(&caller.has_gone);
        let deadline = Instant::now() + limit;
        let work = on_blocking_thread(move || {
            let pool = pool.get_or_init(start).as_ref();
            let pool = pool.map_err(|error| Failure::Internal(error.clone()))?;
            let mut handle = pool.spawn(argument, function);
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match handle.join_timeout(LOOK.min(left)) {
                    Ok(result) => return Ok(result),
                    Err(error) if !error.is_timeout() => return Err(failure(&error)),
                    Err(_) if left.is_zero() || has_gone.load(Ordering::Relaxed) => {
                        // An error means that it has ended already.
                        let _ = handle.kill();
                        on_kill();
                        return Err(Failure::Timeout(limit));
                    }
                    Err(_) => {}
                }
            }
        });
        async move {
            let _caller = caller;
            work.await?
        }
    }

    /// Kills the processes.
    pub fn kill(&self) {
        if let Some(Ok(pool)) = self.pool.get() {
            pool.kill();
        }
    }
}

/// Sets a flag when the caller has dropped its future.
#[derive(Default)]
struct Caller {
    has_gone: Arc<AtomicBool>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.has_gone.store(true, Ordering::Relaxed);
    }
}

fn start() -> Pool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    procspawn::Pool::new(cores).map_err(|error| format!("procspawn's pool was not started: {error}"))
}

fn failure(error: &procspawn::SpawnError) -> Failure {
    match error.panic_info() {
        Some(panic) => Failure::Internal(panic.message().to_owned()),
        None => Failure::WorkerDied(error.to_string()),
    }
}

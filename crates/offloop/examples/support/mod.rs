//! A heartbeat that measures how late its event loop is. The examples share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A task that beats every millisecond on the current tokio runtime and records the longest delay.
///
/// tokio's timers count whole milliseconds, so on a free loop the delay is about one millisecond.
pub(crate) struct Heartbeat {
    worst_nanos: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

const BEAT: Duration = Duration::from_millis(1);

impl Heartbeat {
    pub(crate) fn start() -> Self {
        let worst_nanos = Arc::new(AtomicU64::new(0));
        let worst = Arc::clone(&worst_nanos);
        let task = tokio::spawn(async move {
            loop {
                let due = Instant::now() + BEAT;
                tokio::time::sleep_until(due.into()).await;
                let late = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
                worst.fetch_max(late, Ordering::Relaxed);
            }
        });
        Self { worst_nanos, task }
    }

    /// Awaits `work`. Returns its result, the time that it took, and the greatest lateness of the loop during that
    /// time.
    pub(crate) async fn measure<T>(&self, work: impl Future<Output = T>) -> (T, Duration, Duration) {
        // Let a beat pass before and after, so that each delay is attributed to the work that caused it.
        tokio::time::sleep(3 * BEAT).await;
        self.worst_nanos.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let result = work.await;
        let took = began.elapsed();
        tokio::time::sleep(3 * BEAT).await;
        (result, took, Duration::from_nanos(self.worst_nanos.load(Ordering::Relaxed)))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Formats a time in milliseconds with one decimal, for a column.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

//! The lateness of the event loop.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time between two beats.
const BEAT: Duration = Duration::from_millis(10);

/// The time for which a lateness is remembered.
const WINDOW: Duration = Duration::from_secs(1);

/// Notices how late the loop is.
#[derive(Debug, Default)]
pub struct Heartbeat {
    /// When each beat of the last second came, and by how much it was late.
    late: Mutex<VecDeque<(Instant, Duration)>>,
}

impl Heartbeat {
    fn late(&self) -> MutexGuard<'_, VecDeque<(Instant, Duration)>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beats until the future is dropped.
    pub async fn beat(&self) {
        loop {
            let due = Instant::now() + BEAT;
            tokio::time::sleep_until(due.into()).await;
            let now = Instant::now();
            let mut late = self.late();
            late.push_back((now, now.saturating_duration_since(due)));
            while late.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
                late.pop_front();
            }
        }
    }

    /// Returns the greatest lateness of the last second.
    pub fn worst(&self) -> Duration {
        let now = Instant::now();
        let recent = |(at, late): &(Instant, Duration)| (now.duration_since(*at) <= WINDOW).then_some(*late);
        self.late().iter().filter_map(recent).max().unwrap_or_default()
    }
}

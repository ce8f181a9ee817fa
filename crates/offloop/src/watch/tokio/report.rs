//! Reports stalls to the callback and to the program's subscriber, and counts them by place.

use std::collections::HashMap;

use super::stall::{Stall, TaskOrigin};
use crate::base::panic;

/// The number of places that are counted apart. Further ones are counted as one place.
const PLACES: usize = 1024;

/// A task and the name of the thread that it has stalled.
type StallPlace = (Option<TaskOrigin>, Option<String>);

pub(super) struct Reporter {
    on_stall: Box<dyn FnMut(&Stall) + Send>,
    pub(super) wants_stacks: bool,
    /// The number of stalls that each place has had.
    seen: HashMap<StallPlace, u64>,
}

impl Reporter {
    pub(super) fn new(on_stall: Box<dyn FnMut(&Stall) + Send>, wants_stacks: bool) -> Self {
        Self { on_stall, wants_stacks, seen: HashMap::new() }
    }

    /// Counts a stall that has just begun, and reports it.
    pub(super) fn begin(&mut self, stall: &mut Stall) {
        let mut place = (stall.task, stall.thread.as_ref().map(|thread| thread.name.clone()));
        if self.seen.len() >= PLACES && !self.seen.contains_key(&place) {
            place = (None, None);
        }
        let seen = self.seen.entry(place).or_default();
        *seen += 1;
        stall.seen = *seen;
        self.report(stall);
    }

    /// Reports a stall that was counted before.
    pub(super) fn report(&mut self, stall: &Stall) {
        #[cfg(feature = "tracing")]
        log(stall);
        panic::drop_quietly(panic::catch(|| (self.on_stall)(stall)));
    }
}

#[cfg(feature = "tracing")]
fn log(stall: &Stall) {
    use crate::base::activity::Activity;

    if !stall.is_logged() {
        return;
    }
    let thread = stall.thread.as_ref();
    // The subscriber is code of the user and may panic.
    panic::drop_quietly(panic::catch(|| {
        tracing::warn!(
            target: "offloop::watch",
            phase = ?stall.phase,
            lasted_ms = u64::try_from(stall.lasted.as_millis()).unwrap_or(u64::MAX),
            thread = thread.map(|thread| thread.name.as_str()),
            thread_id = thread.map(|thread| thread.id),
            worker = stall.worker,
            task = stall.task.and_then(|task| task.name),
            spawned_at = stall.task.map(|task| tracing::field::display(task.spawned_at)),
            cpu = stall.cpu,
            activity = stall.activity.map(Activity::as_str),
            seen = stall.seen,
            "{stall:#}"
        );
    }));
}

//! Who is told of a stall, and how often its place had one.

use std::collections::HashMap;

use super::slot::Place;
use super::stall::Stall;
use crate::base::panic;

/// More places than this are counted as one.
const PLACES: usize = 1024;

type Where = (Option<Place>, Option<String>);

pub(super) struct Reporter {
    on: Box<dyn FnMut(&Stall) + Send>,
    pub(super) wants_stacks: bool,
    seen: HashMap<Where, u64>,
}

impl Reporter {
    pub(super) fn new(on: Box<dyn FnMut(&Stall) + Send>, wants_stacks: bool) -> Self {
        Self { on, wants_stacks, seen: HashMap::new() }
    }

    /// Counts it, and tells of it.
    pub(super) fn begin(&mut self, stall: &mut Stall) {
        let mut place = (stall.task, stall.thread.as_ref().map(|thread| thread.name.clone()));
        if self.seen.len() >= PLACES && !self.seen.contains_key(&place) {
            place = (None, None);
        }
        let seen = self.seen.entry(place).or_default();
        *seen += 1;
        stall.seen = *seen;
        self.tell(stall);
    }

    pub(super) fn tell(&mut self, stall: &Stall) {
        #[cfg(feature = "tracing")]
        log(stall);
        panic::drop_quietly(panic::catch(|| (self.on)(stall)));
    }
}

#[cfg(feature = "tracing")]
fn log(stall: &Stall) {
    if !stall.is_worth_a_line() {
        return;
    }
    let thread = stall.thread.as_ref();
    // Whoever subscribes is the user's code, and may panic.
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
            activity = ?stall.activity,
            seen = stall.seen,
            "{stall:#}"
        );
    }));
}

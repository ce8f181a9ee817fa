//! Reports stalls to the callback and to the program's subscriber, and counts them by place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "tracing")]
use std::time::Instant;

use super::stall::{Stall, TaskOrigin};
use crate::base::panic;
use crate::base::stack::StackFrame;
use crate::base::starvation::StarvationMeter;
use crate::watch::record::{LoopRecord, StallPlace};

/// The number of places that are counted apart. Further ones are counted as one place.
const PLACES: usize = 1024;

/// The time for which a place has no second line in the log.
#[cfg(feature = "tracing")]
const QUIET: Duration = Duration::from_secs(60);

/// A task, the name of the thread that it has stalled, and the function in which it has.
type PlaceKey = (Option<TaskOrigin>, Option<String>, Option<String>);

pub(super) struct Reporter {
    on_stall: Box<dyn FnMut(&Stall) + Send>,
    pub(super) wants_stacks: bool,
    /// What the live view shows of the runtime.
    pub(super) record: Arc<LoopRecord>,
    /// The number of the last stall.
    numbered: u64,
    /// Measures for how long the stalled threads had no core.
    pub(super) meter: StarvationMeter,
    places: HashMap<PlaceKey, Place>,
    /// The times at which the runtime was late for want of a core.
    #[cfg(feature = "tracing")]
    starvation: Unlogged,
}

/// The stalls at one place.
#[derive(Default)]
struct Place {
    /// The number of stalls.
    seen: u64,
    #[cfg(feature = "tracing")]
    unlogged: Unlogged,
}

/// Stalls at one place since there was a line about it.
#[cfg(feature = "tracing")]
#[derive(Default)]
struct Unlogged {
    /// The time of that line.
    logged: Option<Instant>,
    count: u64,
    total: Duration,
    longest: Duration,
}

#[cfg(feature = "tracing")]
impl Unlogged {
    /// Returns whether there may be a line now, and records that there is one if so.
    fn log(&mut self) -> bool {
        let may = self.logged.is_none_or(|logged| logged.elapsed() >= QUIET);
        if may {
            self.logged = Some(Instant::now());
        }
        may
    }

    fn add(&mut self, lasted: Duration) {
        self.count += 1;
        self.total += lasted;
        self.longest = self.longest.max(lasted);
    }

    /// Takes the stalls since the last line, if there are any and it is time for a line: at once if `is_last`.
    fn take_summary(&mut self, is_last: bool) -> Option<Self> {
        if self.count == 0 || !(is_last || self.log()) {
            return None;
        }
        let kept = Self { logged: self.logged, ..Self::default() };
        Some(std::mem::replace(self, kept))
    }
}

impl Reporter {
    pub(super) fn new(
        on_stall: Box<dyn FnMut(&Stall) + Send>,
        wants_stacks: bool,
        record: Arc<LoopRecord>,
    ) -> Self {
        Self {
            on_stall,
            wants_stacks,
            record,
            numbered: 0,
            meter: StarvationMeter::new(),
            places: HashMap::new(),
            #[cfg(feature = "tracing")]
            starvation: Unlogged::default(),
        }
    }

    fn place(&mut self, stall: &Stall) -> &mut Place {
        let thread = stall.thread.as_ref().map(|thread| thread.name.clone());
        let mut place = (stall.task, thread, stall.own_frame().and_then(|frame| frame.function.clone()));
        if self.places.len() >= PLACES && !self.places.contains_key(&place) {
            place = (None, None, None);
        }
        self.places.entry(place).or_default()
    }

    /// Counts a stall that has just begun, and reports it.
    pub(super) fn begin(&mut self, stall: &mut Stall) {
        let place = self.place(stall);
        place.seen += 1;
        stall.seen = place.seen;
        self.numbered += 1;
        stall.number = self.numbered;
        self.record.count_stall();
        self.report(stall);
    }

    /// Reports a stall that was counted before.
    pub(super) fn report(&mut self, stall: &mut Stall) {
        let new = self.record.stalled_at(stall.number, place_of(stall), stall.lasted);
        self.record.add_stalled(new);
        #[cfg(feature = "tracing")]
        self.log(stall);
        panic::drop_quietly(panic::catch(|| (self.on_stall)(stall)));
    }

    /// Records that the runtime was late by this time for want of a core. That is no stall.
    pub(super) fn starved(&mut self, late: Duration, starved: Duration) {
        self.record.note_starved(starved);
        #[cfg(feature = "tracing")]
        if self.starvation.log() {
            log::starved(late, starved);
        } else {
            self.starvation.add(starved);
        }
        #[cfg(not(feature = "tracing"))]
        let _ = late;
    }

    /// Logs what had no line of its own, where a minute has passed; all of it if `is_last`. Called at each look.
    pub(super) fn summarize(&mut self, is_last: bool) {
        self.meter.refresh();
        #[cfg(feature = "tracing")]
        {
            for (place, stalls) in &mut self.places {
                if let Some(summary) = stalls.unlogged.take_summary(is_last) {
                    log::summary(place, &summary);
                }
            }
            if let Some(summary) = self.starvation.take_summary(is_last) {
                log::starvation(&summary);
            }
        }
        #[cfg(not(feature = "tracing"))]
        let _ = is_last;
    }

    /// Logs a stall unless its place has had a line within a minute.
    #[cfg(feature = "tracing")]
    fn log(&mut self, stall: &mut Stall) {
        use super::stall::StallPhase;

        let unlogged = &mut self.place(stall).unlogged;
        if stall.phase == StallPhase::Over {
            if !stall.is_logged {
                unlogged.add(stall.lasted);
            }
        } else if unlogged.log() {
            stall.is_logged = true;
            log::stall(stall);
        }
    }
}

/// Returns the place of a stall for the live view: the line, if the stack has one, else the task, else the thread.
fn place_of(stall: &Stall) -> StallPlace {
    let place = match (stall.own_frame(), stall.task) {
        (Some(StackFrame { function: Some(function), file, line, .. }), _) => {
            let place = StallPlace::new(function.clone());
            match file {
                Some(file) => place.line(file.clone(), *line),
                None => place,
            }
        }
        (_, Some(TaskOrigin { name, spawned_at })) => {
            let task = name.map_or_else(|| "a task".to_owned(), |name| format!("task `{name}`"));
            StallPlace::new(task).line(spawned_at.file(), Some(spawned_at.line()))
        }
        _ => match (&stall.thread, stall.worker) {
            (Some(thread), _) => StallPlace::new(format!("a task on the thread {}", thread.name)),
            (None, Some(_)) => StallPlace::new("a task on a worker"),
            (None, None) => StallPlace::new("a task"),
        },
    };
    let place = place.advice(stall.advice());
    match stall.activity {
        Some(activity) => place.activity(activity),
        None => place,
    }
}

/// The records for the program's subscriber, which is code of the user and may panic.
#[cfg(feature = "tracing")]
mod log {
    use std::time::Duration;

    use super::{PlaceKey, Unlogged};
    use crate::base::activity::Activity;
    use crate::base::panic;
    use crate::watch::tokio::stall::Stall;

    pub(super) fn stall(stall: &Stall) {
        let thread = stall.thread.as_ref();
        panic::drop_quietly(panic::catch(|| {
            tracing::warn!(
                target: "offloop::watch",
                phase = ?stall.phase,
                lasted_ms = millis(stall.lasted),
                starved_ms = millis(stall.starved),
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

    pub(super) fn summary((task, thread, function): &PlaceKey, stalls: &Unlogged) {
        let Unlogged { count, total, longest, .. } = *stalls;
        panic::drop_quietly(panic::catch(|| {
            tracing::warn!(
                target: "offloop::watch",
                thread = thread.as_deref(),
                task = task.and_then(|task| task.name),
                spawned_at = task.map(|task| tracing::field::display(task.spawned_at)),
                function = function.as_deref(),
                count,
                total_ms = millis(total),
                longest_ms = millis(longest),
                "{count} stalls here have ended since the last line, of {total:.0?} in total, the longest of {longest:.0?}"
            );
        }));
    }

    pub(super) fn starved(late: Duration, starved: Duration) {
        panic::drop_quietly(panic::catch(|| {
            tracing::warn!(
                target: "offloop::watch",
                late_ms = millis(late),
                starved_ms = millis(starved),
                "a thread of the runtime was late by {late:.0?} and had no core for {starved:.0?} of it: other threads \
                 and programs had them, or a quota was used up; no task is to blame"
            );
        }));
    }

    pub(super) fn starvation(times: &Unlogged) {
        let Unlogged { count, total, longest, .. } = *times;
        panic::drop_quietly(panic::catch(|| {
            tracing::warn!(
                target: "offloop::watch",
                count,
                starved_ms = millis(total),
                longest_ms = millis(longest),
                "threads of the runtime had no core {count} more times, for {total:.0?} in total, for {longest:.0?} at most"
            );
        }));
    }

    fn millis(time: Duration) -> u64 {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }
}

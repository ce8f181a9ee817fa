//! The record of one watched loop, for those who look: how late its beats are, and which places have stalled it.
//!
//! The loop and its watch write it, without waiting for a reader. A reader needs neither the loop nor an interpreter.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use crate::base::activity::Activity;
use crate::base::clock::Moment;
use crate::base::fork::{OwnProcess, PerProcess};
use crate::base::histogram::Recorder;

/// The number of places that are counted apart. Further ones are counted as one place.
const PLACES: usize = 1024;

/// The number of the last stalls that may still be reported to have taken longer, or to have been elsewhere.
const OPEN: usize = 16;

/// The name of the place that stands for all that are not counted apart.
const ELSEWHERE: &str = "(other places)";

/// A place in a program that stalls an event loop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a place is counted by `Pulse::stalled_at`"]
pub struct StallPlace {
    at: Spot,
    activity: Option<Activity>,
    advice: Option<Cow<'static, str>>,
}

/// The part of a place by which it is told from others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    pub(crate) function: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

impl StallPlace {
    /// Makes a place that is known by its function, its task or its call.
    pub fn new(function: impl Into<String>) -> Self {
        Self { at: Spot { function: function.into(), file: None, line: None }, activity: None, advice: None }
    }

    /// Sets the source file and the line, counted from 1.
    pub fn line(mut self, file: impl Into<String>, line: Option<u32>) -> Self {
        self.at.file = Some(file.into());
        self.at.line = line;
        self
    }

    /// Sets what the loop's thread does there.
    pub fn activity(mut self, activity: Activity) -> Self {
        self.activity = Some(activity);
        self
    }

    /// Sets a sentence that says what mends it.
    pub fn advice(mut self, sentence: impl Into<Cow<'static, str>>) -> Self {
        self.advice = Some(sentence.into());
        self
    }
}

/// The stalls at one place.
#[derive(Debug, Clone)]
pub(crate) struct PlaceRecord {
    pub(crate) stalls: u64,
    pub(crate) stalled: Duration,
    pub(crate) longest: Duration,
    pub(crate) last: SystemTime,
    pub(crate) activity: Option<Activity>,
    pub(crate) advice: Option<Cow<'static, str>>,
}

#[derive(Debug, Default)]
struct Places {
    all: HashMap<Spot, PlaceRecord>,
    /// The last stalls, the oldest first: the number, the place and the time that was counted for each.
    open: VecDeque<(u64, Spot, Duration)>,
}

impl Places {
    /// Counts a stall, in place of what was counted for the same one before. Returns the time that is new.
    fn put(&mut self, number: u64, place: StallPlace, lasted: Duration) -> Duration {
        let StallPlace { mut at, activity, advice } = place;
        if self.all.len() >= PLACES && !self.all.contains_key(&at) {
            at = Spot { function: ELSEWHERE.to_owned(), file: None, line: None };
        }
        let before = self.open.iter().position(|(open, ..)| *open == number);
        let before = before.and_then(|index| self.open.remove(index));
        let mut counted = Duration::ZERO;
        if let Some((_, spot, time)) = before {
            counted = time;
            if let Some(record) = self.all.get_mut(&spot) {
                record.stalls -= 1;
                record.stalled = record.stalled.saturating_sub(time);
                if record.stalls == 0 && spot != at {
                    self.all.remove(&spot);
                }
            }
        }
        let record = self.all.entry(at.clone()).or_insert_with(|| PlaceRecord {
            stalls: 0,
            stalled: Duration::ZERO,
            longest: Duration::ZERO,
            last: SystemTime::UNIX_EPOCH,
            activity: None,
            advice: None,
        });
        record.stalls += 1;
        record.stalled += lasted;
        record.longest = record.longest.max(lasted);
        record.last = SystemTime::now();
        record.activity = activity.or(record.activity);
        record.advice = advice.or(record.advice.take());
        self.open.push_back((number, at, lasted));
        if self.open.len() > OPEN {
            self.open.pop_front();
        }
        lasted.saturating_sub(counted)
    }
}

/// The record of one loop. A forked child cannot read its parent's places.
pub(crate) struct LoopRecord {
    /// Its number, unique within the process and its forks.
    pub(crate) id: u64,
    pub(crate) began: Moment,
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: Cow<'static, str>,
    /// The lateness that makes a stall.
    pub(crate) threshold: Duration,
    /// The lateness of the beats.
    pub(crate) lateness: Recorder,
    /// Counts the stalls. Written by the watch's thread, as are the four below. Times are in nanoseconds.
    stalls: AtomicU64,
    /// The time of the stalls that are over.
    stalled: AtomicU64,
    /// The time of the stall that goes on.
    ongoing: AtomicU64,
    starved: AtomicU64,
    starved_time: AtomicU64,
    places: OwnProcess<StdMutex<Places>>,
}

/// The numbers of a loop's stalls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StallCounts {
    pub(crate) stalls: u64,
    pub(crate) stalled: Duration,
    /// The number of times that it was late for want of a core, and the time that it had none.
    pub(crate) starved: u64,
    pub(crate) starved_time: Duration,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl LoopRecord {
    pub(super) fn new(name: Cow<'static, str>, kind: Cow<'static, str>, threshold: Duration) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            began: Moment::now(),
            name,
            kind,
            threshold,
            lateness: Recorder::default(),
            stalls: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            ongoing: AtomicU64::new(0),
            starved: AtomicU64::new(0),
            starved_time: AtomicU64::new(0),
            places: OwnProcess::new(StdMutex::default()),
        }
    }

    pub(super) fn count_stall(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the time of the stall that goes on, 0 if there is none. For a watch of one thread, whose stalls follow one
    /// another.
    pub(super) fn set_ongoing(&self, time: Duration) {
        self.ongoing.store(nanos(time), Ordering::Relaxed);
    }

    pub(super) fn add_stalled(&self, time: Duration) {
        self.stalled.fetch_add(nanos(time), Ordering::Relaxed);
    }

    pub(super) fn note_starved(&self, starved: Duration) {
        self.starved.fetch_add(1, Ordering::Relaxed);
        self.starved_time.fetch_add(nanos(starved), Ordering::Relaxed);
    }

    fn places(&self) -> Option<MutexGuard<'_, Places>> {
        self.places.get().map(|places| places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a stall at a place: see [`Pulse::stalled_at`](super::Pulse::stalled_at). Returns the time that is new.
    pub(super) fn stalled_at(&self, number: u64, place: StallPlace, lasted: Duration) -> Duration {
        self.places().map_or(Duration::ZERO, |mut places| places.put(number, place, lasted))
    }

    /// Returns the numbers of the stalls so far. The one that goes on is included.
    pub(crate) fn counts(&self) -> StallCounts {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let time = |number: &AtomicU64| Duration::from_nanos(load(number));
        StallCounts {
            stalls: load(&self.stalls),
            stalled: time(&self.stalled) + time(&self.ongoing),
            starved: load(&self.starved),
            starved_time: time(&self.starved_time),
        }
    }

    /// Returns the `most` places that have stalled the loop for the longest time in total, the worst first.
    pub(crate) fn worst_places(&self, most: usize) -> Vec<(Spot, PlaceRecord)> {
        let Some(places) = self.places() else { return Vec::new() };
        let mut all: Vec<_> = places.all.iter().map(|(spot, place)| (spot.clone(), place.clone())).collect();
        drop(places);
        all.sort_by_key(|(_, place)| std::cmp::Reverse(place.stalled));
        all.truncate(most);
        all
    }
}

impl fmt::Debug for LoopRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopRecord").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A loop in the list of those that are watched.
pub(crate) struct WatchedLoop {
    pub(crate) record: Arc<LoopRecord>,
    /// Returns for how long a beat is overdue at this moment.
    late_now: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl WatchedLoop {
    pub(crate) fn late_now(&self) -> Duration {
        (self.late_now)()
    }
}

fn watched() -> MutexGuard<'static, Vec<Weak<WatchedLoop>>> {
    static WATCHED: PerProcess<StdMutex<Vec<Weak<WatchedLoop>>>> = PerProcess::new();
    WATCHED.get(StdMutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lists a loop for as long as the returned value lives, which the watch's thread keeps.
pub(super) fn list(
    record: &Arc<LoopRecord>,
    late_now: impl Fn() -> Duration + Send + Sync + 'static,
) -> Arc<WatchedLoop> {
    let entry = Arc::new(WatchedLoop { record: Arc::clone(record), late_now: Box::new(late_now) });
    let mut watched = watched();
    watched.retain(|entry| entry.strong_count() > 0);
    watched.push(Arc::downgrade(&entry));
    entry
}

/// Returns the loops of this process that are watched, in the order in which their watches began.
pub(crate) fn all() -> Vec<Arc<WatchedLoop>> {
    watched().iter().filter_map(Weak::upgrade).collect()
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn record() -> LoopRecord {
        LoopRecord::new("main".into(), "other".into(), 100 * MS)
    }

    #[test]
    fn a_stall_that_is_reported_again_is_counted_once_where_it_was_seen_last() {
        let record = record();
        assert_eq!(record.stalled_at(1, StallPlace::new("guess"), 100 * MS), 100 * MS);
        assert_eq!(record.stalled_at(1, StallPlace::new("read").line("a.py", Some(7)), 250 * MS), 150 * MS);
        record.stalled_at(2, StallPlace::new("read").line("a.py", Some(7)).advice("move it"), 50 * MS);
        let places = record.worst_places(20);
        assert_eq!(places.len(), 1);
        let (spot, place) = &places[0];
        assert_eq!((spot.function.as_str(), spot.line), ("read", Some(7)));
        assert_eq!((place.stalls, place.stalled, place.longest), (2, 300 * MS, 250 * MS));
        assert_eq!(place.advice.as_deref(), Some("move it"));
    }

    #[test]
    fn places_without_end_do_not_fill_the_memory() {
        let record = record();
        for number in 0..2 * PLACES as u64 {
            record.stalled_at(number, StallPlace::new(format!("place {number}")), MS);
        }
        let places = record.worst_places(usize::MAX);
        assert_eq!(places.len(), PLACES + 1);
        assert_eq!((places[0].0.function.as_str(), places[0].1.stalls), (ELSEWHERE, PLACES as u64));
    }
}

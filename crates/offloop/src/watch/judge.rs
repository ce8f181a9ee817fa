//! Decides what a late beat means. No clock, no thread: times go in, events come out.

use std::time::Duration;

use super::pulse::{Nanos, PAUSED, Reading, nanos};

/// What a [`Monitor`](super::Monitor) says of the loop: one `Stalled`, any number of `Still`, one `Over`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The loop stands still.
    Stalled {
        /// How late its beat is: the least that the stall has lasted.
        late: Duration,
    },
    /// It still does.
    Still {
        /// How late its beat is by now.
        late: Duration,
    },
    /// It goes on, or was [paused](super::Pulse::pause).
    Over {
        /// How late its beat came.
        lasted: Duration,
    },
}

/// When a beat is late, and when to say so again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) threshold: Nanos,
    /// How far apart the beats should be.
    pub(super) interval: Nanos,
    /// From the first report of a stall to the second.
    pub(super) first_again: Nanos,
    /// The longest time between two reports of one stall.
    pub(super) longest_again: Nanos,
}

#[derive(Debug)]
pub(super) struct Judge {
    limits: Limits,
    /// Time before this is no evidence: who looked was kept from running until then.
    believed_from: Nanos,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Well,
    Stalled {
        /// The last beat before the stall.
        beat: Nanos,
        /// When the missing beat was due.
        due: Nanos,
        /// When to report again, and how long to wait after that.
        again: Nanos,
        step: Nanos,
        /// How late it was said to be. The beat that ends a stall may have read its clock before that.
        told: Nanos,
    },
}

impl Judge {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, believed_from: 0, state: State::Well }
    }

    /// Who looks was to do so long before `now`, and could not.
    pub(super) fn overslept(&mut self, now: Nanos) {
        self.believed_from = now;
    }

    /// What is to be said `now`, and when to look again: at once if something was said.
    pub(super) fn look(&mut self, now: Nanos, seen: Reading) -> (Option<Event>, Nanos) {
        let Limits { threshold, interval, first_again, longest_again } = self.limits;
        match self.state {
            State::Well if seen.last == PAUSED => (None, now.saturating_add(threshold)),
            State::Well => {
                let due = seen.last.saturating_add(interval).max(self.believed_from);
                let limit = due.saturating_add(threshold);
                if now < limit {
                    return (None, limit);
                }
                let again = now.saturating_add(first_again);
                let told = now - due;
                self.state = State::Stalled { beat: seen.last, due, again, step: first_again, told };
                (Some(Event::Stalled { late: nanos(told) }), now)
            }
            State::Stalled { beat, due, told, .. } if seen.last != beat => {
                self.state = State::Well;
                let back = if seen.back > beat { seen.back } else { now };
                (Some(Event::Over { lasted: nanos(back.saturating_sub(due).max(told)) }), now)
            }
            // It may be over at any moment, and nobody tells: hence the short sleep.
            State::Stalled { again, .. } if now < again => (None, again.min(now.saturating_add(threshold))),
            State::Stalled { beat, due, step, .. } => {
                let step = step.saturating_mul(2).min(longest_again.max(first_again));
                let told = now.saturating_sub(due);
                self.state = State::Stalled { beat, due, again: now.saturating_add(step), step, told };
                (Some(Event::Still { late: nanos(told) }), now)
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::{Event, Judge, Limits, PAUSED, Reading, nanos};

    const LIMITS: Limits = Limits { threshold: 100, interval: 25, first_again: 100, longest_again: 400 };

    fn beat(last: u64) -> Reading {
        Reading { last, back: 0 }
    }

    fn late(event: Option<Event>) -> u128 {
        match event {
            Some(Event::Stalled { late } | Event::Still { late }) => late.as_nanos(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_beat_is_late_only_when_interval_and_threshold_have_passed() {
        let mut judge = Judge::new(LIMITS);
        assert_eq!(judge.look(1_010, beat(1_000)), (None, 1_125));
        assert_eq!(judge.look(1_124, beat(1_000)), (None, 1_125));
        assert_eq!(judge.look(1_125, beat(1_000)), (Some(Event::Stalled { late: nanos(100) }), 1_125));
    }

    #[test]
    fn each_beat_gives_the_loop_the_whole_time_again() {
        let mut judge = Judge::new(LIMITS);
        for now in (1_000..5_000).step_by(120) {
            assert_eq!(judge.look(now + 119, beat(now)), (None, now + 125));
        }
    }

    #[test]
    fn a_stall_is_reported_again_in_growing_steps() {
        let mut judge = Judge::new(LIMITS);
        let (mut now, mut said) = (1_000, Vec::new());
        while now < 3_500 {
            let (event, next) = judge.look(now, beat(1_000));
            said.extend(event.map(|event| late(Some(event))));
            assert!(event.is_some() || next > now, "a look that says nothing lets time pass");
            now = next;
        }
        assert_eq!(said, [100, 200, 400, 800, 1_200, 1_600, 2_000, 2_400]);
    }

    #[test]
    fn the_end_of_a_stall_tells_how_late_the_beat_came_however_late_it_is_seen() {
        let mut judge = Judge::new(LIMITS);
        late(judge.look(1_200, beat(1_000)).0);
        let (event, _) = judge.look(1_400, Reading { last: 1_390, back: 1_350 });
        assert_eq!(event, Some(Event::Over { lasted: nanos(325) }));
        assert_eq!(judge.look(1_401, Reading { last: 1_390, back: 1_350 }), (None, 1_515));
    }

    #[test]
    fn a_paused_loop_is_never_late_and_pausing_ends_a_stall() {
        let mut judge = Judge::new(LIMITS);
        assert_eq!(judge.look(9_000, beat(PAUSED)).0, None);
        late(judge.look(10_000, beat(9_100)).0);
        let (event, _) = judge.look(10_500, Reading { last: PAUSED, back: 10_400 });
        assert_eq!(event, Some(Event::Over { lasted: nanos(1_275) }));
        assert_eq!(judge.look(20_000, Reading { last: PAUSED, back: 10_400 }).0, None);
    }

    #[test]
    fn after_oversleeping_the_loop_gets_its_time_again() {
        let mut judge = Judge::new(LIMITS);
        assert_eq!(judge.look(1_010, beat(1_000)), (None, 1_125));
        judge.overslept(50_000);
        assert_eq!(judge.look(50_000, beat(1_000)), (None, 50_100));
        // A real stall is still found, and only what was seen of it is told.
        assert_eq!(judge.look(50_100, beat(1_000)).0, Some(Event::Stalled { late: nanos(100) }));
    }
}

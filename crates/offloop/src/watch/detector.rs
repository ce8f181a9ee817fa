//! The state machine that decides when a loop is stalled. It has neither clock nor thread: times go in, events come
//! out.

use std::time::Duration;

use super::clock::{Nanos, duration};
use super::pulse::{PAUSED, Reading};

/// A report about a loop. A stall has one `Began`, any number of `Ongoing`, one `Over`.
///
/// Its times are without those in which the loop's thread could have run but had no core, where that is known: see
/// [`Monitor::start_measured`](super::Monitor::start_measured).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallEvent {
    /// The loop's beat is late by half the threshold, which is no stall yet. Only
    /// [`Monitor::start_measured`](super::Monitor::start_measured) reports it.
    Suspected,
    /// The loop has stalled.
    Began {
        /// The time for which the loop's beat has been overdue: the least that the stall has lasted.
        late: Duration,
    },
    /// The loop is still stalled.
    Ongoing {
        /// The time for which the loop's beat has been overdue by now.
        late: Duration,
    },
    /// The loop goes on, or was [paused](super::Pulse::pause).
    Over {
        /// The time by which the loop's beat came too late.
        lasted: Duration,
    },
    /// The loop goes on after it was late for want of a core, which was no stall.
    Starved {
        /// The time by which the loop's beat came too late.
        late: Duration,
        /// The time of it in which the loop's thread could have run but had no core.
        starved: Duration,
    },
}

/// When a beat is late, and when a stall is reported again.
#[derive(Debug, Clone, Copy)]
pub(super) struct StallTiming {
    /// The delay of a beat that makes a stall.
    pub(super) threshold: Nanos,
    /// The time from one beat to the next.
    pub(super) interval: Nanos,
    /// The time from the first report of a stall to the second.
    pub(super) first_repeat: Nanos,
    /// The longest time between two reports of one stall.
    pub(super) longest_repeat: Nanos,
}

/// Finds the stalls of one loop in readings of its pulse.
#[derive(Debug)]
pub(super) struct StallDetector {
    timing: StallTiming,
    /// Silence before this time does not count: the watching thread itself was kept from running until then.
    evidence_from: Nanos,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The loop beats in time, or is paused.
    Fine,
    /// The next beat is late, but that is no stall yet.
    Late {
        /// The last beat.
        beat: Nanos,
        /// When the missing beat was due.
        due: Nanos,
        /// The time in which the loop's thread had no core, if the beat was late by the threshold with that time.
        starved: Option<Nanos>,
    },
    Stalled {
        /// The last beat before the stall.
        beat: Nanos,
        /// The time since then in which the loop's thread had no core, as of the last report.
        starved: Nanos,
        /// When the missing beat was due.
        due: Nanos,
        /// When to report again.
        repeat_at: Nanos,
        /// The time from the last report to the next.
        step: Nanos,
        /// The lateness in the last report. The beat that ends a stall may have read its clock before that report.
        reported: Nanos,
    },
}

impl StallDetector {
    pub(super) fn new(timing: StallTiming) -> Self {
        Self { timing, evidence_from: 0, state: State::Fine }
    }

    /// Gives the loop its whole time again from `now` on, since the watching thread has not run in time.
    pub(super) fn ignore_before(&mut self, now: Nanos) {
        self.evidence_from = now;
    }

    /// Returns whether the last reading has shown that a beat is late.
    pub(super) fn is_suspicious(&self) -> bool {
        !matches!(self.state, State::Fine)
    }

    /// Judges a reading. Returns what to report `now`, and when to look next: at once after a report.
    ///
    /// `starved` returns the time since the last beat in which the loop's thread had no core. It is only called if the
    /// beat is late.
    pub(super) fn look(
        &mut self,
        now: Nanos,
        seen: Reading,
        starved: impl FnOnce() -> Nanos,
    ) -> (Option<StallEvent>, Nanos) {
        let StallTiming { threshold, interval, first_repeat, longest_repeat } = self.timing;
        match self.state {
            State::Late { beat, due, starved: without } if seen.last != beat => {
                self.state = State::Fine;
                let back = if seen.back > beat { seen.back } else { now };
                let late = back.saturating_sub(due);
                let event = without.map(|starved| StallEvent::Starved {
                    late: duration(late.max(starved)),
                    starved: duration(starved),
                });
                if event.is_some() { (event, now) } else { self.look(now, seen, starved) }
            }
            State::Fine if seen.last == PAUSED => (None, now.saturating_add(threshold)),
            State::Fine => {
                let due = seen.last.saturating_add(interval).max(self.evidence_from);
                let suspect = due.saturating_add(threshold / 2);
                if now < suspect {
                    return (None, suspect);
                }
                self.state = State::Late { beat: seen.last, due, starved: None };
                (Some(StallEvent::Suspected), now)
            }
            State::Late { beat, due, .. } => {
                let due = due.max(self.evidence_from);
                let limit = due.saturating_add(threshold);
                if now < limit {
                    return (None, limit);
                }
                let starved = starved().min(now - due);
                let late = now - due - starved;
                if late < threshold {
                    self.state = State::Late { beat, due, starved: Some(starved) };
                    return (None, now.saturating_add(threshold - late));
                }
                let repeat_at = now.saturating_add(first_repeat);
                self.state =
                    State::Stalled { beat, starved, due, repeat_at, step: first_repeat, reported: late };
                (Some(StallEvent::Began { late: duration(late) }), now)
            }
            State::Stalled { beat, due, starved, reported, .. } if seen.last != beat => {
                self.state = State::Fine;
                let back = if seen.back > beat { seen.back } else { now };
                let lasted = back.saturating_sub(due).saturating_sub(starved).max(reported);
                (Some(StallEvent::Over { lasted: duration(lasted) }), now)
            }
            // The stall may be over at any moment, and nothing wakes the watching thread then: hence the short sleep.
            State::Stalled { repeat_at, .. } if now < repeat_at => {
                (None, repeat_at.min(now.saturating_add(threshold)))
            }
            State::Stalled { beat, due, step, reported, .. } => {
                let step = step.saturating_mul(2).min(longest_repeat.max(first_repeat));
                let passed = now.saturating_sub(due);
                let starved = starved().min(passed);
                let late = passed - starved;
                let repeat_at = now.saturating_add(step);
                if late <= reported {
                    // It had no core since the last report.
                    self.state = State::Stalled { beat, starved, due, repeat_at, step, reported };
                    return (None, repeat_at.min(now.saturating_add(threshold)));
                }
                self.state = State::Stalled { beat, starved, due, repeat_at, step, reported: late };
                (Some(StallEvent::Ongoing { late: duration(late) }), now)
            }
        }
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::{PAUSED, Reading, StallDetector, StallEvent, StallTiming, duration};

    const TIMING: StallTiming =
        StallTiming { threshold: 100, interval: 25, first_repeat: 100, longest_repeat: 400 };

    /// Looks until nothing more is to be reported than what is asked for, at a loop that has always had a core.
    fn look(detector: &mut StallDetector, now: u64, seen: Reading) -> (Option<StallEvent>, u64) {
        match detector.look(now, seen, || 0) {
            (Some(StallEvent::Suspected), next) => {
                assert_eq!(next, now, "after a report the next look is at once");
                detector.look(now, seen, || 0)
            }
            other => other,
        }
    }

    fn beat(last: u64) -> Reading {
        Reading { last, back: 0 }
    }

    fn late(event: Option<StallEvent>) -> u128 {
        match event {
            Some(StallEvent::Began { late } | StallEvent::Ongoing { late }) => late.as_nanos(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_beat_is_late_only_when_interval_and_threshold_have_passed() {
        let mut detector = StallDetector::new(TIMING);
        assert_eq!(look(&mut detector, 1_010, beat(1_000)), (None, 1_075));
        assert_eq!(look(&mut detector, 1_124, beat(1_000)), (None, 1_125));
        assert_eq!(
            look(&mut detector, 1_125, beat(1_000)),
            (Some(StallEvent::Began { late: duration(100) }), 1_125)
        );
    }

    #[test]
    fn each_beat_gives_the_loop_the_whole_time_again() {
        let mut detector = StallDetector::new(TIMING);
        for now in (1_000..5_000).step_by(120) {
            assert_eq!(look(&mut detector, now + 119, beat(now)), (None, now + 125));
        }
    }

    #[test]
    fn a_stall_is_reported_again_in_growing_steps() {
        let mut detector = StallDetector::new(TIMING);
        let (mut now, mut reported) = (1_000, Vec::new());
        while now < 3_500 {
            let (event, next) = look(&mut detector, now, beat(1_000));
            reported.extend(event.map(|event| late(Some(event))));
            assert!(event.is_some() || next > now, "a look without a report lets time pass");
            now = next;
        }
        assert_eq!(reported, [100, 200, 400, 800, 1_200, 1_600, 2_000, 2_400]);
    }

    #[test]
    fn the_end_of_a_stall_reports_how_late_the_beat_came_however_late_it_is_seen() {
        let mut detector = StallDetector::new(TIMING);
        late(look(&mut detector, 1_200, beat(1_000)).0);
        let (event, _) = look(&mut detector, 1_400, Reading { last: 1_390, back: 1_350 });
        assert_eq!(event, Some(StallEvent::Over { lasted: duration(325) }));
        assert_eq!(look(&mut detector, 1_401, Reading { last: 1_390, back: 1_350 }), (None, 1_465));
    }

    #[test]
    fn a_paused_loop_is_never_late_and_pausing_ends_a_stall() {
        let mut detector = StallDetector::new(TIMING);
        assert_eq!(look(&mut detector, 9_000, beat(PAUSED)).0, None);
        late(look(&mut detector, 10_000, beat(9_100)).0);
        let (event, _) = look(&mut detector, 10_500, Reading { last: PAUSED, back: 10_400 });
        assert_eq!(event, Some(StallEvent::Over { lasted: duration(1_275) }));
        assert_eq!(look(&mut detector, 20_000, Reading { last: PAUSED, back: 10_400 }).0, None);
    }

    #[test]
    fn after_the_watch_was_kept_from_running_the_loop_gets_its_whole_time_again() {
        let mut detector = StallDetector::new(TIMING);
        assert_eq!(look(&mut detector, 1_010, beat(1_000)), (None, 1_075));
        detector.ignore_before(50_000);
        assert_eq!(look(&mut detector, 50_000, beat(1_000)), (None, 50_050));
        // A real stall is still found. Only the part that was seen is reported.
        assert_eq!(
            look(&mut detector, 50_100, beat(1_000)).0,
            Some(StallEvent::Began { late: duration(100) })
        );
    }

    #[test]
    fn a_beat_is_suspected_at_half_the_threshold_and_forgotten_if_it_comes() {
        let mut detector = StallDetector::new(TIMING);
        assert_eq!(detector.look(1_074, beat(1_000), || 0), (None, 1_075));
        assert!(!detector.is_suspicious());
        assert_eq!(detector.look(1_075, beat(1_000), || 0), (Some(StallEvent::Suspected), 1_075));
        assert_eq!(detector.look(1_075, beat(1_000), || 0), (None, 1_125));
        assert_eq!(detector.look(1_120, beat(1_110), || 0), (None, 1_185));
        assert!(!detector.is_suspicious());
    }

    #[test]
    fn time_without_a_core_makes_no_stall_and_is_reported_as_such() {
        let mut detector = StallDetector::new(TIMING);
        look(&mut detector, 1_080, beat(1_000));
        assert_eq!(detector.look(1_125, beat(1_000), || 90), (None, 1_215));
        assert_eq!(detector.look(1_215, beat(1_000), || 150), (None, 1_275));
        let starved = StallEvent::Starved { late: duration(205), starved: duration(150) };
        let seen = Reading { last: 1_235, back: 1_230 };
        assert_eq!(detector.look(1_240, seen, || 0), (Some(starved), 1_240));
        assert_eq!(detector.look(1_240, seen, || 0), (None, 1_310));
    }

    #[test]
    fn a_stall_is_as_long_as_the_time_in_which_there_was_a_core() {
        let mut detector = StallDetector::new(TIMING);
        look(&mut detector, 1_080, beat(1_000));
        assert_eq!(detector.look(1_125, beat(1_000), || 30), (None, 1_155));
        let began = Some(StallEvent::Began { late: duration(100) });
        assert_eq!(detector.look(1_155, beat(1_000), || 30), (began, 1_155));
        assert_eq!(detector.look(1_255, beat(1_000), || 130).0, None, "it has had no core meanwhile");
        let ongoing = Some(StallEvent::Ongoing { late: duration(395) });
        assert_eq!(detector.look(1_600, beat(1_000), || 180).0, ongoing);
        let seen = Reading { last: 1_640, back: 1_640 };
        assert_eq!(detector.look(1_640, seen, || 0).0, Some(StallEvent::Over { lasted: duration(435) }));
    }
}

//! Checks that the jobs of one priority begin in their order.
//!
//! Only a pool with one worker shows the order: two workers may begin with what they were given in any order. And only
//! jobs of the same client have an order that is surely known.

use std::collections::BTreeMap;
use std::time::Duration;

/// The jobs among which there is an order: those of a pool, a client and a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) pool: usize,
    pub(super) client: usize,
    pub(super) priority: i8,
}

/// The begins of the jobs of all lines.
#[derive(Default)]
pub(super) struct Begins(BTreeMap<Line, BTreeMap<u64, Duration>>);

impl Begins {
    /// Adds a job that began in a worker.
    pub(super) fn add(&mut self, line: Line, number: u64, time: Duration) {
        self.0.entry(line).or_default().insert(number, time);
    }

    /// Returns a line for each job that began before one that its client had submitted earlier.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (Line { pool, priority, .. }, begins) in &self.0 {
            let mut last: Option<(u64, Duration)> = None;
            for (&number, &time) in begins {
                match last {
                    Some((earlier, begun)) if time < begun => faults.push(format!(
                        "job {number} began {:?} before job {earlier}, which was submitted earlier with the same \
                         priority {priority} to pool {pool} of one worker",
                        begun.saturating_sub(time)
                    )),
                    _ => last = Some((number, time)),
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line = Line { pool: 0, client: 0, priority: 0 };

    fn faults(begins: &[(Line, u64, u64)]) -> Vec<String> {
        let mut all = Begins::default();
        for (line, number, time) in begins {
            all.add(*line, *number, Duration::from_micros(*time));
        }
        all.faults()
    }

    #[test]
    fn jobs_that_begin_in_their_order_are_right() {
        assert!(faults(&[(LINE, 2, 10), (LINE, 4, 20), (LINE, 8, 30)]).is_empty());
    }

    #[test]
    fn a_job_that_overtakes_an_earlier_one_is_found_once() {
        let found = faults(&[(LINE, 2, 10), (LINE, 4, 30), (LINE, 6, 20), (LINE, 8, 40)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("job 6 began 10µs before job 4"), "{found:?}");
    }

    #[test]
    fn a_job_of_another_priority_client_or_pool_may_overtake() {
        for other in [Line { priority: 1, ..LINE }, Line { client: 1, ..LINE }, Line { pool: 1, ..LINE }] {
            assert!(faults(&[(LINE, 2, 20), (other, 4, 10)]).is_empty(), "{other:?}");
        }
    }
}

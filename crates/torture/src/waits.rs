//! The waits of all threads of this program. A wait that is too long is a hang.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;

/// The longest fair time that a wait may last. No job and no shutdown takes a third of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest fair time that a wait may last if other threads progress meanwhile, but more slowly than
/// [`NORMAL_PROGRESS`].
const PATIENCE_WHEN_SLOW: Duration = Duration::from_secs(300);

/// Fewer waits than this end within [`PATIENCE`] only on an overloaded machine. The fair clock does not know all that
/// can be short: memory and disks, for instance.
const NORMAL_PROGRESS: u64 = 10_000;

struct Wait {
    what: &'static str,
    /// The number of the job or pool.
    number: u64,
    began: Moment,
    /// The number of waits that had ended when it began.
    ended_before: u64,
}

#[derive(Default)]
struct State {
    current: HashMap<u64, Wait>,
    begun: u64,
    ended: u64,
    /// In fair time.
    last_end: Duration,
    /// The longest wait that ended.
    longest: (Duration, String),
}

#[derive(Default)]
pub(crate) struct Waits(Mutex<State>);

impl Waits {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f`, which waits for `what`. `number` is that of the job or pool.
    pub(crate) fn during<R>(&self, what: &'static str, number: u64, f: impl FnOnce() -> R) -> R {
        let key = self.state().begin(what, number, Moment::now());
        let result = f();
        self.state().end(key, Moment::now());
        result
    }

    /// Returns a line for each wait that is a hang.
    pub(crate) fn overdue(&self) -> Vec<String> {
        self.state().overdue(Moment::now())
    }

    /// Returns the longest wait that ended.
    pub(crate) fn longest(&self) -> String {
        let (lasted, what) = &self.state().longest;
        format!("{lasted:.1?}, for {what}")
    }
}

impl State {
    fn begin(&mut self, what: &'static str, number: u64, now: Moment) -> u64 {
        self.begun += 1;
        self.current.insert(self.begun, Wait { what, number, began: now, ended_before: self.ended });
        self.begun
    }

    fn end(&mut self, key: u64, now: Moment) {
        self.ended += 1;
        self.last_end = now.fair;
        if let Some(Wait { what, number, began, .. }) = self.current.remove(&key) {
            let lasted = now.real.saturating_sub(began.real);
            if lasted > self.longest.0 {
                self.longest = (lasted, format!("{what} {number}"));
            }
        }
    }

    fn overdue(&self, now: Moment) -> Vec<String> {
        let since = |then: Duration| now.fair.saturating_sub(then);
        let is_overdue = |wait: &&Wait| {
            let is_quiet = since(self.last_end) > PATIENCE;
            let is_slow = !is_quiet && self.ended - wait.ended_before < NORMAL_PROGRESS;
            since(wait.began.fair) > if is_slow { PATIENCE_WHEN_SLOW } else { PATIENCE }
        };
        let line = |wait: &Wait| {
            let (fair, real) = (since(wait.began.fair), now.real.saturating_sub(wait.began.real));
            format!("waiting for {real:?} ({fair:?} in fair time) for {} {}", wait.what, wait.number)
        };
        self.current.values().filter(is_overdue).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a moment after these seconds, of which the program had `fair`.
    fn after(real: u64, fair: u64) -> Moment {
        Moment { real: Duration::from_secs(real), fair: Duration::from_secs(fair) }
    }

    #[test]
    fn a_wait_is_a_hang_if_all_stand_still_or_the_others_make_normal_progress_or_it_lasts_too_long() {
        let mut state = State::default();
        state.begin("the end of job", 1, after(1, 1));
        assert!(state.overdue(after(30, 30)).is_empty());
        assert_eq!(state.overdue(after(32, 32)).len(), 1, "all stand still");

        let end_others = |state: &mut State, count: u64| {
            for number in 0..count {
                let key = state.begin("the end of job", number, after(40, 40));
                state.end(key, after(40, 40));
            }
        };
        end_others(&mut state, 100);
        assert!(state.overdue(after(41, 41)).is_empty(), "others progress slowly");
        assert_eq!(state.overdue(after(302, 302)).len(), 1, "it lasts too long");
        end_others(&mut state, NORMAL_PROGRESS);
        assert_eq!(state.overdue(after(41, 41)).len(), 1, "others make normal progress");
    }

    #[test]
    fn a_wait_is_no_hang_while_the_program_gets_no_computing_time() {
        let mut state = State::default();
        state.begin("the end of job", 1, after(0, 0));
        assert!(state.overdue(after(10_000, 10)).is_empty());
        assert_eq!(state.overdue(after(10_100, 40)).len(), 1);
    }
}

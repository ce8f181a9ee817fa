//! Looking out for a while before going to sleep, as far as that pays.

use std::time::Duration;

/// How long it may look out: about what a caller on a sleeping core needs to hear the answer and to send the next call.
const LIMIT: Duration = Duration::from_micros(200);

/// After vain attempts it is tried less and less often: at every power of two, and at last once in so many.
const SELDOM: u32 = 64;

/// Learns whether looking out pays.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Vain attempts since the last that paid, those that were not made included.
    vain: u32,
}

impl Patience {
    /// How long to look out this time.
    pub(crate) fn limit(&self) -> Duration {
        if self.vain == 0 || self.vain.is_power_of_two() || self.vain % SELDOM == 0 {
            LIMIT
        } else {
            Duration::ZERO
        }
    }

    pub(crate) fn paid(&mut self) {
        self.vain = 0;
    }

    pub(crate) fn vain(&mut self) {
        self.vain = self.vain.wrapping_add(1);
    }
}

/// Lets a moment pass. It does not let others have the core: whoever computes there would keep it for milliseconds,
/// where one that sleeps instead is woken in microseconds.
pub(crate) fn spin() {
    for _ in 0..8 {
        std::hint::spin_loop();
    }
}

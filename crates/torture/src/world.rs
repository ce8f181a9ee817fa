//! What all threads of the torture share.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ledger::Ledger;
use crate::pools::{Open, Slots};
use crate::watchdog::Watchdog;

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) ledger: Ledger,
    pub(crate) watchdog: Watchdog,
    pub(crate) slots: Slots,
    /// The pools that were shut down, whose counts are looked at in the end.
    pub(crate) shut: Mutex<Vec<Arc<Open>>>,
    phase: AtomicU8,
    /// Panics that no job was told to raise. Apart from the ledger, whose lock may be held by who panics.
    panics: Mutex<Vec<String>>,
}

/// The order in which the run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    Load,
    /// Nobody submits or strikes any more.
    Calm,
    /// The pools are shut down.
    End,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            ledger: Ledger::new(),
            watchdog: Watchdog::default(),
            slots: Slots::default(),
            shut: Mutex::default(),
            phase: AtomicU8::new(Phase::Load as u8),
            panics: Mutex::default(),
        }
    }

    fn has_come_to(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) >= phase as u8
    }

    fn go_on_to(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    pub(crate) fn end_load(&self) {
        self.go_on_to(Phase::Calm);
    }

    pub(crate) fn end_pools(&self) {
        self.go_on_to(Phase::End);
    }

    pub(crate) fn load_is_to_end(&self) -> bool {
        self.has_come_to(Phase::Calm)
    }

    pub(crate) fn pools_are_to_end(&self) -> bool {
        self.has_come_to(Phase::End)
    }

    pub(crate) fn note_panic(&self, text: String) {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Everything that is wrong, as far as it is known, and how much more there is of it.
    pub(crate) fn faults(&self) -> (Vec<String>, usize) {
        let mut faults = self.panics.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (of_ledger, left_out) = self.ledger.faults();
        faults.extend(of_ledger);
        (faults, left_out)
    }
}

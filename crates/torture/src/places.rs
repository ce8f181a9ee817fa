//! The jobs that run in the workers of a pool, in memory that all processes share. Each job takes a place when it begins
//! and leaves it when it ends; a process that dies leaves its place behind.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::proc::Identity;

/// Many more than a pool has workers: dead processes keep their places until a job needs one.
const PLACES: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The number of jobs that may run at once.
    size: AtomicU32,
    places: [Place; PLACES],
}

#[derive(Debug, Default)]
pub(crate) struct Place {
    /// The process that has it; 0 if it is free.
    process: AtomicU64,
    job: AtomicU64,
}

impl Places {
    pub(crate) fn set_size(&self, size: u32) {
        self.size.store(size, SeqCst);
    }

    pub(crate) fn size(&self) -> u32 {
        self.size.load(SeqCst)
    }

    /// Takes a place for a job that begins in the process `me`. Returns it, and the jobs that run now if they are too
    /// many.
    pub(crate) fn enter(
        &self,
        me: Identity,
        job: u64,
        is_alive: impl Fn(Identity) -> bool,
    ) -> (Option<&Place>, Vec<u64>) {
        let place = self.take(me, job).or_else(|| {
            self.clear(&is_alive);
            self.take(me, job)
        });
        let is_crowded = || self.jobs().len() > self.size() as usize;
        if is_crowded() {
            self.clear(&is_alive);
        }
        (place, if is_crowded() { self.jobs() } else { Vec::new() })
    }

    fn take(&self, me: Identity, job: u64) -> Option<&Place> {
        let place =
            self.places.iter().find(|it| it.process.compare_exchange(0, me.0, SeqCst, SeqCst).is_ok())?;
        place.job.store(job, SeqCst);
        Some(place)
    }

    /// Frees the places of processes that have died.
    fn clear(&self, is_alive: impl Fn(Identity) -> bool) {
        for place in &self.places {
            let process = place.process.load(SeqCst);
            if process != 0 && !is_alive(Identity(process)) {
                // An error means that another process has freed it.
                let _ = place.process.compare_exchange(process, 0, SeqCst, SeqCst);
            }
        }
    }

    fn jobs(&self) -> Vec<u64> {
        let taken = self.places.iter().filter(|place| place.process.load(SeqCst) != 0);
        taken.map(|place| place.job.load(SeqCst)).collect()
    }
}

impl Place {
    pub(crate) fn leave(&self) {
        self.process.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Identity = Identity(1);
    const B: Identity = Identity(2);
    const C: Identity = Identity(3);

    fn two_at_once() -> Places {
        let places = Places::default();
        places.set_size(2);
        places
    }

    fn alive(_: Identity) -> bool {
        true
    }

    #[test]
    fn as_many_jobs_as_the_pool_has_workers_may_run() {
        let places = two_at_once();
        let (first, jobs) = places.enter(A, 10, alive);
        assert_eq!(jobs, []);
        assert_eq!(places.enter(B, 11, alive).1, []);
        first.unwrap().leave();
        assert_eq!(places.enter(C, 12, alive).1, [], "one has ended");
    }

    #[test]
    fn one_more_job_is_found_with_those_that_run_beside_it() {
        let places = two_at_once();
        places.enter(A, 10, alive);
        places.enter(B, 11, alive);
        assert_eq!(places.enter(C, 12, alive).1, [10, 11, 12]);
    }

    #[test]
    fn a_process_that_runs_two_jobs_at_once_is_found() {
        let places = Places::default();
        places.set_size(1);
        places.enter(A, 10, alive);
        assert_eq!(places.enter(A, 11, alive).1, [10, 11]);
    }

    #[test]
    fn a_dead_process_runs_no_job_and_leaves_its_place_to_others() {
        let places = two_at_once();
        places.enter(A, 10, alive);
        places.enter(B, 11, alive);
        assert_eq!(places.enter(C, 12, |process| process != A).1, []);
        for job in 0..100 {
            assert!(places.enter(C, job, |_| false).0.is_some(), "job {job}");
        }
    }
}

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
    /// The number of the job that has it, plus one; 0 if it is free. Claimed first and freed last.
    job: AtomicU64,
    /// The process of that job; 0 before it is written.
    process: AtomicU64,
}

/// A job that runs, and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunningJob {
    pub(crate) job: u64,
    pub(crate) process: Identity,
}

/// A place's job, plus one, and its process, as one look found them.
type Occupant = (u64, u64);

/// The number of looks at places that change meanwhile, after which there is no verdict.
const LOOKS: usize = 64;

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
    ) -> (Option<&Place>, Vec<RunningJob>) {
        let place = self.take(me, job).or_else(|| {
            self.clear(&is_alive);
            self.take(me, job)
        });
        (place, self.crowd(&is_alive))
    }

    fn take(&self, me: Identity, job: u64) -> Option<&Place> {
        let claim = |place: &&Place| place.job.compare_exchange(0, job + 1, SeqCst, SeqCst).is_ok();
        let place = self.places.iter().find(claim)?;
        place.process.store(me.0, SeqCst);
        Some(place)
    }

    /// Frees the places of processes that have died.
    fn clear(&self, is_alive: impl Fn(Identity) -> bool) {
        for place in &self.places {
            let process = place.process.load(SeqCst);
            // An error of the exchange means that another process frees it.
            if process != 0
                && !is_alive(Identity(process))
                && place.process.compare_exchange(process, 0, SeqCst, SeqCst).is_ok()
            {
                place.job.store(0, SeqCst);
            }
        }
    }

    /// Returns the jobs that run, if they are too many at one moment.
    ///
    /// A single look is no evidence: while it goes from place to place, a job may end behind it and the next one begin
    /// before it. If two looks find the same, all of it was there between them, since a job enters only once. A process
    /// that is alive after that was alive then.
    fn crowd(&self, is_alive: impl Fn(Identity) -> bool) -> Vec<RunningJob> {
        for _ in 0..LOOKS {
            let found = self.look();
            let taken = found.iter().filter(|(job, _)| *job != 0);
            if taken.clone().count() <= self.size() as usize {
                return Vec::new();
            }
            let is_whole = taken.clone().all(|(_, process)| *process != 0);
            if is_whole && self.look() == found {
                let jobs =
                    taken.map(|(job, process)| RunningJob { job: job - 1, process: Identity(*process) });
                let jobs: Vec<_> = jobs.filter(|running| is_alive(running.process)).collect();
                self.clear(&is_alive);
                return if jobs.len() > self.size() as usize { jobs } else { Vec::new() };
            }
            std::hint::spin_loop();
        }
        Vec::new()
    }

    fn look(&self) -> [Occupant; PLACES] {
        std::array::from_fn(|at| {
            let place = &self.places[at];
            (place.job.load(SeqCst), place.process.load(SeqCst))
        })
    }
}

impl Place {
    pub(crate) fn leave(&self) {
        self.process.store(0, SeqCst);
        self.job.store(0, SeqCst);
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

    /// Enters a job and returns the jobs that run if they are too many.
    fn enter(places: &Places, me: Identity, job: u64) -> Vec<u64> {
        places.enter(me, job, alive).1.iter().map(|running| running.job).collect()
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
        assert_eq!(enter(&places, C, 12), [10, 11, 12]);
    }

    #[test]
    fn a_process_that_runs_two_jobs_at_once_is_found() {
        let places = Places::default();
        places.set_size(1);
        places.enter(A, 10, alive);
        assert_eq!(enter(&places, A, 11), [10, 11]);
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

    #[test]
    fn neither_jobs_that_follow_each_other_nor_those_of_the_dead_are_taken_for_jobs_at_once() {
        const WORKERS: u64 = 3;
        const DEAD: u64 = 1 << 32;
        let (places, free) = (two_at_once(), AtomicU32::new(2));
        let is_alive = |process: Identity| process.0 < DEAD;
        let take = |count: u32| count.checked_sub(1);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (places, free) = (&places, &free);
                scope.spawn(move || {
                    for round in 0..50_000 {
                        while free.fetch_update(SeqCst, SeqCst, take).is_err() {
                            std::hint::spin_loop();
                        }
                        let job = round * WORKERS + worker;
                        if round % 5 == 0 {
                            places.enter(Identity(DEAD + job), job, is_alive);
                        } else {
                            let (place, jobs) = places.enter(Identity(worker + 1), job, is_alive);
                            assert_eq!(jobs, []);
                            place.unwrap().leave();
                        }
                        free.fetch_add(1, SeqCst);
                    }
                });
            }
        });
    }
}

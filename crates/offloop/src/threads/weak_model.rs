//! Models of the pool under loom, whose relaxed loads may return old values. See `model.rs` for the models with more
//! threads and jobs. A lost wake-up shows as a deadlock, since idle threads have no timeout here.
//!
//! The injector's flags and counts, and the flag that an idle thread was woken, are relaxed: all these models pass with
//! them. The job's header has the only other orderings.
//!
//! | access | ordering | fails without it |
//! | --- | --- | --- |
//! | `Header::state` | acquire a store, release | `a_thread_that_sees_the_end_of_a_job_sees_what_the_job_has_done` |
//! | `Header::cancelled` | acquire a store, release | `a_job_that_sees_its_stop_request_sees_what_was_before_it` |

use std::sync::Arc;
use std::time::Duration;

use super::{ThreadPool, ThreadPoolBuilder};
use crate::base::sync::model::wait;
use crate::base::sync::weak::check;
use crate::base::sync::{UnsafeCell, thread};
use crate::core::header::Header;
use crate::core::options::Options;

fn pool(threads: usize) -> ThreadPoolBuilder {
    ThreadPool::builder().max_workers(threads).min_workers(threads).idle_timeout(Duration::MAX).unlisted()
}

/// Memory that one thread writes and another reads, without a lock of its own.
struct Data(UnsafeCell<u32>);

// SAFETY: what is modelled puts the write before the read. The model checks that.
unsafe impl Sync for Data {}
// SAFETY: as above.
unsafe impl Send for Data {}

impl Data {
    fn new() -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(0)))
    }

    fn write(&self) {
        // SAFETY: see above.
        self.0.with_mut(|data| unsafe { *data = 1 });
    }

    fn assert_written(&self) {
        // SAFETY: see above.
        self.0.with(|data| assert_eq!(unsafe { *data }, 1));
    }
}

#[test]
fn a_job_sees_its_submitter_and_its_caller_sees_the_job() {
    check(2, || {
        let pool = pool(1).build().unwrap();
        let (before, within) = (Data::new(), Data::new());
        before.write();
        let job = {
            let (before, within) = (Arc::clone(&before), Arc::clone(&within));
            pool.run(move || {
                before.assert_written();
                within.write();
            })
        };
        wait(job).unwrap();
        within.assert_written();
    });
}

#[test]
fn a_thread_that_goes_to_rest_is_woken_for_the_next_job() {
    check(2, || {
        let pool = pool(1).build().unwrap();
        wait(pool.run(|| ())).unwrap();
        wait(pool.run(|| ())).unwrap();
    });
}

#[test]
fn two_submitters_of_one_thread_lose_no_job() {
    check(1, || {
        let pool = pool(1).build().unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || wait(pool.run(|| ())).unwrap())
        };
        wait(pool.run(|| ())).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn two_threads_take_two_jobs() {
    check(2, || {
        let pool = pool(2).build().unwrap();
        let jobs = [pool.run(|| ()), pool.run(|| ())];
        for job in jobs {
            wait(job).unwrap();
        }
    });
}

#[test]
fn a_job_that_sees_its_stop_request_sees_what_was_before_it() {
    check(3, || {
        let header = Arc::new(Header::new(Options::new()));
        let before = Data::new();
        let job = {
            let (header, before) = (Arc::clone(&header), Arc::clone(&before));
            thread::spawn(move || {
                if header.is_cancelled() {
                    before.assert_written();
                }
            })
        };
        before.write();
        header.request_stop();
        job.join().unwrap();
    });
}

#[test]
fn a_thread_that_sees_the_end_of_a_job_sees_what_the_job_has_done() {
    check(2, || {
        let pool = pool(1).build().unwrap();
        let within = Data::new();
        let job = {
            let within = Arc::clone(&within);
            pool.run(move || within.write())
        };
        if job.state() == crate::JobState::Ended {
            within.assert_written();
        }
        wait(job).unwrap();
    });
}

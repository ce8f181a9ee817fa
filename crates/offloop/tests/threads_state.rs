//! Pools whose threads each own a value.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use common::{Count, GIVE_UP, Gate, OnDrop, end, eventually, tid};
use offloop::job::discard_worker_state;
use offloop::{ErrorKind, OnFull, StatePool, ThreadPool, ThreadPoolBuilder};

/// The threads on which the values of one pool were opened and dropped.
#[derive(Clone, Default)]
struct Openings {
    opened: Arc<Mutex<Vec<i32>>>,
    dropped: Arc<Mutex<Vec<i32>>>,
}

/// A value that must not leave its thread, which the compiler checks because of the `Rc`.
struct Connection {
    opened_by: i32,
    uses: Rc<u32>,
    openings: Openings,
}

impl Drop for Connection {
    fn drop(&mut self) {
        assert_eq!(self.opened_by, tid(), "dropped by another thread");
        self.openings.dropped.lock().unwrap().push(tid());
    }
}

impl Openings {
    fn pool(&self, builder: ThreadPoolBuilder) -> StatePool<Connection> {
        let openings = self.clone();
        let open = move || {
            openings.opened.lock().unwrap().push(tid());
            io::Result::Ok(Connection { opened_by: tid(), uses: Rc::new(0), openings: openings.clone() })
        };
        builder.build_with_worker_state(open).unwrap()
    }

    fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    fn dropped(&self) -> usize {
        self.dropped.lock().unwrap().len()
    }
}

/// Uses a value. Returns how often it has been used.
fn use_it(connection: &mut Connection) -> u32 {
    assert_eq!(connection.opened_by, tid(), "used by another thread");
    *Rc::get_mut(&mut connection.uses).unwrap() += 1;
    *connection.uses
}

fn single() -> ThreadPoolBuilder {
    ThreadPool::builder().max_workers(1)
}

#[test]
fn a_value_is_opened_with_the_first_job_and_reused() {
    let openings = Openings::default();
    let pool = openings.pool(single());
    end(pool.thread_pool().run(|| ())).unwrap();
    assert_eq!(openings.opened(), 0, "opened although no job needed it");
    for n in 1..=10 {
        assert_eq!(end(pool.run(use_it)).unwrap(), n);
    }
    assert_eq!((openings.opened(), openings.dropped()), (1, 0));
}

#[test]
fn each_thread_has_one_value_and_drops_it_when_it_leaves() {
    let openings = Openings::default();
    let pool = openings.pool(ThreadPool::builder().max_workers(4).idle_timeout(Duration::from_millis(50)));
    let barrier = Arc::new(Barrier::new(4));
    for _ in 0..2 {
        let jobs: Vec<_> = (0..4)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                pool.run(move |connection| {
                    barrier.wait();
                    use_it(connection);
                })
            })
            .collect();
        for job in jobs {
            end(job).unwrap();
        }
    }
    let opened = openings.opened();
    assert!(opened >= 4, "{opened} values for four threads");
    eventually("the threads leave", || pool.thread_pool().worker_count() == 0);
    eventually("their values are dropped", || openings.dropped() == openings.opened());
    let mut threads = openings.opened.lock().unwrap().clone();
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), openings.opened(), "a thread opened twice");
}

#[test]
fn a_shutdown_drops_the_values_before_it_reports() {
    let dropped = Count::new();
    let count = dropped.clone();
    let open = move || {
        let count = count.clone();
        io::Result::Ok(OnDrop(move || {
            // Slow, so that a report that did not wait for it would be first.
            std::thread::sleep(Duration::from_millis(50));
            count.add();
        }))
    };
    let pool = single().build_with_worker_state(open).unwrap();
    end(pool.run(|_| ())).unwrap();
    end(pool.shutdown(GIVE_UP)).unwrap();
    assert_eq!(dropped.get(), 1);
}

#[test]
fn after_a_panic_the_next_job_gets_a_new_value() {
    let openings = Openings::default();
    let pool = openings.pool(single());
    assert_eq!(end(pool.run(use_it)).unwrap(), 1);
    assert!(end(pool.run(|_: &mut Connection| panic!("mid-transaction"))).unwrap_err().is_panic());
    assert_eq!(openings.dropped(), 1);
    assert_eq!(end(pool.run(use_it)).unwrap(), 1);
    assert_eq!(openings.opened(), 2);
}

#[test]
fn a_discarded_value_is_dropped_and_the_next_job_gets_a_new_one() {
    let openings = Openings::default();
    let pool = openings.pool(single());
    let outcome = end(pool.run(|connection| {
        discard_worker_state();
        use_it(connection)
    }));
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(end(pool.run(use_it)).unwrap(), 1, "the broken value was used again");
    assert_eq!((openings.opened(), openings.dropped()), (2, 1));
    assert_eq!(end(pool.run(use_it)).unwrap(), 2, "one discard dropped two values");
}

#[test]
fn discarding_in_a_job_without_a_value_has_no_effect() {
    let openings = Openings::default();
    let pool = openings.pool(single());
    assert_eq!(end(pool.run(use_it)).unwrap(), 1);
    end(pool.thread_pool().run(discard_worker_state)).unwrap();
    assert_eq!(end(pool.run(use_it)).unwrap(), 2);
    assert_eq!(end(pool.run(use_it)).unwrap(), 3, "it took effect one job later");
}

#[test]
fn a_discarded_value_whose_destructor_panics_costs_no_job_its_result() {
    struct Broken;
    impl Drop for Broken {
        fn drop(&mut self) {
            panic!("a broken connection");
        }
    }
    let pool = single().build_with_worker_state(|| io::Result::Ok(Broken)).unwrap();
    let outcome = end(pool.run(|_: &mut Broken| {
        discard_worker_state();
        7
    }));
    assert_eq!(outcome.unwrap(), 7);
    let report = end(pool.shutdown(GIVE_UP)).unwrap();
    assert_eq!(report.stuck.len(), 0);
}

#[test]
fn a_job_whose_value_cannot_be_opened_ends_with_the_reason_and_the_next_one_tries_again() {
    let attempts = Count::new();
    let attempt = attempts.clone();
    let open = move || if attempt.add() == 1 { Err(io::Error::other("no route to host")) } else { Ok(7) };
    let pool = single().build_with_worker_state(open).unwrap();
    let ran = Count::new();
    let runs = ran.clone();
    let error = end(pool.run(move |_: &mut u32| runs.add())).unwrap_err();
    let ErrorKind::WorkerState(reason) = error.kind() else { panic!("{error:?}") };
    assert_eq!(reason.to_string(), "no route to host");
    assert_eq!(ran.get(), 0);
    assert_eq!(end(pool.run(|value: &mut u32| *value)).unwrap(), 7);
    assert_eq!(attempts.get(), 2);
}

#[test]
fn a_panic_while_opening_ends_only_the_job_that_needed_the_value() {
    let attempts = Count::new();
    let attempt = attempts.clone();
    let open = move || {
        assert!(attempt.add() > 1, "cannot open");
        io::Result::Ok(7)
    };
    let pool = single().build_with_worker_state(open).unwrap();
    assert!(end(pool.run(|value: &mut u32| *value)).unwrap_err().is_panic());
    assert_eq!(end(pool.run(|value: &mut u32| *value)).unwrap(), 7);
}

#[test]
fn a_stand_in_opens_a_value_of_its_own() {
    let openings = Openings::default();
    let pool = openings.pool(single());
    let inner = pool.clone();
    let outer = pool.run(move |connection| {
        let nested = inner.run(use_it).wait().unwrap();
        (use_it(connection), nested)
    });
    assert_eq!(end(outer).unwrap(), (1, 1));
    eventually("the stand-in's value is dropped", || openings.dropped() == 1);
}

#[test]
fn try_run_returns_the_closure() {
    let pool = single().queue_capacity(1).build_with_worker_state(|| io::Result::Ok(40)).unwrap();
    let gate = Gate::new();
    let pass = gate.clone();
    let busy = pool.run(move |_: &mut u32| pass.pass());
    eventually("it runs", || busy.state() == offloop::JobState::Running);
    let queued = pool.run(|value: &mut u32| *value + 1);
    let rejected = pool.try_run(|value: &mut u32| *value + 2).unwrap_err();
    assert!(matches!(rejected.kind(), ErrorKind::QueueFull { capacity: 1 }));
    gate.open();
    assert_eq!(end(queued).unwrap(), 41);
    assert_eq!(end(pool.run(rejected.into_work())).unwrap(), 42);
}

#[test]
fn a_policy_that_runs_jobs_on_other_threads_is_refused() {
    let builder = single().on_full(OnFull::CallerRuns);
    assert!(builder.build_with_worker_state(|| io::Result::Ok(())).is_err());
}

#[test]
fn a_pool_of_values_can_be_measured_cancelled_and_closed() {
    let pool = single().build_with_worker_state(|| io::Result::Ok(40)).unwrap();
    let gate = Gate::new();
    let pass = gate.clone();
    let busy = pool.run(move |_: &mut u32| pass.pass());
    eventually("it runs", || busy.state() == offloop::JobState::Running);
    let cancelled = pool.run(|value: &mut u32| *value);
    assert_eq!((pool.queued(), pool.metrics().queued, pool.worker_count()), (1, 1, 1));
    assert_eq!(pool.cancel_queued(), 1);
    assert!(end(cancelled).unwrap_err().is_cancelled());
    let accepted = pool.run(|value: &mut u32| *value + 2);
    pool.close();
    assert!(matches!(end(pool.run(|_: &mut u32| ())).unwrap_err().kind(), ErrorKind::Closed));
    gate.open();
    end(busy).unwrap();
    assert_eq!(end(accepted).unwrap(), 42);
    eventually("the threads leave", || pool.worker_count() == 0);
}

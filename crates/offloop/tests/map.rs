//! Streams of the results of many jobs.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::pin::Pin;
use std::task::{Context, Waker};

use common::{Count, Gate, comes_back, end, eventually, single};
use futures_lite::{Stream, StreamExt, future::block_on};
use offloop::{JobState, ThreadPool};

fn pool(threads: usize) -> ThreadPool {
    ThreadPool::builder().max_workers(threads).build().unwrap()
}

#[test]
fn results_come_in_order_whatever_order_the_jobs_end_in() {
    let gates: Vec<Gate> = (0..4).map(|_| Gate::new()).collect();
    let (passes, ended) = (gates.clone(), Count::new());
    let end_of = ended.clone();
    let mut results = pool(4)
        .map(0..4_usize, move |n| {
            passes[n].pass();
            end_of.add();
            n
        })
        .buffersize(4);
    let waker = Context::from_waker(Waker::noop());
    let mut waker = waker;
    assert!(Pin::new(&mut results).poll_next(&mut waker).is_pending());
    for gate in gates.iter().rev() {
        let before = ended.get();
        gate.open();
        eventually("one more ends", || ended.get() > before);
    }
    let results: Vec<_> = std::iter::from_fn(|| results.wait_next()).map(Result::unwrap).collect();
    assert_eq!(results, [0, 1, 2, 3]);
}

#[test]
fn unordered_results_come_as_the_jobs_end() {
    let gates: Vec<Gate> = (0..4).map(|_| Gate::new()).collect();
    let passes = gates.clone();
    let work = move |n: usize| {
        passes[n].pass();
        n
    };
    let mut results = pool(4).map(0..4, work).buffersize(4).unordered();
    for n in [2, 0, 3, 1] {
        gates[n].open();
        assert_eq!(results.wait_next().unwrap().unwrap(), n);
    }
    assert!(results.wait_next().is_none());
    assert!(results.wait_next().is_none(), "a stream that has ended stays ended");
}

#[test]
fn an_endless_iterator_is_read_lazily_and_within_the_buffersize() {
    let (taken, jobs) = (Count::new(), Count::new());
    let (take, under_way) = (taken.clone(), jobs.clone());
    let items = std::iter::repeat_with(move || take.add());
    let mut results = pool(8)
        .map(items, move |n| {
            under_way.add();
            n
        })
        .buffersize(3);
    assert_eq!(taken.get(), 0, "items were taken before the stream was read");
    for n in 1..=100 {
        assert_eq!(results.wait_next().unwrap().unwrap(), n);
        assert!(taken.get() <= n + 2, "{} items taken for {n} results", taken.get());
    }
    assert!(jobs.get() <= 102);
}

#[test]
fn finished_but_unread_results_count_for_the_buffersize() {
    let ran = Count::new();
    let run = ran.clone();
    let mut results = pool(4).map(0.., move |n| (run.add(), n).1).buffersize(2).unordered();
    results.wait_next().unwrap().unwrap();
    let pool = pool(1);
    eventually("the others under way end", || ran.get() >= 2);
    end(pool.run(|| ())).unwrap();
    assert!(ran.get() <= 2, "{} jobs ran for one result with a buffersize of 2", ran.get());
}

#[test]
fn an_error_is_one_item_and_the_others_go_on() {
    let results = single().map(0..5, |n| assert!(n != 2, "two"));
    let results: Vec<_> = block_on(results.collect());
    let failed: Vec<_> = results.iter().map(|result: &Result<(), _>| result.is_err()).collect();
    assert_eq!(failed, [false, false, true, false, false]);
    assert!(results[2].as_ref().unwrap_err().is_panic());
}

#[test]
fn dropping_a_map_cancels_the_jobs_under_way() {
    let pool = single();
    let (started, gate, ran) = (Count::new(), Gate::new(), Count::new());
    let (start, pass, run) = (started.clone(), gate.clone(), ran.clone());
    let work = move |_| {
        start.add();
        pass.pass();
        run.add();
        offloop::job::is_cancelled()
    };
    let mut results = pool.map(0..100, work).buffersize(10);
    let mut waker = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut results).poll_next(&mut waker).is_pending());
    eventually("the first runs", || started.get() == 1);
    assert_eq!(pool.queued(), 9);
    drop(results);
    assert_eq!(pool.queued(), 0);
    gate.open();
    end(pool.run(|| ())).unwrap();
    assert_eq!(ran.get(), 1);
}

#[test]
fn a_job_may_map_over_its_own_pool_of_one_thread() {
    let pool = single();
    for ordered in [true, false] {
        let inner = pool.clone();
        let outer = pool.run(move || {
            let squares = inner.map(1..=20_u32, |n| n * n).buffersize(5);
            let mut squares = if ordered { squares } else { squares.unordered() };
            std::iter::from_fn(|| squares.wait_next()).map(Result::unwrap).sum::<u32>()
        });
        assert_eq!(end(outer).unwrap(), 2870);
    }
}

#[test]
fn between_results_a_job_that_maps_has_no_stand_in() {
    let pool = single();
    let inner = pool.clone();
    let (gate, asked) = (Gate::new(), Gate::new());
    let (pass, ask) = (gate.clone(), asked.clone());
    let outer = pool.run(move || {
        // The first result comes while this job waits. The other jobs run when it has returned or waits again.
        let mut results = inner.map(0..3, |n| n).buffersize(3).unordered();
        let first = results.wait_next().unwrap().unwrap();
        ask.open();
        pass.pass();
        first + std::iter::from_fn(|| results.wait_next()).map(Result::unwrap).sum::<i32>()
    });
    asked.pass();
    let other = pool.run(|| 7);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(other.state(), JobState::Queued, "it ran beside the job that maps");
    gate.open();
    assert_eq!(end(outer).unwrap(), 3);
    assert_eq!(end(other).unwrap(), 7);
}

#[test]
fn boxed_closures_can_be_mapped_over_any_executor() {
    let work: Vec<Box<dyn FnOnce() -> u32 + Send>> = vec![Box::new(|| 1), Box::new(|| 2)];
    let sum = comes_back("the map", || {
        let mut results = offloop::map(single(), work);
        std::iter::from_fn(move || results.wait_next()).map(Result::unwrap).sum::<u32>()
    });
    assert_eq!(sum, 3);
}

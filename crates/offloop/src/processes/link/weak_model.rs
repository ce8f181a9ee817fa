//! Models of the ring under loom: the very ends of a link, on two threads of one process. A lost wake-up shows as a
//! deadlock, since no wait has a limit. Memory that both sides access at once is found by the model checker.
//!
//! The sleepers' and wakers' accesses are sequentially consistent: each stores its own word and then loads the other's.
//! The rest is relaxed, except for:
//!
//! | access | ordering | fails without it |
//! | --- | --- | --- |
//! | `state` becomes `Claimed` | acquires the offer | each model of a call |
//! | `state` is no `Item` any more | acquires the pool's release of the slot | `items_come_in_order_and_none_is_lost` |
//! | `returns.put` | acquire a store, release | `a_block_that_was_given_back_is_read_no_more` |
//! | `returns.taken` | acquire a store, release | `a_block_that_was_given_back_is_read_no_more` |
//!
//! The test `each_ordering_is_needed` weakens each of them, and sees a model fail.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::EventfdFlags;
use rustix::net::RecvFlags;

use super::message::{AnswerTag, SlotHeader};
use super::pool_end::Link;
use super::ring::{RETURNS, Ring, SLOTS, state};
use super::worker_end::{UNHEARD, WorkerEnd};
use crate::base::sync::weak::check;
use crate::base::sync::{Mutex, UnsafeCell, thread};
use crate::processes::os::block;
use crate::wire::arena;
use crate::wire::payload::Payload;

/// The eventfd on which the pool's listener waits.
struct Listener {
    event: OwnedFd,
}

impl Listener {
    fn drain(&self) {
        let _ = block::wake(|| rustix::io::read(&self.event, &mut [0; 8]));
    }

    fn wait(&self) {
        block::wait_for(|| rustix::io::read(&self.event, &mut [0; 8]).ok());
    }
}

/// Makes both ends of a link, and the listener's event.
fn link() -> (Arc<Link>, WorkerEnd, Listener) {
    let (_, results) = arena::create(4096, false).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let ring = Ring::new();
    let end = WorkerEnd::over(ring.clone(), theirs, event.try_clone().unwrap()).unwrap();
    (Arc::new(Link::over(ring, ours, Arc::new(results), 1 << 20)), end, Listener { event })
}

fn offer(link: &Link, job: u64) {
    link.offer(at(job), job, 0, 0, &Payload::text(&job.to_string()));
    if link.must_wake() {
        link.wake();
    }
}

/// Returns the number of the slot of a job. Jobs are numbered from 1 on.
fn at(job: u64) -> u32 {
    u32::try_from(job - 1).unwrap()
}

fn take(link: &Arc<Link>, job: u64) {
    let answer = link.take(at(job), job).unwrap();
    assert_eq!(answer.body(), job.to_string().as_bytes());
}

fn header(job: u64) -> SlotHeader {
    SlotHeader { job, tag: AnswerTag::Done as u32, ..SlotHeader::default() }
}

/// Answers one call, if there is one. Returns its job.
fn answer_next(end: &mut WorkerEnd) -> Option<u64> {
    let request = end.claim()?;
    assert_eq!(request.body(), request.job.to_string().as_bytes());
    end.answer(header(request.job), &Payload::text(&request.job.to_string()));
    Some(request.job)
}

/// Serves the link as a worker does, until it ends. Returns the jobs that it has run.
fn serve(mut end: WorkerEnd) -> Vec<u64> {
    let mut jobs = Vec::new();
    loop {
        while let Some(job) = answer_next(&mut end) {
            jobs.push(job);
        }
        if end.is_heard() {
            end.need_not_announce();
        } else {
            end.announce();
        }
        if !end.is_due() && !end.sleep(None) {
            return jobs;
        }
    }
}

/// Waits as the supervisor does, until `done` returns true. It is called after each wake-up.
fn supervise(link: &Link, mut done: impl FnMut() -> bool) {
    loop {
        link.request_wake_up();
        if done() {
            return;
        }
        block::wait_for(|| match rustix::net::recv(&link.socket, &mut [0_u8; 64], RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => None,
            _ => Some(()),
        });
    }
}

/// Returns whether the job has been answered, and takes the answer.
fn has_taken(link: &Arc<Link>, job: u64) -> bool {
    let answered = link.state(at(job)) == state::ANSWERED;
    if answered {
        take(link, job);
    }
    answered
}

#[test]
fn a_caller_that_sleeps_on_its_call_is_woken_by_the_answer() {
    check(3, || {
        let (link, end, _listener) = link();
        let worker = thread::spawn(move || serve(end));
        for job in 1..=2 {
            offer(&link, job);
            while !has_taken(&link, job) {
                link.await_answer(at(job), UNHEARD);
            }
        }
        link.close();
        worker.join().unwrap();
    });
}

#[test]
fn the_supervisor_is_woken_by_an_answer() {
    check(3, || {
        let (link, end, _listener) = link();
        let worker = thread::spawn(move || serve(end));
        for job in 1..=2 {
            offer(&link, job);
            supervise(&link, || has_taken(&link, job));
        }
        link.close();
        worker.join().unwrap();
    });
}

#[test]
fn the_listener_is_woken_by_an_answer() {
    check(3, || {
        let (link, end, listener) = link();
        let worker = thread::spawn(move || serve(end));
        for job in 1..=2 {
            offer(&link, job);
            loop {
                listener.drain();
                link.listen();
                if has_taken(&link, job) {
                    break;
                }
                listener.wait();
            }
        }
        link.close();
        worker.join().unwrap();
    });
}

#[test]
fn slots_are_used_again_and_a_call_is_either_claimed_or_withdrawn() {
    check(2, || {
        let (link, end, _listener) = link();
        let worker = thread::spawn(move || serve(end));
        let last = u64::from(SLOTS) + 1;
        offer(&link, 1);
        offer(&link, 2);
        let withdrawn: Vec<u64> = [2, 1].into_iter().filter(|job| link.withdraw(at(*job))).collect();
        let has_ended = |job| {
            let mut ended = false;
            supervise(&link, || {
                let is_withdrawn = withdrawn.contains(&job);
                ended =
                    if is_withdrawn { link.state(at(job)) == state::EMPTY } else { has_taken(&link, job) };
                ended
            });
        };
        has_ended(1);
        offer(&link, last);
        has_ended(2);
        has_ended(last);
        link.close();
        let ran = worker.join().unwrap();
        assert!((1..=last).all(|job| ran.contains(&job) != withdrawn.contains(&job)));
    });
}

#[test]
fn items_come_in_order_and_none_is_lost() {
    check(3, || {
        let (link, mut end, _listener) = link();
        let worker = thread::spawn(move || {
            loop {
                if let Some(request) = end.claim() {
                    for item in ["a", "b"] {
                        end.emit(header(request.job), &Payload::text(item));
                    }
                    end.answer(header(request.job), &Payload::text("1"));
                    end.announce();
                }
                if !end.is_due() && !end.sleep(None) {
                    return;
                }
            }
        });
        let mut items = Vec::new();
        offer(&link, 1);
        supervise(&link, || {
            if link.state(0) == state::ITEM {
                items.extend_from_slice(link.take_item(0, 1).unwrap().body());
            }
            has_taken(&link, 1)
        });
        assert_eq!(items, b"ab");
        link.close();
        worker.join().unwrap();
    });
}

/// Memory of the worker's arena.
struct Block(UnsafeCell<u32>);

// SAFETY: the pool reads it until it gives it back, and the worker writes to it after that. The model checks that.
unsafe impl Sync for Block {}
// SAFETY: as above.
unsafe impl Send for Block {}

#[test]
fn a_block_that_was_given_back_is_read_no_more() {
    check(3, || {
        let (link, end, _listener) = link();
        let count = RETURNS + 1;
        let blocks: Arc<Vec<Block>> = Arc::new((0..count).map(|_| Block(UnsafeCell::new(0))).collect());
        let theirs = Arc::clone(&blocks);
        let worker = thread::spawn(move || {
            let mut returned = Vec::new();
            while let Some(offset) = end.returned() {
                // SAFETY: the pool has given the block back.
                theirs[usize::try_from(offset).unwrap()].0.with_mut(|block| unsafe { *block = 1 });
                returned.push(offset);
            }
            (end, returned)
        });
        for offset in 0..count {
            // SAFETY: the pool has not given the block back.
            blocks[offset as usize].0.with(|block| assert_eq!(unsafe { *block }, 0));
            link.give_back(offset.into());
        }
        let (end, mut returned) = worker.join().unwrap();
        loop {
            let all_passed_on = link.pass_on_returns();
            returned.extend(std::iter::from_fn(|| end.returned()));
            if all_passed_on {
                break;
            }
        }
        returned.sort_unstable();
        assert_eq!(returned, (0..u64::from(count)).collect::<Vec<_>>());
    });
}

#[test]
fn a_worker_that_sleeps_is_woken_whichever_thread_offers() {
    check(2, || {
        let (link, end, _listener) = link();
        let worker = thread::spawn(move || serve(end));
        // The scheduler's lock: the next job.
        let next = Arc::new(Mutex::new(1));
        let submit = |link: &Link, next: &Mutex<u64>| {
            let mut next = next.lock();
            let job = *next;
            *next += 1;
            link.offer(at(job), job, 0, 0, &Payload::text(&job.to_string()));
            let must_wake = link.must_wake();
            drop(next);
            if must_wake {
                link.wake();
            }
        };
        let other = {
            let (link, next) = (Arc::clone(&link), Arc::clone(&next));
            thread::spawn(move || submit(&link, &next))
        };
        submit(&link, &next);
        let mut taken = 0;
        supervise(&link, || {
            while taken < 2 && has_taken(&link, taken + 1) {
                taken += 1;
            }
            taken == 2
        });
        other.join().unwrap();
        link.close();
        worker.join().unwrap();
    });
}

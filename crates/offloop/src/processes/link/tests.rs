//! Both ends of links within one process, on two threads; and one end whose other end violates the protocol.

#![allow(clippy::cast_possible_truncation, reason = "the numbers only tell things apart")]

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::net::RecvFlags;

use super::*;
use crate::processes::link::pool_end::Handout;
use crate::processes::link::ring::{RETURNS, Shared, Slot};
use crate::processes::os::fd::is_readable_within;
use crate::wire::arena;
use crate::wire::arena::tests::arena_of_this_process;
use crate::wire::blob::{Blob, BlobMut};
use crate::wire::memfd::MemoryFile;
use crate::wire::payload::{Incoming, PARTS, Payload};
use crate::wire::pool_memory::PoolMemory;

/// A wait that takes this long has failed. No correct run takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest limit of a sleep on a futex here. A sleeper that wakes this late was not woken.
const LONG: Duration = Duration::from_millis(990);

/// Makes both ends of a link, on which the slot number `first` has the first turn.
fn link(first: u32) -> (Arc<Link>, WorkerEnd) {
    let (mut link, Handout { socket, files: [ring, _arena] }) = Link::create(1 << 20).unwrap();
    // Both ends read the one arena of this process, to which both write.
    link.results = Arc::new(arena_of_this_process());
    let mut end = WorkerEnd::new(UnixStream::from(socket), no_listener(), ring.as_fd()).unwrap();
    end.segments.insert(0, arena_of_this_process());
    (end.at, end.announced) = (first, first);
    (Arc::new(link), end)
}

/// A generator of pseudo-random numbers, the same ones in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    /// Passes a few microseconds at most.
    fn hesitate(&mut self, longest: usize) {
        (0..self.below(longest)).for_each(|_| std::hint::spin_loop());
    }

    /// Passes up to about a hundred microseconds, mostly far less.
    fn dawdle(&mut self) {
        let spins = [0, 10, 100, 1000, 10_000][self.below(5)];
        (0..self.below(spins + 1)).for_each(|_| std::hint::spin_loop());
    }
}

/// Waits like `wait_for`, for races of a few nanoseconds: it yields the core only if the wait is long.
#[track_caller]
fn watch_for(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::hint::spin_loop();
    }
    wait_for(what, holds);
}

#[track_caller]
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        thread::yield_now();
    }
}

fn wake_if_asleep(link: &Link) {
    if link.must_wake() {
        link.wake();
    }
}

fn value(number: u64) -> Payload {
    Payload::encode(&number).unwrap()
}

fn done(job: u64) -> SlotHeader {
    SlotHeader { job, tag: AnswerTag::Done as u32, ..SlotHeader::default() }
}

/// Makes a blob in shared memory that is large enough to travel as a part.
fn blob(length: usize, fill: u8) -> Blob {
    let mut blob = BlobMut::zeroed(length);
    blob.fill(fill);
    blob.freeze()
}

// ---- Decoding ----

fn list(spans: &[(u64, u64)]) -> Vec<u8> {
    spans.iter().flat_map(|(offset, length)| [offset.to_le_bytes(), length.to_le_bytes()]).flatten().collect()
}

#[test]
fn a_well_formed_frame_is_decoded() {
    let header = SlotHeader { parts: 2, inline: 3, ..SlotHeader::default() };
    let data = [list(&[(0, 100), (60, 40)]), b"abcdef".to_vec()].concat();
    let parts = vec![Span { offset: 0, length: 100 }, Span { offset: 60, length: 40 }];
    let frame = Frame { body: FrameBody::Inline(b"abc".to_vec()), parts };
    assert_eq!(decode_frame(&header, data, 100, 143), Ok(frame));

    let header = SlotHeader { inline: FAR, offset: 90, length: 10, ..SlotHeader::default() };
    let frame = Frame { body: FrameBody::Far(Span { offset: 90, length: 10 }), parts: Vec::new() };
    assert_eq!(decode_frame(&header, Vec::new(), 100, 10), Ok(frame));

    let empty = Frame { body: FrameBody::Inline(Vec::new()), parts: Vec::new() };
    assert_eq!(decode_frame(&SlotHeader::default(), Vec::new(), 0, 0), Ok(empty));
}

#[test]
fn each_malformed_thing_is_refused_with_its_own_error() {
    let header = SlotHeader::default();
    let far = |offset, length| SlotHeader { inline: FAR, offset, length, ..header };
    let outside = |offset, length| Malformed::Far { offset, length, size: 100 };
    let many = u32::try_from(PARTS).unwrap();
    let cases = [
        (SlotHeader { parts: many + 1, ..header }, vec![0; DATA], Malformed::Parts(many + 1)),
        (SlotHeader { parts: u32::MAX, ..header }, vec![0; DATA], Malformed::Parts(u32::MAX)),
        (SlotHeader { parts: 2, ..header }, list(&[(0, 1)]), Malformed::Parts(2)),
        (SlotHeader { parts: 1, ..header }, vec![0; SPAN - 1], Malformed::Parts(1)),
        (SlotHeader { parts: 1, ..header }, list(&[(0, 101)]), outside(0, 101)),
        (SlotHeader { parts: 1, ..header }, list(&[(101, 0)]), outside(101, 0)),
        (SlotHeader { parts: 2, ..header }, list(&[(0, 1), (u64::MAX, 2)]), outside(u64::MAX, 2)),
        (SlotHeader { inline: 4, ..header }, vec![0; 3], Malformed::Inline(4)),
        (SlotHeader { inline: FAR - 1, ..header }, vec![0; DATA], Malformed::Inline(FAR - 1)),
        (SlotHeader { parts: 1, inline: 1, ..header }, list(&[(0, 1)]), Malformed::Inline(1)),
        (far(100, 1), Vec::new(), outside(100, 1)),
        (far(1, u64::MAX), Vec::new(), outside(1, u64::MAX)),
        (SlotHeader { inline: 51, ..header }, vec![0; 51], Malformed::Size { size: 51, limit: 50 }),
        (far(0, 51), Vec::new(), Malformed::Size { size: 51, limit: 50 }),
        (
            SlotHeader { parts: 2, inline: 1, ..header },
            [list(&[(0, 25), (0, 25)]), vec![0]].concat(),
            Malformed::Size { size: 51, limit: 50 },
        ),
    ];
    for (header, data, error) in cases {
        assert_eq!(decode_frame(&header, data, 100, 50), Err(error), "{header:?}");
    }
}

/// Numbers that are likely to be misused: small ones, those near a power of two, and the largest.
fn number() -> impl Strategy<Value = u64> {
    let near = (0..64_u32, -2..3_i64).prop_map(|(bit, off)| (1_u64 << bit).wrapping_add_signed(off));
    prop_oneof![2 => 0..5000_u64, 1 => near, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn header() -> impl Strategy<Value = SlotHeader> {
    let parts = prop_oneof![4 => 0..4_u32, 2 => 0..40_u32, 1 => any::<u32>()];
    let inline = prop_oneof![3 => Just(FAR), 3 => 0..100_u32, 1 => 0..3000_u32, 1 => any::<u32>()];
    let tag = prop_oneof![4 => 0..6_u32, 1 => any::<u32>()];
    (any::<(bool, u32, [u64; 4])>(), tag, parts, inline, number(), number()).prop_map(
        |((job, flags, [began, nanos, on_core, run_delay]), tag, parts, inline, offset, length)| SlotHeader {
            job: u64::from(job),
            tag,
            flags,
            began,
            nanos,
            on_core,
            run_delay,
            parts,
            inline,
            offset,
            length,
        },
    )
}

/// A list of parts with other bytes behind it, cut off anywhere.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let spans = prop::collection::vec((number(), number()), 0..40);
    let rest = prop::collection::vec(any::<u8>(), 0..100);
    (spans, rest, 0..DATA + 100).prop_map(|(spans, rest, end)| {
        let mut data = [list(&spans), rest].concat();
        data.truncate(end);
        data
    })
}

/// Returns whether everything that a frame refers to is there: the same rules, in numbers that cannot overflow.
fn is_well_formed(header: &SlotHeader, data: &[u8], arena: u64, limit: u64) -> bool {
    let listed = header.parts as usize * SPAN;
    if header.parts as usize > PARTS || listed > data.len() {
        return false;
    }
    let of_part = |entry: &[u8]| {
        let (offset, length) = entry.split_at(8);
        [offset, length].map(|it| u128::from(u64::from_le_bytes(it.try_into().unwrap())))
    };
    let mut spans: Vec<[u128; 2]> = data[..listed].chunks(SPAN).map(of_part).collect();
    let mut size = 0;
    if header.inline == FAR {
        spans.push([header.offset.into(), header.length.into()]);
    } else {
        size = u128::from(header.inline);
        if (data.len() - listed) < header.inline as usize {
            return false;
        }
    }
    size += spans.iter().map(|[_, length]| length).sum::<u128>();
    size <= u128::from(limit) && spans.iter().all(|[offset, length]| offset + length <= u128::from(arena))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_decoded_lies_within_its_bounds_and_all_else_is_refused(
        header in header(),
        data in contents(),
        // No process has more address space.
        arena in number().prop_map(|size| size % (1 << 57)),
        limit in number(),
    ) {
        let decoded = decode_frame(&header, data.clone(), arena, limit);
        prop_assert_eq!(decoded.is_ok(), is_well_formed(&header, &data, arena, limit), "{:?}", decoded);
        let Ok(Frame { body, parts }) = decoded else { return Ok(()) };
        prop_assert_eq!(parts.len(), header.parts as usize);
        prop_assert!(parts.capacity() <= PARTS, "more is allocated than has come");
        let mut size = parts.iter().map(|part| part.length).sum::<u64>();
        match &body {
            FrameBody::Inline(bytes) => {
                let start = header.parts as usize * SPAN;
                prop_assert_eq!(bytes, &data[start..start + header.inline as usize]);
                size += bytes.len() as u64;
            }
            FrameBody::Far(span) => {
                prop_assert_eq!(span, &Span { offset: header.offset, length: header.length });
                size += span.length;
            }
        }
        prop_assert!(size <= limit);
    }
}

// ---- Calls and answers ----

type Arguments = (u64, String, Option<Blob>);

/// Makes the arguments of a call: short or long, with or without a blob.
fn arguments(job: u64) -> Arguments {
    let text = "x".repeat(if job % 5 == 0 { 3000 } else { 20 });
    (job, text, (job % 7 == 0).then(|| blob(2000, u8::try_from(job % 251).unwrap())))
}

/// A worker that checks the arguments of its calls and answers with them.
struct Echo {
    end: WorkerEnd,
    dice: Dice,
    claimed: Vec<u64>,
    /// As in a real worker: the blobs that the pool still reads, and how often each was sent.
    lent: HashMap<u64, (Blob, u32)>,
}

impl Echo {
    fn new(end: WorkerEnd) -> Self {
        Self { end, dice: Dice(42), claimed: Vec::new(), lent: HashMap::new() }
    }

    fn run(mut self) -> Self {
        loop {
            self.take_returns();
            if let Some(request) = self.end.claim() {
                self.answer(&request);
                continue;
            }
            self.dice.dawdle();
            if self.end.is_due() {
                continue;
            }
            self.end.announce();
            let limit = self.dice.one_in(2).then_some(LONG);
            if !self.end.sleep(limit) {
                return self;
            }
        }
    }

    fn answer(&mut self, request: &Request) {
        let job = request.job;
        assert_eq!((request.task, request.flags), (job as u32 % 11, job as u32 % 2));
        let incoming = Incoming { body: request.body(), parts: &request.parts };
        let (said, text, part) = incoming.decode::<Arguments>().unwrap();
        assert!((said, &text, &part) == (job, &arguments(job).1, &arguments(job).2), "of another call");
        self.claimed.push(job);
        // The blob is in the pool's arena, so it is copied to be sent back.
        let part = part.map(|part| blob(part.len(), part[0]));
        let payload = Payload::encode(&(job, text, part)).unwrap();
        self.end.answer(SlotHeader { nanos: job * 3, flags: 9, ..done(job) }, &payload);
        for blob in payload.into_blobs() {
            let (offset, _) = blob.location().unwrap();
            self.lent.entry(offset).or_insert((blob, 0)).1 += 1;
        }
        if self.dice.one_in(3) {
            self.end.announce();
        }
    }

    fn take_returns(&mut self) {
        while let Some(offset) = self.end.returned() {
            let (_, times) = self.lent.get_mut(&offset).expect("a block comes back that is not lent");
            *times -= 1;
            if *times == 0 {
                self.lent.remove(&offset);
            }
        }
    }
}

/// A call on its way, as a pool records it.
struct InFlight {
    slot: u32,
    job: u64,
    withdrawn: bool,
    /// Kept until the answer has come.
    _payload: Payload,
}

#[test]
fn every_call_is_either_claimed_or_withdrawn_and_in_order() {
    const JOBS: u64 = 30_000;
    // The numbers of slots overflow soon.
    let first = u32::MAX - 1000;
    let (link, end) = link(first);
    let worker = thread::spawn(|| Echo::new(end).run());
    let mut dice = Dice(7);
    let (mut next, mut job) = (first, 0);
    let (mut calls, mut answered, mut withdrawn) = (VecDeque::new(), Vec::new(), Vec::new());
    let mut kept = VecDeque::new();
    let mut progress = Instant::now();
    while job < JOBS || !calls.is_empty() {
        while job < JOBS && calls.len() < SLOTS as usize && !dice.one_in(4) {
            job += 1;
            let payload = Payload::encode(&arguments(job)).unwrap();
            link.offer(next, job, job as u32 % 11, job as u32 % 2, &payload);
            calls.push_back(InFlight { slot: next, job, withdrawn: false, _payload: payload });
            next = next.wrapping_add(1);
            wake_if_asleep(&link);
        }
        dice.dawdle();
        for call in calls.iter_mut().rev() {
            if !call.withdrawn && dice.one_in(8) && link.withdraw(call.slot) {
                call.withdrawn = true;
                withdrawn.push(call.job);
            }
        }
        while let Some(call) = calls.front() {
            match (call.withdrawn, link.state(call.slot)) {
                (false, state::ANSWERED) => {
                    let answer = link.take(call.slot, call.job).unwrap();
                    let took = Duration::from_nanos(call.job * 3);
                    assert_eq!((answer.tag, answer.ran.took, answer.kept), (AnswerTag::Done, took, 9));
                    let incoming = Incoming { body: answer.body(), parts: &answer.parts };
                    assert!(incoming.decode::<Arguments>().unwrap() == arguments(call.job));
                    answered.push(call.job);
                    kept.push_back(answer);
                }
                (true, state::EMPTY) => {}
                (false, state::OFFERED | state::CLAIMED) | (true, state::WITHDRAWN) => break,
                (withdrawn, state) => panic!("a call (withdrawn: {withdrawn}) in the state {state}"),
            }
            calls.pop_front();
            progress = Instant::now();
        }
        // Answers are read for a while, then dropped.
        kept.drain(..kept.len().saturating_sub(50));
        assert!(progress.elapsed() < PATIENCE, "the worker does not go on with {:?}", calls.len());
    }
    drop(kept);
    link.close();
    wait_for("the worker leaves", || worker.is_finished());
    let mut worker = worker.join().unwrap();
    worker.take_returns();
    assert!(worker.lent.is_empty(), "{} blocks did not come back", worker.lent.len());
    assert_eq!(worker.claimed, answered, "what was claimed was answered, in order");
    assert!(answered.is_sorted(), "in the order of the offers");
    assert!(!answered.is_empty() && !withdrawn.is_empty(), "both were tried");
    let mut all = [answered, withdrawn].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(1..=JOBS), "each is one or the other");
}

/// The pool withdraws each call at about the time at which the worker claims it.
#[test]
fn one_side_alone_wins_the_race_for_a_call() {
    const ROUNDS: u32 = 60_000;
    let (link, mut end) = link(0);
    let worker = thread::spawn(move || {
        let mut dice = Dice(19);
        let mut claimed = Vec::new();
        while end.at < ROUNDS {
            let before = end.at;
            watch_for("the next offer", || end.is_due());
            dice.hesitate(30);
            if let Some(request) = end.claim() {
                end.answer(done(request.job), &value(0));
                claimed.push(request.job);
            } else if end.at == before {
                // It was withdrawn at this moment.
                assert!(end.claim().is_none());
            }
        }
        claimed
    });
    let mut dice = Dice(23);
    let mut claimed = Vec::new();
    let payload = value(0);
    for (at, job) in (0..ROUNDS).zip(1..) {
        link.offer(at, job, 0, 0, &payload);
        dice.hesitate(30);
        if link.withdraw(at) {
            watch_for("the worker passes the withdrawn call", || link.state(at) != state::WITHDRAWN);
            assert_eq!(link.state(at), state::EMPTY, "the call was withdrawn and yet claimed");
        } else {
            watch_for("the worker answers the claimed call", || link.state(at) == state::ANSWERED);
            link.take(at, job).unwrap();
            claimed.push(job);
        }
    }
    wait_for("the worker has seen all calls", || worker.is_finished());
    assert_eq!(worker.join().unwrap(), claimed);
    assert!(claimed.len() > 100 && claimed.len() < ROUNDS as usize - 100, "no race: {}", claimed.len());
}

#[test]
fn a_claimed_call_cannot_be_withdrawn_and_a_withdrawn_one_cannot_be_claimed() {
    let (link, mut end) = link(0);
    (0..3).for_each(|at| link.offer(at, 10 + u64::from(at), 0, 0, &value(0)));
    assert!(link.withdraw(1));
    assert!(!link.withdraw(1), "only once");
    assert!(matches!(end.claim(), Some(Request { job: 10, .. })));
    assert!(!link.withdraw(0));
    end.answer(done(10), &value(0));
    assert!(!link.withdraw(0), "nor an answered one");
    assert!(matches!(end.claim(), Some(Request { job: 12, .. })), "the withdrawn one is passed over");
    assert_eq!(link.state(1), state::EMPTY);
    assert!(end.claim().is_none(), "one at a time");
    assert_eq!(link.state(2), state::CLAIMED);
}

#[test]
fn a_ring_full_of_answers_that_were_not_taken_gives_the_worker_nothing_to_do() {
    let (link, mut end) = link(0);
    for at in 0..SLOTS {
        link.offer(at, 1, 0, 0, &value(0));
        assert!(end.is_due());
        assert!(end.claim().is_some());
        end.answer(done(1), &value(0));
    }
    assert!(!end.is_due());
    assert!(end.claim().is_none());
    link.take(0, 1).unwrap();
    link.offer(SLOTS, 1, 0, 0, &value(0));
    assert!(end.is_due(), "round again");
}

#[test]
fn an_answer_is_taken_for_the_job_that_was_asked_alone_and_leaves_its_slot_empty() {
    for (header, asked, error) in [
        (done(5), 6, Malformed::Job { said: 5, asked: 6 }),
        (SlotHeader { tag: 0, ..done(5) }, 5, Malformed::AnswerTag(0)),
        (SlotHeader { tag: 6, ..done(5) }, 5, Malformed::AnswerTag(6)),
    ] {
        let (link, mut end) = link(0);
        link.offer(0, 5, 0, 0, &value(1));
        assert!(end.claim().is_some());
        end.answer(header, &value(1));
        assert_eq!(link.take(0, asked).err(), Some(error));
        assert_eq!(link.state(0), state::EMPTY);
    }
    for (kind, tag) in (1..)
        .zip([AnswerTag::Done, AnswerTag::Panicked, AnswerTag::BadArguments, AnswerTag::BadResult])
        .map(swap)
    {
        assert_eq!((kind as u32, AnswerTag::from_tag(tag)), (tag, Some(kind)));
    }
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

#[test]
fn an_answer_larger_than_the_limit_is_refused() {
    let (link, mut end) = link(0);
    for (extra, is_accepted) in [(0, true), (1, false)] {
        let at = u32::try_from(extra).unwrap();
        link.offer(at, 1, 0, 0, &value(1));
        assert!(end.claim().is_some());
        let result = blob((1 << 20) - 9 + extra, 3);
        let payload = Payload::encode(&(0_u8, 0_u8, result)).unwrap();
        assert_eq!(payload.size(), (1 << 20) + extra);
        end.answer(done(1), &payload);
        assert_eq!(link.take(at, 1).is_ok(), is_accepted);
    }
}

// ---- Sleeping and waking ----

/// Waits for an answer as the pool does, in one of three ways.
fn await_one(link: &Link, at: u32, way: usize) {
    let is_answered = || link.state(at) == state::ANSWERED;
    let began = Instant::now();
    match way {
        0 => wait_for("an answer that is looked for", is_answered),
        1 => {
            while !is_answered() {
                let slept = Instant::now();
                link.await_answer(at, LONG);
                assert!(slept.elapsed() < LONG, "the caller that waits for the answer was not woken");
                assert!(began.elapsed() < PATIENCE, "never: an answer that is slept for");
            }
        }
        _ => loop {
            link.request_wake_up();
            if is_answered() {
                return;
            }
            assert!(
                is_readable_within(link.socket(), PATIENCE),
                "the supervisor was not notified of the answer"
            );
            assert!(link.drain());
        },
    }
}

/// Sends one call at a time to a worker that is asleep or about to be, in one of these ways.
fn rounds(count: u64, ways: &'static [fn(&mut WorkerEnd) -> bool]) {
    let (link, mut end) = link(0);
    let worker = thread::spawn(move || {
        let mut dice = Dice(3);
        loop {
            if let Some(request) = end.claim() {
                dice.dawdle();
                end.answer(done(request.job), &value(request.job));
                dice.dawdle();
                end.announce();
                continue;
            }
            dice.dawdle();
            let slept = Instant::now();
            if !ways[dice.below(ways.len())](&mut end) {
                return;
            }
            assert!(slept.elapsed() < LONG || !end.is_due(), "it slept through an offer");
        }
    });
    let mut dice = Dice(5);
    for job in 1..=count {
        let at = u32::try_from(job - 1).unwrap();
        let payload = value(job);
        dice.dawdle();
        link.offer(at, job, 0, 0, &payload);
        dice.dawdle();
        wake_if_asleep(&link);
        await_one(&link, at, dice.below(3));
        let answer = link.take(at, job).unwrap();
        assert_eq!(answer.body(), payload.body());
    }
    link.close();
    wait_for("the worker leaves", || worker.is_finished());
    worker.join().unwrap();
}

const SOUNDLY: fn(&mut WorkerEnd) -> bool = |end| end.sleep(None);
const FOR_A_WHILE: fn(&mut WorkerEnd) -> bool = |end| end.sleep(Some(LONG));
const HARDLY: fn(&mut WorkerEnd) -> bool = |end| end.sleep(Some(Duration::from_micros(20)));

#[test]
fn no_wake_up_is_lost_on_a_sleeping_worker() {
    rounds(4000, &[SOUNDLY]);
    rounds(4000, &[FOR_A_WHILE]);
}

#[test]
fn no_wake_up_is_lost_on_a_worker_that_sleeps_in_different_ways() {
    rounds(4000, &[SOUNDLY, FOR_A_WHILE, HARDLY]);
}

/// The pool offers each call at about the time at which the worker falls asleep.
fn rounds_close_to_sleep(count: u32, way: fn(&mut WorkerEnd) -> bool) {
    let (link, mut end) = link(0);
    let worker = thread::spawn(move || {
        let mut dice = Dice(13);
        loop {
            if let Some(request) = end.claim() {
                end.answer(done(request.job), &value(0));
                end.need_not_announce();
            }
            dice.hesitate(150);
            let slept = Instant::now();
            if !way(&mut end) {
                return;
            }
            assert!(slept.elapsed() < LONG || !end.is_due(), "it slept through an offer");
        }
    });
    let mut dice = Dice(17);
    let payload = value(0);
    for at in 0..count {
        link.offer(at, 1, 0, 0, &payload);
        wake_if_asleep(&link);
        watch_for("an answer from one who falls asleep", || link.state(at) == state::ANSWERED);
        link.take(at, 1).unwrap();
        dice.hesitate(30);
    }
    link.close();
    wait_for("the worker leaves", || worker.is_finished());
    worker.join().unwrap();
}

#[test]
fn no_wake_up_is_lost_in_the_moment_of_falling_asleep() {
    for way in [SOUNDLY, FOR_A_WHILE] {
        rounds_close_to_sleep(30_000, way);
    }
}

/// The worker answers at about the time at which the caller, or the supervisor, goes to sleep for it.
#[test]
fn no_answer_is_missed_in_the_moment_of_falling_asleep_for_it() {
    for way in [1, 2] {
        let (link, mut end) = link(0);
        let done_with_all = Arc::new(AtomicU32::new(0));
        let is_over = Arc::clone(&done_with_all);
        let worker = thread::spawn(move || {
            while is_over.load(Ordering::SeqCst) == 0 {
                if let Some(request) = end.claim() {
                    end.answer(done(request.job), &value(0));
                    end.announce();
                }
            }
        });
        let mut dice = Dice(29);
        let payload = value(0);
        for at in 0..15_000 {
            link.offer(at, 1, 0, 0, &payload);
            dice.hesitate(100);
            await_one(&link, at, way);
            link.take(at, 1).unwrap();
        }
        done_with_all.store(1, Ordering::SeqCst);
        worker.join().unwrap();
    }
}

#[test]
fn exactly_one_caller_undertakes_to_wake_a_sleeper() {
    let (link, mut end) = link(0);
    assert!(link.is_awake() && !link.must_wake());
    let sleeper = thread::spawn(move || (end.sleep(None), end));
    wait_for("the worker sleeps", || !link.is_awake());
    let undertaken = thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| link.must_wake())).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).filter(|it| *it).count()
    });
    assert_eq!(undertaken, 1);
    link.wake();
    wait_for("the worker wakes", || sleeper.is_finished());
    assert!(sleeper.join().unwrap().0, "the link goes on");
}

#[test]
fn the_end_of_the_link_wakes_a_sleeper() {
    for way in [SOUNDLY, FOR_A_WHILE] {
        let (link, mut end) = link(0);
        let sleeper = thread::spawn(move || way(&mut end));
        wait_for("the worker sleeps", || !link.is_awake());
        let closed = Instant::now();
        link.close();
        wait_for("the worker leaves", || sleeper.is_finished());
        assert!(closed.elapsed() < LONG, "it was not woken");
        assert!(!sleeper.join().unwrap(), "it did not notice the end");
    }
}

#[test]
fn a_sleep_without_a_call_ends_with_its_limit_and_the_worker_counts_as_awake() {
    let (link, mut end) = link(0);
    let sleeper = thread::spawn(move || (HARDLY(&mut end), end));
    wait_for("the sleep ends", || sleeper.is_finished());
    assert!(link.is_awake() && !link.must_wake());
    assert!(sleeper.join().unwrap().0, "the link goes on");
}

#[test]
fn calls_that_were_offered_before_the_end_are_still_found() {
    let (link, mut end) = link(0);
    link.offer(0, 1, 0, 0, &value(1));
    link.close();
    assert!([SOUNDLY, FOR_A_WHILE].iter().all(|way| way(&mut end)), "there is something to do");
    assert!(end.claim().is_some());
    end.answer(done(1), &value(1));
    assert!(![SOUNDLY, FOR_A_WHILE].iter().any(|way| way(&mut end)), "now there is not");
}

#[test]
fn the_supervisor_is_notified_of_the_greeting() {
    let (link, end) = link(0);
    assert_eq!(link.greeting(), 0);
    end.greet(0xfeed);
    assert!(is_readable_within(link.socket(), PATIENCE));
    assert!(link.drain());
    assert_eq!(link.greeting(), 0xfeed);
    drop(end);
    assert!(is_readable_within(link.socket(), PATIENCE));
    assert!(!link.drain(), "the worker is gone");
}

/// Returns the number of notifications since the last call.
fn notifications(link: &Link) -> usize {
    rustix::net::recv(&link.socket, &mut [0; 64], RecvFlags::DONTWAIT).map_or(0, |(count, _)| count)
}

#[test]
fn an_announcement_notifies_a_supervisor_once_if_it_has_asked_for_that() {
    let (link, mut end) = link(0);
    let mut answer_next = |at: u32| {
        link.offer(at, 1, 0, 0, &value(1));
        assert!(end.claim().is_some());
        end.answer(done(1), &value(1));
        assert!(!end.has_announced());
        assert_eq!(notifications(&link), 0, "the answer itself is silent");
        end.announce();
        assert!(end.has_announced());
    };
    answer_next(0);
    assert_eq!(notifications(&link), 0, "no supervisor waits");
    link.request_wake_up();
    link.request_wake_up();
    answer_next(1);
    assert_eq!(notifications(&link), 1);
    answer_next(2);
    assert_eq!(notifications(&link), 0, "it has not asked again");
    link.request_wake_up();
    answer_next(3);
    end.announce();
    assert_eq!(notifications(&link), 1);
}

#[test]
fn a_caller_that_leaves_does_not_hide_the_next_one_that_waits_for_the_slot() {
    let (link, mut end) = link(0);
    let word = &link.ring.slot(0).awaited;
    link.offer(0, 1, 0, 0, &value(1));
    assert!(end.claim().is_some());
    thread::scope(|scope| {
        let first = scope.spawn(|| link.await_answer(0, Duration::from_millis(50)));
        wait_for("the first sleeps", || word.load(Ordering::SeqCst) != 0);
        let next = scope.spawn(|| await_one(&link, 0, 1));
        first.join().unwrap();
        wait_for("the next one sleeps", || word.load(Ordering::SeqCst) != 0);
        end.answer(done(1), &value(1));
        end.announce();
        next.join().unwrap();
    });
}

#[test]
fn the_pool_can_wake_a_caller_that_waits_for_an_answer() {
    let (link, mut end) = link(0);
    let word = &link.ring.slot(0).awaited;
    link.wake_sleepers(0);
    link.offer(0, 1, 0, 0, &value(1));
    assert!(end.claim().is_some());
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let began = Instant::now();
            link.await_answer(0, LONG);
            assert!(began.elapsed() < LONG, "it was not woken");
        });
        wait_for("the caller sleeps", || word.load(Ordering::SeqCst) != 0);
        wait_for("it is woken", || {
            link.wake_sleepers(0);
            caller.is_finished()
        });
    });
    assert_eq!(link.state(0), state::CLAIMED);
}

#[test]
fn a_caller_does_not_sleep_for_a_call_that_is_withdrawn_or_whose_answer_was_taken() {
    let (link, mut end) = link(0);
    link.offer(0, 1, 0, 0, &value(1));
    assert!(end.claim().is_some());
    end.answer(done(1), &value(1));
    assert!(link.await_answer(0, LONG), "there is an answer to take");
    drop(link.take(0, 1).unwrap());
    assert!(!link.await_answer(0, LONG));
    let word = &link.ring.slot(1).awaited;
    link.offer(1, 2, 0, 0, &value(2));
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let began = Instant::now();
            while link.await_answer(1, LONG) {
                assert!(began.elapsed() < LONG, "it was not woken");
            }
        });
        wait_for("the caller sleeps", || word.load(Ordering::SeqCst) != 0);
        // It may be on its way to its sleep.
        thread::sleep(Duration::from_millis(50));
        assert!(link.withdraw(1));
        caller.join().unwrap();
    });
}

#[test]
fn an_announcement_wakes_only_the_callers_that_wait_for_that_answer() {
    for round in 0..200_u32 {
        let (first, second) = (2 * round, 2 * round + 1);
        let (link, mut end) = link(first);
        let word = |at: u32| &link.ring.slot(at).awaited;
        link.offer(first, 1, 0, 0, &value(1));
        link.offer(second, 1, 0, 0, &value(1));
        link.request_wake_up();
        thread::scope(|scope| {
            let wait = |at: u32| {
                let link = &link;
                scope.spawn(move || await_one(link, at, 1))
            };
            let (one, other) = (wait(first), wait(second));
            wait_for("both sleep", || [first, second].map(|at| word(at).load(Ordering::SeqCst)) == [1, 1]);
            assert!(end.claim().is_some());
            end.answer(done(1), &value(1));
            end.announce();
            wait_for("the first one wakes", || one.is_finished());
            assert_eq!(word(second).load(Ordering::SeqCst), 1, "the other sleeps on");
            assert!(!other.is_finished());
            assert!(end.claim().is_some());
            end.answer(done(1), &value(1));
            end.announce();
        });
        assert_eq!(notifications(&link), 0, "the supervisor sleeps on, since the callers take the answers");
    }
}

#[test]
fn an_answer_that_was_taken_is_known_to_be_heard() {
    let (link, mut end) = link(0);
    link.offer(0, 1, 0, 0, &value(1));
    assert!(end.claim().is_some());
    end.answer(done(1), &value(1));
    assert!(!end.is_heard());
    link.take(0, 1).unwrap();
    assert!(end.is_heard());
    assert!(!end.has_announced());
    end.need_not_announce();
    assert!(end.has_announced());
}

#[test]
fn a_job_that_closes_the_socket_or_puts_another_file_in_its_place_is_noticed() {
    let (_link, end) = link(0);
    assert!(end.is_intact());
    let null = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: both descriptors are open, and their owners stay the same.
    let replaced = unsafe { libc::dup2(null.as_raw_fd(), end.socket.as_raw_fd()) };
    assert_eq!(replaced, end.socket.as_raw_fd());
    assert!(!end.is_intact());
}

// ---- Returns ----

/// Answers in all slots with as many parts as fit. Returns the answers, the payloads and the offsets of the blocks.
fn fill(link: &Arc<Link>, end: &mut WorkerEnd) -> (Vec<Answer>, Vec<Payload>, Vec<u64>) {
    let first = end.at;
    let (mut answers, mut payloads, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for at in (0..SLOTS).map(|it| first.wrapping_add(it)) {
        link.offer(at, 1, 0, 0, &value(1));
        assert!(end.claim().is_some());
        let blobs: Vec<Blob> = (0..PARTS).map(|_| blob(1024, 1)).collect();
        let payload = Payload::encode(&blobs).unwrap();
        offsets.extend(payload.parts().iter().map(|part| part.location().unwrap().0));
        end.answer(done(1), &payload);
        payloads.push(payload);
        answers.push(link.take(at, 1).unwrap());
    }
    offsets.sort_unstable();
    (answers, payloads, offsets)
}

#[test]
fn all_blocks_come_back_also_more_at_once_than_fit() {
    let (link, mut end) = link(0);
    // The counts of the queue overflow soon.
    for word in [&link.ring.shared().returns.put, &link.ring.shared().returns.taken] {
        word.0.store(u32::MAX - 300, Ordering::SeqCst);
    }
    let (answers, _payloads, offsets) = fill(&link, &mut end);
    assert!(offsets.len() > 3 * RETURNS as usize);
    assert_eq!(end.returned(), None, "they are all in use");
    drop(answers);
    let mut returned = Vec::new();
    while returned.len() < offsets.len() {
        let before = returned.len();
        returned.extend(std::iter::from_fn(|| end.returned()));
        assert!(returned.len() - before <= RETURNS as usize);
        assert!(returned.len() > before, "{before} of {} blocks have come back", offsets.len());
        link.pass_on_returns();
    }
    returned.sort_unstable();
    assert_eq!(returned, offsets);
    assert_eq!(end.returned(), None);
}

#[test]
fn blocks_come_back_from_many_threads_while_the_worker_takes_them() {
    let (link, mut end) = link(0);
    for _ in 0..4 {
        let (mut answers, _payloads, offsets) = fill(&link, &mut end);
        let mut returned = Vec::new();
        thread::scope(|scope| {
            for _ in 0..4 {
                let quarter = answers.split_off(answers.len() - SLOTS as usize / 4);
                scope.spawn(move || quarter.into_iter().for_each(drop));
            }
            let began = Instant::now();
            while returned.len() < offsets.len() && began.elapsed() < PATIENCE {
                returned.extend(end.returned());
                link.pass_on_returns();
            }
        });
        returned.sort_unstable();
        assert_eq!(returned, offsets);
    }
}

#[test]
fn a_block_is_given_back_once_for_each_time_it_was_sent() {
    let (link, mut end) = link(0);
    link.offer(0, 1, 0, 0, &value(1));
    assert!(end.claim().is_some());
    let twice = blob(1024, 1);
    let (offset, _) = twice.location().unwrap();
    end.answer(done(1), &Payload::encode(&[twice.clone(), twice.clone()]).unwrap());
    let answer = link.take(0, 1).unwrap();
    let kept = answer.parts[0].clone();
    drop(answer);
    assert_eq!((end.returned(), end.returned()), (Some(offset), None), "a clone holds the other");
    drop(kept);
    assert_eq!((end.returned(), end.returned()), (Some(offset), None));
}

// ---- The memory of the pool ----

/// Makes a link to a worker that has none of the memory of its pool.
fn link_without_memory() -> (Arc<Link>, WorkerEnd) {
    let (link, Handout { socket, files: [ring, _arena] }) = Link::create(1 << 20).unwrap();
    let end = WorkerEnd::new(UnixStream::from(socket), no_listener(), ring.as_fd()).unwrap();
    (Arc::new(link), end)
}

fn long(memory: &PoolMemory, value: u8) -> Payload {
    Payload::encode_call(None::<&()>, &(vec![value; 3000], Blob::from(vec![value; 5000])), memory).unwrap()
}

fn decode(request: &Request) -> (Vec<u8>, Blob) {
    Incoming { body: request.body(), parts: &request.parts }.decode_arguments().unwrap()
}

#[test]
fn a_worker_gets_a_segment_with_the_first_call_that_lies_in_it() {
    let memory = PoolMemory::new();
    let (link, mut end) = link_without_memory();
    for at in 0..20_u8 {
        let payload = if at % 5 == 4 { value(0) } else { long(&memory, at) };
        // Between the messages there may be others.
        (0..u32::from(at) * 7).for_each(|_| link.wake());
        link.offer(at.into(), 1, 0, 0, &payload);
        let request = end.claim().unwrap();
        if at % 5 != 4 {
            let (bytes, blob) = decode(&request);
            assert!(bytes == [at; 3000] && *blob == [at; 5000]);
        }
        end.answer(done(1), &value(0));
        link.take(at.into(), 1).unwrap();
    }
}

#[test]
fn a_worker_lets_go_of_a_segment_when_the_pool_does_unless_a_blob_holds_it() {
    let memory = PoolMemory::new();
    let (link, mut end) = link_without_memory();
    let offer = |at: u32, end: &mut WorkerEnd| {
        let payload = long(&memory, u8::try_from(at).unwrap());
        link.offer(at, 1, 0, 0, &payload);
        let blob = decode(&end.claim().unwrap()).1;
        end.answer(done(1), &value(0));
        link.take(at, 1).unwrap();
        (payload.arenas().next().unwrap().number(), blob)
    };
    let (first, blob) = offer(0, &mut end);
    link.detach(&memory.shrink_to(0));
    let (second, _) = offer(1, &mut end);
    assert_eq!((first, second), (0, 1));
    link.wake();
    assert!(end.sleep(Some(LONG)));
    let span = |number: u64| Span { offset: number << 36, length: 1 };
    assert!(end.segments.find(span(0)).is_none() && end.segments.find(span(1)).is_some());
    // Nobody else keeps the file now.
    assert!(*blob == [0; 5000]);
}

#[test]
fn a_call_whose_memory_does_not_arrive_is_left_to_another_worker() {
    let memory = PoolMemory::new();
    let (link, mut end) = link_without_memory();
    let payload = long(&memory, 1);
    link.offer(0, 1, 0, 0, &payload);
    // The message is lost.
    rustix::net::recv(&end.socket, &mut [0; 64], RecvFlags::DONTWAIT).unwrap();
    assert!(end.claim().is_none() && end.failure().is_some());
    assert_eq!(link.state(0), state::OFFERED);
}

// ---- A worker that violates the protocol ----

/// Makes a link whose worker has a small arena, all of which can be read.
fn link_with_small_arena() -> (Arc<Link>, Handout) {
    let (mut link, handout) = Link::create(1 << 20).unwrap();
    let (_file, results) = arena::create(64 << 10, false).unwrap();
    link.results = Arc::new(results);
    (Arc::new(link), handout)
}

/// Does everything that the pool does with memory to which a worker can write.
fn exercise(link: &Arc<Link>, at: u32, job: u64) {
    let _ = (link.greeting(), link.state(at), link.is_elsewhere(), link.is_awake(), link.withdraw(at));
    wake_if_asleep(link);
    let (_, data) = link.ring.read(at);
    assert!(data.len() <= DATA);
    if let Ok(answer) = link.take(at, job) {
        let memory = link.results.start().as_ptr().addr();
        let memory = memory..=memory + link.results.size();
        let is_far = matches!(answer.body, AnswerBody::Far(_));
        for bytes in answer.parts.iter().map(|part| &**part).chain(is_far.then(|| answer.body())) {
            let range = bytes.as_ptr_range();
            assert!(memory.contains(&range.start.addr()) && memory.contains(&range.end.addr()));
            assert!(bytes.iter().all(|&byte| byte == 0), "it is there to be read");
        }
        drop(answer);
    }
    link.give_back(job);
    link.pass_on_returns();
    link.await_answer(at, Duration::from_micros(1));
    link.request_wake_up();
    link.drain();
    link.offer(at, job, 0, 0, &value(job));
}

fn words() -> usize {
    size_of::<Shared>() / 4
}

/// Returns any 32 bits of the ring as a word.
fn word(link: &Link, index: usize) -> &AtomicU32 {
    assert!(index < words());
    // SAFETY: the word lies within the mapping and is aligned, and any bits are valid there.
    unsafe { link.ring.0.start().cast::<AtomicU32>().add(index).as_ref() }
}

/// The index of a word and a value for it. Words before the data of the slots are more frequent than those in it.
fn garbage() -> impl Strategy<Value = (usize, u32)> {
    let slots = std::mem::offset_of!(Shared, slots) / 4;
    let returns = std::mem::offset_of!(Shared, returns) / 4;
    let head = 2 + size_of::<SlotHeader>() / 4 + 8;
    let in_slot =
        (0..SLOTS as usize, 0..head).prop_map(move |(at, it)| slots + at * size_of::<Slot>() / 4 + it);
    let index = prop_oneof![2 => 0..returns + 64, 5 => in_slot, 1 => 0..words()];
    let value = prop_oneof![
        4 => 0..6_u32,
        2 => 0..2000_u32,
        1 => any::<u32>(),
        1 => Just(u32::MAX),
        1 => (u32::MAX - 300)..u32::MAX,
    ];
    (index, value)
}

#[test]
fn garbage_in_any_word_of_the_ring_does_no_harm() {
    let (link, _handout) = link_with_small_arena();
    let strategy = (prop::collection::vec(garbage(), 1..200), any::<u32>(), 0..3_u64);
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config)
        .run(&strategy, |(writes, at, job)| {
            // SAFETY: the bytes are those of the ring, to which only this thread has access.
            unsafe { link.ring.0.start().write_bytes(0, size_of::<Shared>()) };
            link.returns.lock().clear();
            for (index, value) in writes {
                word(&link, index).store(value, Ordering::Relaxed);
            }
            (0..SLOTS).for_each(|it| exercise(&link, at.wrapping_add(it), job));
            Ok(())
        })
        .unwrap();
}

#[test]
fn garbage_that_is_written_all_the_while_does_no_harm() {
    let (link, _handout) = link_with_small_arena();
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(11);
            let slots = std::mem::offset_of!(Shared, slots) / 4;
            while !done.load(Ordering::Relaxed) {
                // Mostly the header of the one slot that is looked at.
                let index = if dice.one_in(4) { dice.below(words()) } else { slots + dice.below(40) };
                let value = match dice.below(3) {
                    0 => dice.below(5) as u32,
                    1 => dice.below(3000) as u32,
                    _ => dice.roll() as u32,
                };
                word(&link, index).store(value, Ordering::Relaxed);
            }
        });
        for _ in 0..5000 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| exercise(&link, 0, 1)));
            if let Err(panic) = result {
                done.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
            link.returns.lock().truncate(100);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_worker_refuses_a_file_that_is_no_ring() {
    let (_link, Handout { socket, files: [ring, _] }) = Link::create(0).unwrap();
    let socket = UnixStream::from(socket);
    let small = MemoryFile::new("offloop-test", size_of::<Shared>() - 1).unwrap().sealed().unwrap();
    assert!(WorkerEnd::new(socket.try_clone().unwrap(), no_listener(), small.as_fd()).is_err());
    assert!(WorkerEnd::new(socket, no_listener(), ring.as_fd()).is_ok());
}

/// Returns a descriptor in the place of a listener's.
fn no_listener() -> std::os::fd::OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

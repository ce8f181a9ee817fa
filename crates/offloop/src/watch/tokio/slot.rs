//! What a thread says of itself while it polls, for another thread to read at any moment.

use std::panic::Location;
use std::ptr;
use std::slice;
use std::str;
use std::sync::OnceLock;

use super::thread::{self, This};
use crate::base::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use crate::watch::pulse::{Clock, Nanos};

/// A task as its watcher knows it: where it was spawned, and its name if it was given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// What [`Watched::named`](super::Watched::named) was given.
    pub name: Option<&'static str>,
    /// Where the task was spawned, or its future made.
    pub spawned_at: &'static Location<'static>,
}

/// The clock of all slots.
pub(super) fn clock() -> &'static Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(Clock::new)
}

/// No worker of a runtime, or not known to be one.
const NO_WORKER: usize = usize::MAX;

/// One thread's words. Only the thread itself writes them, with plain stores; who reads takes what it finds.
pub(super) struct Slot {
    taken: AtomicBool,
    next: AtomicPtr<Slot>,
    thread: AtomicI32,
    cpu_clock: AtomicI32,
    stack_low: AtomicUsize,
    stack_high: AtomicUsize,
    /// The watch that the thread works for, as which worker of its runtime, and since when it was last sure of it.
    watch: AtomicU64,
    worker: AtomicUsize,
    enrolled: AtomicU64,
    poll: Poll,
}

/// The innermost watched poll, if any. A seqlock: `version` is odd while the words change.
struct Poll {
    version: AtomicU64,
    /// Null outside of polls.
    spawned_at: AtomicPtr<Location<'static>>,
    name: AtomicPtr<u8>,
    name_len: AtomicUsize,
}

impl Poll {
    fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            spawned_at: AtomicPtr::new(ptr::null_mut()),
            name: AtomicPtr::new(ptr::null_mut()),
            name_len: AtomicUsize::new(0),
        }
    }

    fn write(&self, place: Option<Place>) {
        let (name, len) =
            place.and_then(|place| place.name).map_or((ptr::null(), 0), |name| (name.as_ptr(), name.len()));
        let spawned_at = place.map_or(ptr::null(), |place| ptr::from_ref(place.spawned_at));
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Who sees one of the new words sees the odd version, too.
        fence(Ordering::Release);
        self.spawned_at.store(spawned_at.cast_mut(), Ordering::Relaxed);
        self.name.store(name.cast_mut(), Ordering::Relaxed);
        self.name_len.store(len, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// With the version, which each `write` changes. `None` outside of polls, and if the thread was writing: then
    /// it does not stand still.
    fn read(&self) -> (u64, Option<Place>) {
        let version = self.version.load(Ordering::Acquire);
        let spawned_at = self.spawned_at.load(Ordering::Relaxed);
        let name = self.name.load(Ordering::Relaxed);
        let len = self.name_len.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if version % 2 == 1 || self.version.load(Ordering::Relaxed) != version {
            return (version, None);
        }
        // SAFETY: the version says that these words were written together by `write`, which took them from
        // references that live for ever.
        let place = unsafe {
            spawned_at.as_ref().map(|spawned_at| {
                let name =
                    (!name.is_null()).then(|| str::from_utf8_unchecked(slice::from_raw_parts(name, len)));
                Place { name, spawned_at }
            })
        };
        (version, place)
    }
}

/// All slots that ever were. They are few, one for each thread at the busiest time: a thread takes over the slot
/// of one that has ended, and none is freed, so that one can be read without a lock.
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

pub(super) fn slots() -> impl Iterator<Item = &'static Slot> {
    let follow = |link: &AtomicPtr<Slot>| {
        // SAFETY: a link is null or was made by `Box::leak` in `claim` before it was published.
        unsafe { link.load(Ordering::Acquire).as_ref::<'static>() }
    };
    std::iter::successors(follow(&SLOTS), move |slot| follow(&slot.next))
}

impl Slot {
    fn claim() -> &'static Self {
        let free = |slot: &&'static Slot| {
            slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let slot = slots().find(free).unwrap_or_else(|| {
            let slot: &'static Slot = Box::leak(Box::new(Self {
                taken: AtomicBool::new(true),
                next: AtomicPtr::new(ptr::null_mut()),
                thread: AtomicI32::new(0),
                cpu_clock: AtomicI32::new(0),
                stack_low: AtomicUsize::new(0),
                stack_high: AtomicUsize::new(0),
                watch: AtomicU64::new(0),
                worker: AtomicUsize::new(NO_WORKER),
                enrolled: AtomicU64::new(0),
                poll: Poll::new(),
            }));
            let link = ptr::from_ref(slot).cast_mut();
            let mut first = SLOTS.load(Ordering::Acquire);
            loop {
                slot.next.store(first, Ordering::Release);
                match SLOTS.compare_exchange_weak(first, link, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break slot,
                    Err(now) => first = now,
                }
            }
        });
        let This { id, cpu_clock, stack } = thread::this();
        slot.thread.store(id, Ordering::Relaxed);
        slot.cpu_clock.store(cpu_clock, Ordering::Relaxed);
        slot.stack_low.store(stack.start, Ordering::Relaxed);
        slot.stack_high.store(stack.end, Ordering::Relaxed);
        slot
    }

    /// The thread has ended.
    fn release(&self) {
        self.watch.store(0, Ordering::Relaxed);
        self.worker.store(NO_WORKER, Ordering::Relaxed);
        self.poll.write(None);
        self.taken.store(false, Ordering::Release);
    }

    /// The thread works for this watch, perhaps as this worker of its runtime.
    pub(super) fn enrol(&self, watch: u64, worker: Option<usize>) {
        self.enrolled.store(clock().now(), Ordering::Relaxed);
        self.worker.store(worker.unwrap_or(NO_WORKER), Ordering::Relaxed);
        self.watch.store(watch, Ordering::Release);
    }

    /// The same for each poll, of which most change nothing.
    pub(super) fn confirm(&self, watch: u64, worker: Option<usize>) {
        let known = (self.watch.load(Ordering::Relaxed), self.worker.load(Ordering::Relaxed));
        if known != (watch, worker.unwrap_or(NO_WORKER)) {
            self.enrol(watch, worker);
        }
    }

    pub(super) fn works_for(&self, watch: u64) -> bool {
        self.watch.load(Ordering::Acquire) == watch
    }

    pub(super) fn worker(&self) -> Option<usize> {
        Some(self.worker.load(Ordering::Relaxed)).filter(|worker| *worker != NO_WORKER)
    }

    pub(super) fn enrolled(&self) -> Nanos {
        self.enrolled.load(Ordering::Relaxed)
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.poll.read().1
    }

    /// A number that changes with each beginning and end of a watched poll, and whether one is going on.
    pub(super) fn polls(&self) -> (u64, bool) {
        let (version, place) = self.poll.read();
        (version, place.is_some())
    }

    /// The system's id of the thread.
    pub(super) fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    #[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
    pub(super) fn stack(&self) -> std::ops::Range<usize> {
        self.stack_low.load(Ordering::Relaxed)..self.stack_high.load(Ordering::Relaxed)
    }

    pub(super) fn cpu_clock(&self) -> i32 {
        self.cpu_clock.load(Ordering::Relaxed)
    }
}

/// A watched poll, from its making to its drop. One may lie within another.
pub(super) struct Polling {
    slot: &'static Slot,
    outer: Option<Place>,
}

impl Polling {
    pub(super) fn begin(slot: &'static Slot, place: Place) -> Self {
        let outer = slot.place();
        slot.poll.write(Some(place));
        Self { slot, outer }
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.slot.poll.write(self.outer);
    }
}

/// Gives a thread its slot for as long as it lives.
struct Claim(&'static Slot);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// This thread's slot; `None` while the thread ends.
pub(super) fn this() -> Option<&'static Slot> {
    thread_local!(static CLAIM: Claim = Claim(Slot::claim()));
    CLAIM.try_with(|claim| claim.0).ok()
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::panic::Location;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{Place, Poll, Polling, slots, this};

    fn places() -> [Place; 2] {
        let (long, short) = (Location::caller(), Location::caller());
        [
            Place { name: Some("a rather long name"), spawned_at: long },
            Place { name: None, spawned_at: short },
        ]
    }

    #[test]
    fn words_that_do_not_belong_together_are_never_read_together() {
        let (poll, stop) = (Poll::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..if cfg!(miri) { 100 } else { 200_000 } {
                    for place in places() {
                        poll.write(Some(place));
                    }
                    poll.write(None);
                }
                stop.store(true, Ordering::Relaxed);
            });
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                if let (_, Some(place)) = poll.read() {
                    assert!(places().contains(&place), "{place:?}");
                    seen += 1;
                }
                std::hint::spin_loop();
            }
            assert!(seen > 0 || cfg!(miri), "the reader saw something");
        });
    }

    #[test]
    fn an_inner_poll_hides_the_outer_one_and_gives_it_back() {
        std::thread::spawn(|| {
            let [outer, inner] = places();
            let slot = this().unwrap();
            let polling = Polling::begin(slot, outer);
            let within = Polling::begin(slot, inner);
            assert_eq!(slot.place(), Some(inner));
            drop(within);
            assert_eq!(slot.place(), Some(outer));
            drop(polling);
            assert_eq!(slot.place(), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn threads_that_come_one_after_another_need_few_slots() {
        for _ in 0..100 {
            std::thread::spawn(|| assert!(this().is_some())).join().unwrap();
        }
        assert!(slots().count() < 50);
    }
}

//! The slots in which threads publish their state for the watch's thread, which may read them at any moment.

use std::panic::Location;
use std::ptr;
use std::slice;
use std::str;
use std::sync::OnceLock;

use super::stall::TaskOrigin;
use crate::base::stack;
use crate::base::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use crate::base::thread;
use crate::watch::clock::{Clock, Nanos};

/// Returns the clock of all slots.
pub(super) fn clock() -> &'static Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(Clock::new)
}

/// In place of a worker's number: the thread is no worker of a runtime, or is not known to be one.
const NO_WORKER: usize = usize::MAX;

/// The published state of one thread. Only the thread itself writes it, with plain stores. Readers may find values of
/// different moments, except in `poll`.
pub(super) struct ThreadSlot {
    /// Whether a living thread has this slot.
    is_taken: AtomicBool,
    /// The next slot in the list.
    next: AtomicPtr<ThreadSlot>,
    /// The system's id of the thread. Written when the thread takes the slot, as are the bounds of its stack.
    thread: AtomicI32,
    stack_low: AtomicUsize,
    stack_high: AtomicUsize,
    /// The watch of the runtime that the thread works for, 0 if none.
    watch: AtomicU64,
    /// The thread's number among the workers of that runtime, or `NO_WORKER`.
    worker: AtomicUsize,
    /// When these two were last written.
    registered_at: AtomicU64,
    poll: PollCell,
}

/// The task of the innermost watched poll, if any. A seqlock: `version` is odd while the other words change.
struct PollCell {
    version: AtomicU64,
    /// Null outside of polls.
    spawned_at: AtomicPtr<Location<'static>>,
    /// The task's name, null if it has none, and its length.
    name: AtomicPtr<u8>,
    name_len: AtomicUsize,
}

impl PollCell {
    fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            spawned_at: AtomicPtr::new(ptr::null_mut()),
            name: AtomicPtr::new(ptr::null_mut()),
            name_len: AtomicUsize::new(0),
        }
    }

    fn write(&self, task: Option<TaskOrigin>) {
        let (name, len) =
            task.and_then(|task| task.name).map_or((ptr::null(), 0), |name| (name.as_ptr(), name.len()));
        let spawned_at = task.map_or(ptr::null(), |task| ptr::from_ref(task.spawned_at));
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // A reader that sees one of the new words sees the odd version, too.
        fence(Ordering::Release);
        self.spawned_at.store(spawned_at.cast_mut(), Ordering::Relaxed);
        self.name.store(name.cast_mut(), Ordering::Relaxed);
        self.name_len.store(len, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Returns the version, which each `write` changes, and the task. There is no task outside of polls, nor if the
    /// thread was just writing: then it makes progress.
    fn read(&self) -> (u64, Option<TaskOrigin>) {
        let version = self.version.load(Ordering::Acquire);
        let spawned_at = self.spawned_at.load(Ordering::Relaxed);
        let name = self.name.load(Ordering::Relaxed);
        let len = self.name_len.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if version % 2 == 1 || self.version.load(Ordering::Relaxed) != version {
            return (version, None);
        }
        // SAFETY: the version was even and is unchanged, so the three words are from the same `write`. It has made them
        // from references with the lifetime `'static`; name and length are those of one `str`.
        let task = unsafe {
            spawned_at.as_ref().map(|spawned_at| {
                let name =
                    (!name.is_null()).then(|| str::from_utf8_unchecked(slice::from_raw_parts(name, len)));
                TaskOrigin { name, spawned_at }
            })
        };
        (version, task)
    }
}

/// The list of all slots that were ever made. A thread takes over the slot of one that has ended, so there are as
/// many as there were threads at the busiest time. None is freed, so that a slot can be read without a lock.
static SLOTS: AtomicPtr<ThreadSlot> = AtomicPtr::new(ptr::null_mut());

/// Iterates over all slots, those of threads that have ended included.
pub(super) fn slots() -> impl Iterator<Item = &'static ThreadSlot> {
    let follow = |link: &AtomicPtr<ThreadSlot>| {
        // SAFETY: a link is null or was made by `Box::leak` in `claim` before it was published.
        unsafe { link.load(Ordering::Acquire).as_ref::<'static>() }
    };
    std::iter::successors(follow(&SLOTS), move |slot| follow(&slot.next))
}

impl ThreadSlot {
    /// Takes a free slot for this thread, or makes one.
    fn claim() -> &'static Self {
        let take = |slot: &&'static ThreadSlot| {
            slot.is_taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let slot = slots().find(take).unwrap_or_else(|| {
            let slot: &'static ThreadSlot = Box::leak(Box::new(Self {
                is_taken: AtomicBool::new(true),
                next: AtomicPtr::new(ptr::null_mut()),
                thread: AtomicI32::new(0),
                stack_low: AtomicUsize::new(0),
                stack_high: AtomicUsize::new(0),
                watch: AtomicU64::new(0),
                worker: AtomicUsize::new(NO_WORKER),
                registered_at: AtomicU64::new(0),
                poll: PollCell::new(),
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
        let stack = stack::current_bounds();
        slot.thread.store(thread::current_id(), Ordering::Relaxed);
        slot.stack_low.store(stack.start, Ordering::Relaxed);
        slot.stack_high.store(stack.end, Ordering::Relaxed);
        slot
    }

    /// Frees the slot, since its thread ends.
    fn release(&self) {
        self.watch.store(0, Ordering::Relaxed);
        self.worker.store(NO_WORKER, Ordering::Relaxed);
        self.poll.write(None);
        self.is_taken.store(false, Ordering::Release);
    }

    /// Records that the thread works for the runtime of this watch, perhaps as this worker.
    pub(super) fn register(&self, watch: u64, worker: Option<usize>) {
        self.registered_at.store(clock().now(), Ordering::Relaxed);
        self.worker.store(worker.unwrap_or(NO_WORKER), Ordering::Relaxed);
        self.watch.store(watch, Ordering::Release);
    }

    /// Does the same for each poll, and reads no clock if nothing has changed.
    pub(super) fn register_if_changed(&self, watch: u64, worker: Option<usize>) {
        let known = (self.watch.load(Ordering::Relaxed), self.worker.load(Ordering::Relaxed));
        if known != (watch, worker.unwrap_or(NO_WORKER)) {
            self.register(watch, worker);
        }
    }

    pub(super) fn works_for(&self, watch: u64) -> bool {
        self.watch.load(Ordering::Acquire) == watch
    }

    pub(super) fn worker(&self) -> Option<usize> {
        Some(self.worker.load(Ordering::Relaxed)).filter(|worker| *worker != NO_WORKER)
    }

    pub(super) fn registered_at(&self) -> Nanos {
        self.registered_at.load(Ordering::Relaxed)
    }

    /// Returns the task that the thread polls, if that is a watched one.
    pub(super) fn task(&self) -> Option<TaskOrigin> {
        self.poll.read().1
    }

    /// Returns a number that changes at each begin and end of a watched poll, and whether there is one now.
    pub(super) fn polls(&self) -> (u64, bool) {
        let (version, task) = self.poll.read();
        (version, task.is_some())
    }

    /// Returns the system's id of the thread.
    pub(super) fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Returns the addresses of the thread's stack. They are empty if they are unknown.
    pub(super) fn stack(&self) -> std::ops::Range<usize> {
        self.stack_low.load(Ordering::Relaxed)..self.stack_high.load(Ordering::Relaxed)
    }
}

/// A watched poll on this thread, from its making to its drop. One may lie within another.
pub(super) struct Polling {
    slot: &'static ThreadSlot,
    outer: Option<TaskOrigin>,
}

impl Polling {
    pub(super) fn begin(slot: &'static ThreadSlot, task: TaskOrigin) -> Self {
        let outer = slot.task();
        slot.poll.write(Some(task));
        Self { slot, outer }
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.slot.poll.write(self.outer);
    }
}

/// Gives a thread its slot for as long as it lives.
struct Claim(&'static ThreadSlot);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Returns this thread's slot. `None` while the thread ends.
pub(super) fn current() -> Option<&'static ThreadSlot> {
    thread_local!(static CLAIM: Claim = Claim(ThreadSlot::claim()));
    CLAIM.try_with(|claim| claim.0).ok()
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use std::panic::Location;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{PollCell, Polling, TaskOrigin, current, slots};

    fn origins() -> [TaskOrigin; 2] {
        let (long, short) = (Location::caller(), Location::caller());
        [
            TaskOrigin { name: Some("a rather long name"), spawned_at: long },
            TaskOrigin { name: None, spawned_at: short },
        ]
    }

    #[test]
    fn words_of_different_polls_are_never_read_together() {
        let (poll, stop) = (PollCell::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..if cfg!(miri) { 100 } else { 200_000 } {
                    for origin in origins() {
                        poll.write(Some(origin));
                    }
                    poll.write(None);
                }
                stop.store(true, Ordering::Relaxed);
            });
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                if let (_, Some(origin)) = poll.read() {
                    assert!(origins().contains(&origin), "{origin:?}");
                    seen += 1;
                }
                std::hint::spin_loop();
            }
            assert!(seen > 0 || cfg!(miri), "the reader saw something");
        });
    }

    #[test]
    fn an_inner_poll_hides_the_outer_one_until_it_ends() {
        std::thread::spawn(|| {
            let [outer, inner] = origins();
            let slot = current().unwrap();
            let polling = Polling::begin(slot, outer);
            let within = Polling::begin(slot, inner);
            assert_eq!(slot.task(), Some(inner));
            drop(within);
            assert_eq!(slot.task(), Some(outer));
            drop(polling);
            assert_eq!(slot.task(), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn threads_that_follow_one_another_share_slots() {
        for _ in 0..100 {
            std::thread::spawn(|| assert!(current().is_some())).join().unwrap();
        }
        assert!(slots().count() < 50);
    }
}

//! Starts the threads of this library. Each begins as if the program's main thread had started it.
//!
//! A new thread inherits the signal mask, the affinity and the scheduling class of the thread that starts it. Here that
//! is the thread that happens to submit first, which may be pinned to a core, run in real time or block all signals.
//! The state of the main thread is the one that the system shows and changes as that of the process: `taskset -p`,
//! `chrt -p` and `/proc/PID/status`. A program that blocks a signal in all threads, to wait for it in one, does so in
//! its main thread before it starts others, so its signals reach no thread of this library.
//!
//! `cargo xtask layers` refuses threads that are started elsewhere.

use std::io;

use super::sync::thread::{Builder, JoinHandle};

/// Starts a thread of this library that runs `body`.
pub(crate) fn spawn(builder: Builder, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    #[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
    return linux::spawn(builder, body);
    #[cfg(not(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri))))]
    builder.spawn(body)
}

/// Starts a thread of a binding, with the given name, as this library starts its own: with the signal mask, the
/// affinity and the scheduling class of the main thread, whichever thread calls this.
pub fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    spawn(Builder::new().name(name.to_owned()), body).map(drop)
}

/// Gives this thread the signal mask, the affinity and the scheduling class of the main thread. For threads that a
/// binding starts by other means than [`start_thread`], before they run jobs.
///
/// Leaves as it is each setting that the system refuses to change, such as a better nice level. Does nothing on other systems
/// than Linux.
pub fn begin_thread() {
    #[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
    linux::begin_thread();
}

#[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
mod linux {
    use std::io;
    use std::mem::MaybeUninit;
    use std::time::Duration;

    use super::{Builder, JoinHandle};
    use crate::base::thread;

    /// The longest wait for the main thread to have its own signal mask again, which it lacks while it starts a thread.
    const PATIENCE: Duration = Duration::from_millis(100);

    pub(super) fn spawn(
        builder: Builder,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        if is_main() {
            return builder.spawn(body);
        }
        // No signal reaches the new thread before it has its own mask.
        let own = set_mask(&signals(u64::MAX));
        let wanted = mask_of_main(own);
        let started = builder.spawn(move || {
            adopt_scheduling();
            set_mask(&wanted);
            body();
        });
        set_mask(&own);
        started
    }

    pub(super) fn begin_thread() {
        if !is_main() {
            adopt_scheduling();
            set_mask(&mask_of_main(mask()));
        }
    }

    fn is_main() -> bool {
        thread::current_id() == main()
    }

    /// Returns the id of the main thread, which is that of the process.
    fn main() -> i32 {
        // SAFETY: `getpid` has no preconditions and cannot fail.
        unsafe { libc::getpid() }
    }

    /// Returns the signal mask of the main thread. A thread that blocks nothing gets any signal, so its mask needs no
    /// comparison, which takes a file of `/proc`; without that file a thread's mask is its starter's.
    fn mask_of_main(own: libc::sigset_t) -> libc::sigset_t {
        if is_empty(&own) {
            return own;
        }
        thread::settled_blocked_signals(main(), PATIENCE).map_or(own, signals)
    }

    fn is_empty(set: &libc::sigset_t) -> bool {
        // SAFETY: the set is a valid one, and each number is that of a signal or refused.
        (1..=64).all(|signal| unsafe { libc::sigismember(set, signal) } != 1)
    }

    /// Returns the set of the signals whose bits are set. The lowest bit is that of signal 1.
    fn signals(bits: u64) -> libc::sigset_t {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initialises the set. Numbers that the C library keeps for itself are refused.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in (1..=64).filter(|signal| bits >> (signal - 1) & 1 == 1) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            set.assume_init()
        }
    }

    /// Sets this thread's signal mask. Returns the former one.
    fn set_mask(mask: &libc::sigset_t) -> libc::sigset_t {
        let mut former = *mask;
        // SAFETY: both pointers are to live sets. With these arguments the call does not fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, &raw mut former) };
        former
    }

    fn mask() -> libc::sigset_t {
        let mut mask = signals(0);
        // SAFETY: the pointer is to a live set, and no mask is set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut mask) };
        mask
    }

    /// Gives this thread the affinity and the scheduling class of the main thread.
    fn adopt_scheduling() {
        let (own, mains) = (affinity(0), affinity(main()));
        if let Some(mains) = mains.filter(|mains| own.is_some_and(|own| !is_same(&own, mains))) {
            // SAFETY: the pointer is to a live set of the given size.
            unsafe { libc::sched_setaffinity(0, size_of_val(&mains), &raw const mains) };
        }
        let (own, mains) = (SchedulingClass::of(0), SchedulingClass::of(main()));
        if let Some(mains) = mains.map(SchedulingClass::of_child).filter(|mains| own != Some(*mains)) {
            mains.set();
        }
    }

    /// Returns whether this thread has the affinity of the main thread, as far as the system reports it.
    pub(in crate::base) fn has_affinity_of_main() -> bool {
        match (affinity(0), affinity(main())) {
            (Some(own), Some(mains)) => is_same(&own, &mains),
            _ => true,
        }
    }

    fn is_same(one: &libc::cpu_set_t, other: &libc::cpu_set_t) -> bool {
        // SAFETY: both sets are live and initialised.
        unsafe { libc::CPU_EQUAL(one, other) }
    }

    /// Returns the cores that a thread may run on. `None` if there are more than the set has room for.
    fn affinity(thread: i32) -> Option<libc::cpu_set_t> {
        // SAFETY: an all-zero set is a valid, empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live set of the given size.
        let found = unsafe { libc::sched_getaffinity(thread, size_of_val(&set), &raw mut set) };
        (found == 0).then_some(set)
    }

    /// The attributes by which the kernel schedules a thread: the first version of its `struct sched_attr`.
    #[repr(C)]
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    struct SchedulingClass {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }

    const SIZE: u32 = 48;
    const _: () = assert!(size_of::<SchedulingClass>() == SIZE as usize);

    impl SchedulingClass {
        /// Reads the attributes of a thread; 0 is this one.
        fn of(thread: i32) -> Option<Self> {
            let mut class = Self::default();
            // The C library has no function for this call. SAFETY: the pointer is to a live struct of the given size.
            let found = unsafe { libc::syscall(libc::SYS_sched_getattr, thread, &raw mut class, SIZE, 0) };
            (found == 0).then_some(class)
        }

        /// Returns the attributes with which a thread begins that one with these attributes starts.
        fn of_child(mut self) -> Self {
            if self.flags & libc::SCHED_FLAG_RESET_ON_FORK as u64 != 0 {
                let is_fair = self.policy != libc::SCHED_FIFO as u32
                    && self.policy != libc::SCHED_RR as u32
                    && self.policy != libc::SCHED_DEADLINE as u32;
                let nice = if is_fair { self.nice.max(0) } else { 0 };
                let policy = if is_fair { self.policy } else { libc::SCHED_OTHER as u32 };
                self = Self { size: SIZE, policy, nice, ..Self::default() };
            }
            self
        }

        /// Gives this thread the attributes, as far as the system allows it.
        fn set(self) {
            // SAFETY: the pointer is to a live struct, whose size is in it.
            unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const self, 0) };
        }
    }
}

#[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
pub(super) use linux::has_affinity_of_main;

//! Reads the CPU times, states and names of this process's threads from the operating system.
//!
//! Threads are named by the system's thread id: `gettid()`, the `LWP` of `ps` and of debuggers. An id may be used
//! again after its thread has ended. Each function makes a system call or a few and does not block otherwise. On
//! systems other than Linux only [`current_cpu_time`] is known; the other functions return 0, `None` or an empty list.

use std::time::Duration;

#[cfg(unix)]
use super::clock;

/// Returns the id of this thread.
#[cfg(target_os = "linux")]
pub fn current_id() -> i32 {
    // SAFETY: `gettid` has no preconditions and cannot fail.
    unsafe { libc::gettid() }
}

/// Returns the ids of all threads of this process.
#[cfg(target_os = "linux")]
pub fn ids() -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Returns the time that a thread of this process has been on a core. `None` if there is no such thread.
#[cfg(target_os = "linux")]
pub fn cpu_time(id: i32) -> Option<Duration> {
    // The clock that `pthread_getcpuclockid` would return, which needs a thread that is known to live. The kernel's
    // number for it is the complement of the thread's id, shifted past three bits: 4 marks a thread's clock, 2 is the
    // time on a core.
    clock::read((!id << 3) | 6).map(Duration::from_nanos)
}

/// Returns the name of a thread of this process, at most its first 15 bytes. `None` if there is no such thread.
#[cfg(target_os = "linux")]
pub fn name(id: i32) -> Option<String> {
    read(id, "comm").map(|name| name.trim_end().to_owned())
}

/// Returns the state of a thread of this process as a letter of `ps`: `R` if it runs or could run, `S` if it waits, `D`
/// if it waits uninterruptibly. `None` if there is no such thread.
#[cfg(target_os = "linux")]
pub fn state(id: i32) -> Option<char> {
    // The name before the state may contain anything, parentheses included.
    read(id, "stat")?.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Returns how often a thread of this process has begun to wait. `None` if there is no such thread.
#[cfg(target_os = "linux")]
pub fn voluntary_switches(id: i32) -> Option<u64> {
    status(id, "voluntary_ctxt_switches:")?.parse().ok()
}

/// Returns the time that a thread of this process could have run while others had the cores. `None` if there is no such
/// thread, or if the kernel does not keep account of it.
#[cfg(target_os = "linux")]
pub fn run_delay(id: i32) -> Option<Duration> {
    read(id, "schedstat")?.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Returns whether a thread of this process has blocked a signal. `None` if there is no such thread.
#[cfg(target_os = "linux")]
pub fn blocks_signal(id: i32, signal: i32) -> Option<bool> {
    let mask = blocked_signals(id)?;
    let bit = u32::try_from(signal).ok()?.checked_sub(1)?;
    mask.checked_shr(bit).map(|mask| mask & 1 == 1)
}

/// Returns the signals that a thread of this process has blocked, as a set of bits. The lowest is that of signal 1.
#[cfg(target_os = "linux")]
fn blocked_signals(id: i32) -> Option<u64> {
    u64::from_str_radix(&status(id, "SigBlk:")?, 16).ok()
}

/// Returns the signals that a thread of this process has blocked by its own will, as a set of bits. The lowest is that of
/// signal 1. `None` if that is not known within `patience`.
///
/// The C library blocks all signals for the moment in which it starts a thread or a process, so such a thread is looked
/// at again. The GNU library then blocks its own signals, too, which no program can. In others the moment looks like a
/// program's wish: there, a thread means it that sleeps, or still blocks all after `patience`.
#[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
pub(super) fn settled_blocked_signals(id: i32, patience: Duration) -> Option<u64> {
    let begun = std::time::Instant::now();
    loop {
        let mask = blocked_signals(id)?;
        let is_over = begun.elapsed() >= patience;
        if mask & SIGNALS_OF_LIBC == SIGNALS_OF_LIBC {
            if is_over {
                return None;
            }
        } else if mask & ALL_SIGNALS != ALL_SIGNALS || state(id)? == 'S' || is_over {
            return Some(mask);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// The signals that C libraries keep for themselves: 32 and 33.
#[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
const SIGNALS_OF_LIBC: u64 = 0b11 << 31;

/// The signals that a program can block: not 9 and 19, nor those that C libraries keep for themselves, 34 included.
#[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
const ALL_SIGNALS: u64 = !(1 << 8 | 1 << 18 | 0b111 << 31);

#[cfg(target_os = "linux")]
fn status(id: i32, field: &str) -> Option<String> {
    Some(read(id, "status")?.lines().find_map(|line| line.strip_prefix(field))?.trim().to_owned())
}

#[cfg(target_os = "linux")]
fn read(id: i32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/self/task/{id}/{file}")).ok()
}

#[cfg(not(target_os = "linux"))]
mod unknown {
    use super::Duration;

    /// Returns 0: threads have no ids here.
    pub fn current_id() -> i32 {
        0
    }

    /// Returns an empty list.
    pub fn ids() -> Vec<i32> {
        Vec::new()
    }

    /// Returns `None`.
    pub fn cpu_time(_id: i32) -> Option<Duration> {
        None
    }

    /// Returns `None`.
    pub fn name(_id: i32) -> Option<String> {
        None
    }

    /// Returns `None`.
    pub fn state(_id: i32) -> Option<char> {
        None
    }

    /// Returns `None`.
    pub fn voluntary_switches(_id: i32) -> Option<u64> {
        None
    }

    /// Returns `None`.
    pub fn run_delay(_id: i32) -> Option<Duration> {
        None
    }

    /// Returns `None`.
    pub fn blocks_signal(_id: i32, _signal: i32) -> Option<bool> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
pub use unknown::{blocks_signal, cpu_time, current_id, ids, name, run_delay, state, voluntary_switches};

/// Returns the time that this thread has been on a core. Zero on systems other than Unix.
pub fn current_cpu_time() -> Duration {
    #[cfg(unix)]
    // Each thread has this clock, so the call does not fail.
    return clock::read(libc::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from_nanos);
    #[cfg(not(unix))]
    Duration::ZERO
}

#[cfg(all(test, target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_described_from_outside_as_it_describes_itself() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("a (name) R".into()).spawn(move || {
            while current_cpu_time() < Duration::from_millis(10) {}
            send.send((current_id(), current_cpu_time())).unwrap();
            wait.recv().unwrap_err();
        });
        let (id, own) = receive.recv().unwrap();
        assert_ne!(id, current_id());
        assert!(ids().contains(&id) && ids().contains(&current_id()));
        assert!(cpu_time(id).unwrap() >= own);
        assert_eq!(name(id).as_deref(), Some("a (name) R"));
        while state(id) != Some('S') || voluntary_switches(id) == Some(0) {
            std::thread::yield_now();
        }
        assert_eq!(state(current_id()), Some('R'));
        drop(done);
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn of_an_id_without_a_thread_nothing_is_known() {
        // Ids are positive and below 2^22.
        let none = 1 << 23;
        assert_eq!((cpu_time(none), name(none), state(none)), (None, None, None));
        assert_eq!((voluntary_switches(none), blocks_signal(none, libc::SIGUSR1)), (None, None));
    }

    #[test]
    fn signals_that_are_blocked_while_a_thread_is_started_do_not_count() {
        let (send, receive) = std::sync::mpsc::channel();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_over = stop.clone();
        let starter = std::thread::spawn(move || {
            send.send(current_id()).unwrap();
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::spawn(|| {}).join().unwrap();
            }
        });
        let id = receive.recv().unwrap();
        let mut caught = 0;
        while caught < 100 {
            caught += u32::from(blocked_signals(id).unwrap() != 0);
            assert_eq!(settled_blocked_signals(id, Duration::from_secs(60)), Some(0));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        starter.join().unwrap();
    }

    #[test]
    fn a_thread_that_sleeps_with_all_signals_blocked_is_believed() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            // SAFETY: the set is plain data that outlives the calls, and the mask is this thread's own.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigfillset(&raw mut set);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            }
            send.send(current_id()).unwrap();
            wait.recv().unwrap_err();
        });
        let mask = settled_blocked_signals(receive.recv().unwrap(), Duration::MAX).unwrap();
        assert_eq!(mask & ALL_SIGNALS, ALL_SIGNALS);
        drop(done);
        sleeper.join().unwrap();
    }

    #[test]
    fn a_blocked_signal_is_seen_as_blocked() {
        std::thread::spawn(|| {
            assert_eq!(blocks_signal(current_id(), libc::SIGUSR1), Some(false));
            // SAFETY: the set is plain data that outlives the calls, and the mask is this thread's own.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigaddset(&raw mut set, libc::SIGUSR1);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            }
            assert_eq!(blocks_signal(current_id(), libc::SIGUSR1), Some(true));
            assert_eq!(blocks_signal(current_id(), libc::SIGUSR2), Some(false));
        })
        .join()
        .unwrap();
    }
}

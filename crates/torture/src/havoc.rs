//! The havoc from outside: kills workers at random, and stops others for a while.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::clock;
use crate::plan::{Choices, Stream};
use crate::pools::SLOTS;
use crate::world::World;

/// A worker that was stopped.
struct Stopped {
    worker: Worker,
    /// When it may go on.
    until: Duration,
}

/// The life of the havoc. When it returns, nobody is left stopped.
pub(crate) fn rage(world: &World) {
    let mut choices = Choices::of(world.seed, Stream::Havoc);
    let mut stopped: Vec<Stopped> = Vec::new();
    while !world.load_is_to_end() {
        let blow = choices.blow(SLOTS);
        let due = clock::now() + blow.pause;
        while clock::now() < due {
            std::thread::sleep(Duration::from_millis(2));
            release(&mut stopped, clock::now());
        }
        let Some(open) = world.slots.get(blow.slot) else { continue };
        let pids = open.pool.workers();
        if pids.is_empty() {
            continue;
        }
        let Ok(worker) = Worker::find(pids[blow.worker % pids.len()]) else { continue };
        if let Some(duration) = blow.stop {
            if worker.signal(libc::SIGSTOP) {
                world.ledger.stopped();
                stopped.push(Stopped { worker, until: clock::now() + duration });
            }
        } else {
            let kill = world.ledger.kill_intended(open.number, worker.pid);
            let was_sent = worker.signal(libc::SIGKILL);
            world.ledger.kill_sent(kill, was_sent);
        }
    }
    release(&mut stopped, Duration::MAX);
}

fn release(stopped: &mut Vec<Stopped>, now: Duration) {
    stopped.retain(|it| {
        let is_due = it.until <= now;
        if is_due {
            it.worker.signal(libc::SIGCONT);
        }
        !is_due
    });
}

/// A child of this process, held by a descriptor, so that no signal can hit another process of the same number.
struct Worker {
    pid: u32,
    pidfd: OwnedFd,
}

impl Worker {
    /// Finds a process that is a child of this one. It may have died meanwhile.
    fn find(pid: u32) -> io::Result<Self> {
        // SAFETY: takes plain numbers; an error is returned as -1.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let descriptor =
            i32::try_from(descriptor).ok().filter(|it| *it >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the descriptor is new, and nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // Asked after the descriptor was opened: this number is that process's, or nobody's.
        if parent_of(pid) == Some(std::process::id()) {
            Ok(Self { pid, pidfd })
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// Says whether there was somebody to take it.
    fn signal(&self, signal: libc::c_int) -> bool {
        let nothing = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open; without further information the kernel makes its own.
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal, nothing, 0) };
        result == 0
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; after it come the state and the parent.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

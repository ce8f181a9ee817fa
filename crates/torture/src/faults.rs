//! The fault injection from outside: kills workers, and stops others for a while.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use fastrand::Rng;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clock::{Moment, now, poll_until};
use crate::plan::millis;
use crate::proc;
use crate::world::{SLOTS, World};

/// A worker that was stopped, and when it is continued.
struct Stopped(OwnedFd, Duration);

/// Injects faults until the load ends. When it returns, no worker is left stopped.
pub(crate) fn inject(world: &'static World, _: usize, mut rng: Rng) {
    let mut stopped: Vec<Stopped> = Vec::new();
    while !world.load_over.load(SeqCst) {
        let (pause, slot, index) = (millis(&mut rng, 5..120), rng.usize(0..SLOTS), rng.usize(..));
        let stop = (rng.u8(0..5) < 2).then(|| millis(&mut rng, 5..300));
        poll_until(pause, Duration::from_millis(2), || {
            continue_workers(&mut stopped, now());
            false
        });
        let Some(open) = world.pool(slot) else { continue };
        let pids = open.pool.worker_pids();
        let Some(pid) = pids.get(index % pids.len().max(1)) else { continue };
        let Ok(worker) = find_child(*pid) else { continue };
        if let Some(duration) = stop {
            if pidfd_send_signal(&worker, Signal::STOP).is_ok() {
                world.oracle().stops += 1;
                stopped.push(Stopped(worker, now() + duration));
            }
        } else {
            let kill = world.oracle().pools[open.number].intend_kill(*pid);
            let was_sent = pidfd_send_signal(&worker, Signal::KILL).is_ok();
            world.oracle().pools[open.number].confirm_kill(kill, Moment::now(), was_sent);
        }
    }
    continue_workers(&mut stopped, Duration::MAX);
}

fn continue_workers(stopped: &mut Vec<Stopped>, now: Duration) {
    stopped.retain(|Stopped(worker, until)| {
        let is_due = *until <= now;
        if is_due {
            // An error means that it was killed meanwhile.
            let _ = pidfd_send_signal(worker, Signal::CONT);
        }
        !is_due
    });
}

/// Opens a child of this process by a descriptor, so that no signal reaches another process of the same number.
fn find_child(pid: u32) -> rustix::io::Result<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let descriptor = pidfd_open(number, PidfdFlags::empty())?;
    // Read after the descriptor was opened, so it is that process's parent, or the process is gone.
    let parent = proc::stat(pid).map(|stat| stat.parent);
    if parent == Some(std::process::id()) { Ok(descriptor) } else { Err(Errno::SRCH) }
}

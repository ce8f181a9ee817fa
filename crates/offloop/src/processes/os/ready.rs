//! A set of descriptors of which one thread waits for the readable ones.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::fd;
use crate::base::syscall::NameCall;

/// The number of descriptors that one wait reports at most. The others are reported by the next one.
const AT_ONCE: usize = 64;

/// A set of descriptors. A wait costs what the readable ones cost, however many others there are.
#[derive(Debug)]
pub(in crate::processes) struct ReadySet(OwnedFd);

impl ReadySet {
    pub(in crate::processes) fn new() -> io::Result<Self> {
        epoll::create(CreateFlags::CLOEXEC).of_call("epoll_create1").map(Self)
    }

    /// Adds a descriptor with a key, by which [`wait`](Self::wait) names it.
    ///
    /// It has to be [removed](Self::remove) before it is closed. As long as another process has a copy, it would be
    /// reported on and on.
    pub(in crate::processes) fn add(&self, descriptor: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        epoll::add(&self.0, descriptor, EventData::new_u64(key), EventFlags::IN).of_call("epoll_ctl")
    }

    /// Removes a descriptor, if it is there.
    pub(in crate::processes) fn remove(&self, descriptor: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.0, descriptor);
    }

    /// Waits until a descriptor is readable or has failed, or `limit` has passed. Returns the keys of those that are. May
    /// return none early.
    pub(in crate::processes) fn wait(&self, limit: Option<Duration>) -> io::Result<Vec<u64>> {
        // `epoll_wait` counts whole milliseconds on older systems.
        fd::poll(&mut [fd::readable(self.0.as_fd())], limit)?;
        let mut events = [const { MaybeUninit::<Event>::uninit() }; AT_ONCE];
        match epoll::wait(&self.0, &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok((ready, _)) => Ok(ready.iter().map(|event| event.data.u64()).collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error).of_call("epoll_wait"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::os::fd::EventFd;

    const SOON: Option<Duration> = Some(Duration::from_millis(1));

    #[test]
    fn a_wait_names_the_readable_descriptors_as_long_as_they_are_in_the_set() {
        let set = ReadySet::new().unwrap();
        let events: Vec<EventFd> = (0..100).map(|_| EventFd::new().unwrap()).collect();
        for (key, event) in (0..).zip(&events) {
            set.add(event.as_fd(), key).unwrap();
        }
        assert!(set.wait(SOON).unwrap().is_empty());

        events[7].notify();
        events[93].notify();
        let mut ready = set.wait(None).unwrap();
        ready.sort_unstable();
        assert_eq!(ready, [7, 93]);

        // What is not drained is reported again, but not what was removed.
        set.remove(events[7].as_fd());
        assert_eq!(set.wait(None).unwrap(), [93]);
        events[93].drain();
        assert!(set.wait(SOON).unwrap().is_empty());
    }

    #[test]
    fn no_readable_descriptor_is_forgotten_when_there_are_more_than_one_wait_reports() {
        let set = ReadySet::new().unwrap();
        let events: Vec<EventFd> = (0..3 * AT_ONCE).map(|_| EventFd::new().unwrap()).collect();
        for (key, event) in (0..).zip(&events) {
            set.add(event.as_fd(), key).unwrap();
            event.notify();
        }
        let mut left: std::collections::HashSet<u64> = (0..).take(events.len()).collect();
        while !left.is_empty() {
            for key in set.wait(None).unwrap() {
                events[usize::try_from(key).unwrap()].drain();
                assert!(left.remove(&key), "{key} was reported after it was drained");
            }
        }
    }
}

//! The lower bounds for a payload, without another process: one copy into shared memory, and a second one out of it.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{Contender, check, make, pages};

pub(crate) const SHM_COPY: &str = "shm copy";
pub(crate) const TWO_COPIES: &str = "two copies";

/// The longest payload.
const ROOM: usize = 64 << 20;

/// Copies into a mapping that is reused and has been written to before.
pub(crate) struct Copy {
    shared: &'static mut [u8],
}

impl Copy {
    pub(crate) fn new() -> Self {
        let shared = map(ROOM).expect("shared memory");
        shared.fill(0);
        Self { shared }
    }

    fn copy(&mut self, bytes: &[u8]) -> usize {
        let shared = &mut self.shared[..bytes.len()];
        shared.copy_from_slice(bytes);
        pages(shared)
    }
}

impl Contender for Copy {
    fn name(&self) -> &'static str {
        SHM_COPY
    }

    fn argument(&mut self, bytes: &[u8]) -> Option<Duration> {
        let begin = Instant::now();
        let pages = self.copy(bytes);
        let time = begin.elapsed();
        check(pages, bytes.len());
        Some(time)
    }

    /// The measured time includes making the bytes, as it does for the other contenders.
    fn result(&mut self, length: usize) -> Option<Duration> {
        let begin = Instant::now();
        let pages = self.copy(&make(length));
        let time = begin.elapsed();
        check(pages, length);
        Some(time)
    }
}

/// Copies into such a mapping, and from there into a new vector: what a result takes that is to be a value of its own.
pub(crate) struct TwoCopies(Copy);

impl TwoCopies {
    pub(crate) fn new() -> Self {
        Self(Copy::new())
    }
}

impl Contender for TwoCopies {
    fn name(&self) -> &'static str {
        TWO_COPIES
    }

    fn result(&mut self, length: usize) -> Option<Duration> {
        let begin = Instant::now();
        // Else the compiler makes the bytes in the shared memory.
        let made = black_box(make(length));
        let shared = &mut self.0.shared[..length];
        shared.copy_from_slice(&made);
        let result = shared.to_vec();
        let pages = pages(&result);
        let time = begin.elapsed();
        check(pages, length);
        Some(time)
    }
}

/// Maps new shared memory. It stays mapped until the process ends.
fn map(length: usize) -> io::Result<&'static mut [u8]> {
    let file = File::from(memfd_create("bench", MemfdFlags::CLOEXEC)?);
    file.set_len(length as u64)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the mapping is new, at an address that the kernel chooses. No other code has it or its file, and it is
    // never unmapped. It is readable, writable and `length` bytes long.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(std::slice::from_raw_parts_mut(start.cast(), length))
    }
}

//! Memory files (memfd): anonymous, sealed files in memory, and their mappings.
//!
//! Processes share memory by passing the descriptor of such a file. It has no name that could be left behind, and
//! since it cannot shrink, a reader can map it without the risk of a bus error.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::process::Resource;

use super::fork_copy::{FileIdentity, ForkFile, ForkRange, identity_of};
use crate::base::syscall::NameCall;

/// A memory file of a fixed size, which is to be sealed.
///
/// All memory files are made here.
pub(crate) struct MemoryFile {
    file: OwnedFd,
    size: usize,
}

impl MemoryFile {
    /// Makes a file of `size` bytes. It can neither shrink under a reader nor grow.
    pub(crate) fn new(name: &str, size: usize) -> io::Result<Self> {
        // The limit holds for memory files too, and the kernel ends a program that exceeds it with SIGXFSZ.
        if let Some(limit) = largest_file().filter(|limit| size > *limit) {
            return Err(io::Error::other(format!(
                "this process may make no file of more than {limit} bytes, and the limit holds for shared memory too: \
                 {size} bytes are needed, so raise RLIMIT_FSIZE (`ulimit -f`, systemd's LimitFSIZE=)"
            )));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(name, flags).of_call("memfd_create")?;
        rustix::fs::ftruncate(&file, size as u64).of_call("ftruncate of a memory file")?;
        let file = Self { file, size };
        file.seal(SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(file)
    }

    /// Makes a file of these bytes. Nobody can change it.
    pub(crate) fn of_bytes(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
        let file = File::from(Self::new(name, bytes.len())?.file);
        file.write_all_at(bytes, 0).of_call("pwrite of a memory file")?;
        let seals = SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).of_call("fcntl(F_ADD_SEALS)")?;
        Ok(file.into())
    }

    fn seal(&self, seals: SealFlags) -> io::Result<()> {
        rustix::fs::fcntl_add_seals(&self.file, seals).of_call("fcntl(F_ADD_SEALS)")
    }

    /// Maps all of the file, to be written.
    pub(crate) fn map(&self) -> io::Result<Mapping> {
        Mapping::new(self.file.as_fd(), self.size, true)
    }

    /// Returns the file for processes that read and write it.
    pub(crate) fn sealed(self) -> io::Result<OwnedFd> {
        self.seal(SealFlags::SEAL)?;
        Ok(self.file)
    }

    /// Returns the file for processes that only read it. The mappings that exist are the last that can be written to,
    /// however the file is opened. Nor can anybody give its memory back to the system, except by closing it.
    pub(crate) fn sealed_against_writers(self) -> io::Result<OwnedFd> {
        self.seal(SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
        Ok(self.file)
    }
}

/// Reads all of a memory file.
pub(crate) fn read_all(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let mut bytes = vec![0; size];
    File::from(file.try_clone_to_owned()?).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Returns the size of the largest file that this process may make, in bytes. `None` if there is no limit.
pub(crate) fn largest_file() -> Option<usize> {
    usize::try_from(rustix::process::getrlimit(Resource::Fsize).current?).ok()
}

/// A shared mapping of the beginning of a memory file.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size: usize,
    /// The file, if parts of it are to be mapped privately. Its identity is kept too: faulty code in a job may close
    /// all descriptors and open other files under their numbers. In a forked child it is closed.
    file: Option<(ForkFile, FileIdentity)>,
    /// Keeps the mapping away from forked children. `None` from when it is unmapped.
    in_child: Option<ForkRange>,
}

// SAFETY: a mapping is plain memory that belongs to no thread. The type only returns raw pointers; code that reads or
// writes through them is responsible for synchronisation.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `size` bytes of `file`.
    ///
    /// Fails unless the file is sealed against shrinking and has that size: reading a mapping beyond the end of its
    /// file raises SIGBUS.
    pub(crate) fn new(file: BorrowedFd<'_>, size: usize, writable: bool) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(file).of_call("fcntl(F_GET_SEALS)")?;
        let actual = rustix::fs::fstat(file).of_call("fstat")?.st_size;
        if !seals.contains(SealFlags::SHRINK)
            || u64::try_from(actual).is_ok_and(|actual| actual < size as u64)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the memory file is not sealed against shrinking, or is smaller than its mapping",
            ));
        }
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let access = if writable { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::READ };
        // If the program has locked its future memory (`mlockall`), the kernel fills new memory at once, unless it is
        // inaccessible. So the mapping is made without access, and unlocked before it gets some.
        // SAFETY: the kernel chooses an unused address, so no existing memory is affected.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, ProtFlags::empty(), flags, file, 0) };
        let start = start.of_call("mmap of a memory file")?;
        // SAFETY: the range is the mapping that was just made, and nothing refers to it yet.
        let is_accessible = unsafe {
            let _ = rustix::mm::munlock(start, size);
            rustix::mm::mprotect(start, size, access).of_call("mprotect of a memory file")
        };
        if let Err(error) = is_accessible {
            // SAFETY: as above.
            let _ = unsafe { rustix::mm::munmap(start, size) };
            return Err(error);
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        // Gigabytes of holes are of no use in a core dump.
        // SAFETY: the range is the mapping that was just made, and the advice does not change its contents.
        let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), size, Advice::LinuxDontDump) };
        Ok(Self { start, size, file: None, in_child: Some(ForkRange::removed(start, size)) })
    }

    /// Keeps `file`, which this is a mapping of, so that [`map_private`](Self::map_private) can map parts of it.
    pub(crate) fn keep_file(mut self, file: OwnedFd) -> io::Result<Self> {
        let identity = identity_of(file.as_fd())?;
        self.file = Some((ForkFile::new(file)?, identity));
        Ok(self)
    }

    /// Keeps a copy of the descriptor `file`.
    pub(crate) fn keep_copy_of(self, file: BorrowedFd<'_>) -> io::Result<Self> {
        let copy = rustix::io::fcntl_dupfd_cloexec(file, 3).of_call("fcntl(F_DUPFD_CLOEXEC)")?;
        self.keep_file(copy)
    }

    /// Maps `length` bytes once more, privately and writable, from `start` on, which is an address in this mapping. A
    /// page is copied when it is first written to.
    ///
    /// `None` if the file is not kept, if the range is empty or not page-aligned or lies outside of this mapping, or
    /// if the system refuses.
    pub(crate) fn map_private(&self, start: NonNull<u8>, length: usize) -> Option<PrivateMapping> {
        let (file, identity) = self.file.as_ref()?;
        let file = file.get()?;
        let offset = (start.as_ptr() as usize).checked_sub(self.start.as_ptr() as usize)?;
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= self.size);
        if !is_inside || length == 0 || identity_of(file).ok()? != *identity {
            return None;
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an unused address, so no existing memory is affected.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, flags, file, offset as u64) };
        let start = NonNull::new(start.ok()?.cast())?;
        Some(PrivateMapping { start, length, in_child: Some(ForkRange::copied(start, length)) })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Returns the address of `range`, if it lies within the mapping.
    pub(crate) fn at(&self, range: &Range<u64>) -> Option<NonNull<u8>> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        if start > end || end > self.size {
            return None;
        }
        // SAFETY: `start` is at most the size of the mapping, as was just checked.
        Some(unsafe { self.start.add(start) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.in_child = None;
        // SAFETY: this value owns the mapping, and the pointers that it has returned must not be used after it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// A private, writable mapping of a part of a memory file.
#[derive(Debug)]
pub(crate) struct PrivateMapping {
    start: NonNull<u8>,
    length: usize,
    /// Gives forked children copies, also of the pages that were not written to: those are the file's. `None` from when
    /// it is unmapped.
    in_child: Option<ForkRange>,
}

// SAFETY: this value owns the memory, which belongs to no thread.
unsafe impl Send for PrivateMapping {}
// SAFETY: as above. It is written to through exclusive references only.
unsafe impl Sync for PrivateMapping {}

impl PrivateMapping {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: this value owns the mapping of `length` bytes. Pages that were not written to are those of the
        // file, whose owner does not write to them while the blob that this is a view of exists.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for PrivateMapping {
    fn drop(&mut self) {
        self.in_child = None;
        // SAFETY: this value owns the mapping, and references into it cannot outlive it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;

//! What a forked child gets of the memory that its parent shares with other processes: copies, or nothing.
//!
//! A block of shared memory is used again when its holder has released it. A forked child has the holder's values, but
//! nobody waits for it: the block would change under its hands, and what it writes would reach its parent. So `fork`
//! copies each range that is held, the child gets the copies in the places of the ranges, and no other shared memory stays
//! mapped or open there. A fork costs as much time and memory as the ranges that are held at that moment.
//!
//! The copies are made before the fork. After it the parent may release a range at once.
//!
//! The C library calls no handlers in children of raw system calls, and the system may refuse the memory for a copy. Then
//! the child has the shared memory.

use std::cell::{Cell, UnsafeCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Once;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use crate::base::fork::{OwnProcess, PerProcess};
use crate::base::sync::{Mutex, MutexGuard};
use crate::base::syscall::NameCall;

/// Keeps a range of memory in the list for forked children, until it is dropped. In a child it does nothing.
#[derive(Debug)]
pub(crate) struct ForkRange(#[expect(dead_code, reason = "it is kept for its drop")] OwnProcess<Entry>);

/// The treatment of a range of memory in a forked child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InChild {
    /// It gets a private copy.
    Copied,
    /// It is made inaccessible, except for copied ranges within it.
    Removed,
    /// It is no range, but the descriptor of this file, which is closed. A job may have closed it and opened another file
    /// under its number.
    Closed(FileIdentity),
}

/// A file's device and inode number.
pub(super) type FileIdentity = (u64, u64);

/// Returns the identity of an open file.
pub(super) fn identity_of(file: BorrowedFd<'_>) -> io::Result<FileIdentity> {
    let status = rustix::fs::fstat(file).of_call("fstat")?;
    Ok((status.st_dev, status.st_ino))
}

impl ForkRange {
    /// Gives each forked child a copy of `length` bytes from `start` on, which stay mapped until this is dropped.
    pub(crate) fn copied(start: NonNull<u8>, length: usize) -> Self {
        Self::new(start, length, InChild::Copied)
    }

    /// Removes `length` bytes from `start` on, which are a whole mapping, from each forked child.
    pub(crate) fn removed(start: NonNull<u8>, length: usize) -> Self {
        Self::new(start, length, InChild::Removed)
    }

    fn new(start: NonNull<u8>, length: usize, in_child: InChild) -> Self {
        let ranges = Ranges::of_this_process();
        let range = Range { start: start.as_ptr() as usize, length, in_child, copy: ptr::null_mut() };
        let at = ranges.lock().add(range);
        Self(OwnProcess::new(Entry { ranges, at }))
    }
}

/// A file of shared memory. It is closed in each forked child, which would keep the memory and could map it.
#[derive(Debug)]
pub(crate) struct ForkFile(OwnProcess<(Entry, OwnedFd)>);

impl ForkFile {
    pub(crate) fn new(file: OwnedFd) -> io::Result<Self> {
        let range = Range::of_file(file.as_fd())?;
        let ranges = Ranges::of_this_process();
        let at = ranges.lock().add(range);
        Ok(Self(OwnProcess::new((Entry { ranges, at }, file))))
    }

    /// Returns the file. `None` in a forked child.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        self.0.get().map(|(_, file)| file.as_fd())
    }
}

/// A range's place in the list. Removed from it when dropped.
#[derive(Debug)]
struct Entry {
    ranges: &'static Mutex<Ranges>,
    at: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ranges.lock().remove(self.at);
    }
}

#[derive(Debug, Clone, Copy)]
struct Range {
    /// An address, or a descriptor.
    start: usize,
    /// 0 for a place in the list that is free.
    length: usize,
    in_child: InChild,
    /// The copy, during a fork. Null if there is none.
    copy: *mut u8,
}

// SAFETY: the pointer is to memory that belongs to no thread. The lock of the list guards it.
unsafe impl Send for Range {}

impl Range {
    fn of_file(file: BorrowedFd<'_>) -> io::Result<Self> {
        let descriptor = usize::try_from(file.as_raw_fd()).expect("a descriptor is not negative");
        let in_child = InChild::Closed(identity_of(file)?);
        Ok(Self { start: descriptor, length: 1, in_child, copy: ptr::null_mut() })
    }

    /// Returns the start and the length of the pages that the range lies in.
    fn pages(&self) -> (*mut u8, usize) {
        let page = rustix::param::page_size();
        let start = self.start & !(page - 1);
        (ptr::without_provenance_mut(start), (self.start + self.length).next_multiple_of(page) - start)
    }
}

/// The ranges of this process.
#[derive(Debug, Default)]
struct Ranges {
    all: Vec<Range>,
    /// The places in `all` that are free.
    free: Vec<usize>,
}

impl Ranges {
    /// A child begins with none: it shares no memory with others until it makes some.
    fn of_this_process() -> &'static Mutex<Self> {
        static RANGES: PerProcess<Mutex<Ranges>> = PerProcess::new();
        static HANDLERS: Once = Once::new();
        // In a child of a fork in this very moment the handlers may never be set: it has ranges of its own only after this
        // line, and its own children then share them.
        if !HANDLERS.is_completed() {
            // SAFETY: the handlers have static lifetime, since Rust code is never unloaded. What the child's handler does
            // is allowed in a forked child: it makes system calls, and it neither allocates nor takes locks.
            HANDLERS.call_once(|| unsafe {
                libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child));
            });
        }
        RANGES.get(Mutex::default)
    }

    fn add(&mut self, range: Range) -> usize {
        if let Some(at) = self.free.pop() {
            self.all[at] = range;
            at
        } else {
            self.all.push(range);
            self.all.len() - 1
        }
    }

    fn remove(&mut self, at: usize) {
        self.all[at].length = 0;
        self.free.push(at);
    }

    fn those(&mut self, in_child: InChild) -> impl Iterator<Item = &mut Range> {
        self.all.iter_mut().filter(move |range| range.length > 0 && range.in_child == in_child)
    }

    /// Copies the ranges, before a fork.
    fn copy(&mut self) {
        for range in self.those(InChild::Copied) {
            let (start, length) = range.pages();
            // SAFETY: the kernel chooses an unused address, so no existing memory is affected. The range stays mapped while
            // the list is locked. Other threads and processes may write to it, as to all memory that a fork copies: then
            // the bytes are arbitrary ones.
            let copy = unsafe {
                let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
                rustix::mm::mmap_anonymous(ptr::null_mut(), length, access, flags).inspect(|copy| {
                    copy.cast::<u8>().copy_from_nonoverlapping(start, length);
                })
            };
            range.copy = copy.map_or(ptr::null_mut(), <*mut _>::cast);
        }
    }

    /// Frees the copies, in the parent.
    fn free_copies(&mut self) {
        for range in self.those(InChild::Copied).filter(|range| !range.copy.is_null()) {
            let copy = std::mem::replace(&mut range.copy, ptr::null_mut());
            // SAFETY: the copy is a mapping of that length, and nothing else refers to it.
            let _ = unsafe { rustix::mm::munmap(copy.cast(), range.pages().1) };
        }
    }

    /// Puts the copies in the places of the ranges and removes the other memory, in the child.
    fn replace(&mut self) {
        for range in self.all.iter().filter(|range| range.length > 0) {
            if let InChild::Closed(identity) = range.in_child {
                let descriptor = i32::try_from(range.start).unwrap_or(-1);
                // SAFETY: the descriptor belongs to a `ForkFile`, which neither returns it nor closes it in a child. If
                // it is another file's by now, it stays open.
                unsafe {
                    if identity_of(BorrowedFd::borrow_raw(descriptor)).is_ok_and(|found| found == identity) {
                        rustix::io::close(descriptor);
                    }
                }
            }
        }
        let all_copied = self.those(InChild::Copied).all(|range| !range.copy.is_null());
        for range in self.those(InChild::Removed).filter(|_| all_copied) {
            let (start, length) = range.pages();
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
            // If the system refuses, the memory stays shared. SAFETY: the range is a mapping of this library's, and what is
            // held of it is copied and gets its place back below.
            let _ = unsafe { rustix::mm::mmap_anonymous(start.cast(), length, ProtFlags::empty(), flags) };
        }
        for range in self.those(InChild::Copied).filter(|range| !range.copy.is_null()) {
            let (start, length) = range.pages();
            // SAFETY: the copy is a mapping of that length, and takes the place of what it is a copy of.
            let _ = unsafe {
                let flags = MremapFlags::MAYMOVE;
                rustix::mm::mremap_fixed(range.copy.cast(), length, length, flags, start.cast())
            };
        }
    }
}

/// The lock of the list, between the handlers of one fork.
struct Held(UnsafeCell<Option<MutexGuard<'static, Ranges>>>);

// SAFETY: only the thread that holds the lock accesses the value.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

thread_local! {
    /// This thread forks, and holds the lock.
    static FORKS: Cell<bool> = const { Cell::new(false) };
}

/// Takes the lock before a fork, so that the child finds the list complete.
extern "C" fn before_fork() {
    let mut guard = Ranges::of_this_process().lock();
    guard.copy();
    // SAFETY: this thread has just taken the lock.
    unsafe { *HELD.0.get() = Some(guard) };
    FORKS.set(true);
}

fn take_held() -> Option<MutexGuard<'static, Ranges>> {
    // SAFETY: this thread has taken the lock in `before_fork`, and puts the value back to `None` here, before it releases
    // the lock.
    FORKS.replace(false).then(|| unsafe { (*HELD.0.get()).take() }).flatten()
}

extern "C" fn after_fork() {
    if let Some(mut ranges) = take_held() {
        ranges.free_copies();
    }
}

extern "C" fn in_child() {
    if let Some(mut ranges) = take_held() {
        ranges.replace();
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;

//! Detects forks. A forked child has copies of a program's values, but not its threads, and it shares memory and
//! descriptors with its parent. So the child must not wait for the parent's threads, take their locks, or end what the
//! parent still uses.
//!
//! [`OwnProcess`] carries that check for one value, and [`PerProcess`] makes each process a value of its own.

use std::convert::Infallible;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr;
#[cfg(not(weak_memory))]
use std::sync::atomic::AtomicPtr as Published;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

#[cfg(weak_memory)]
use crate::base::sync::atomic::AtomicPtr as Published;

/// The number of this process among those that descend from each other by forks, or 0 while the process has none.
///
/// The kernel clears it in a child: it is on a page that is marked so. Where that is not possible, it is [`UNMARKED`].
static NUMBER: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const UNMARKED).cast_mut());

/// The number of this process where no page can be marked. A handler clears it in a child that `fork` of the C library
/// has made.
static UNMARKED: AtomicU32 = AtomicU32::new(0);

/// The highest number that this process or one before it has taken. Raised before the number is taken, so that no
/// descendant takes the same one.
static HIGHEST: AtomicU32 = AtomicU32::new(0);

fn number() -> &'static AtomicU32 {
    // SAFETY: the pointer is to a static, or to a page that is never unmapped.
    unsafe { &*NUMBER.load(Ordering::Acquire) }
}

/// Clears the number in a child. The kernel has done so already, where it can.
#[cfg_attr(not(unix), allow(dead_code, reason = "there are no forks"))]
extern "C" fn in_child() {
    number().store(0, Ordering::Relaxed);
}

/// Makes sure that the number is cleared in each child from now on. Lock-free: a fork meanwhile finds no lock held.
#[cold]
fn watch_forks() {
    #[cfg(all(unix, not(miri)))]
    // SAFETY: the handler only stores to an atomic, which is allowed in a forked child. It has static lifetime, since Rust
    // code is never unloaded. If two threads get here at once, each child calls it twice, which is as good.
    unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    }
    #[cfg(all(target_os = "linux", not(miri)))]
    if let Some(page) = page::cleared_in_children() {
        let unmarked = (&raw const UNMARKED).cast_mut();
        if NUMBER.compare_exchange(unmarked, page, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            page::unmap(page);
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod page {
    use std::ptr::{self, NonNull};
    use std::sync::atomic::AtomicU32;

    /// The size of the mapping, in bytes. The kernel rounds it up to a page.
    const SIZE: usize = 4096;

    /// Makes a page of zeros that is cleared in every child, also in one of a raw system call, for which the C library
    /// calls no handler.
    pub(super) fn cleared_in_children() -> Option<*mut AtomicU32> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the kernel chooses an unused address, so no existing memory is affected.
        let page = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, flags, -1, 0) };
        let page = NonNull::new(page).filter(|page| page.as_ptr() != libc::MAP_FAILED)?.as_ptr();
        // An emulator may accept every advice and heed none. It is recognised by advice that does not exist.
        // SAFETY: the range is the mapping that was just made. The first advice is none, the second is for children.
        let is_marked = unsafe {
            libc::madvise(page, SIZE, -1) != 0 && libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) == 0
        };
        let page = page.cast::<AtomicU32>();
        if !is_marked {
            unmap(page);
        }
        is_marked.then_some(page)
    }

    /// Unmaps a page that was not published.
    pub(super) fn unmap(page: *mut AtomicU32) {
        // SAFETY: the page comes from `cleared_in_children`, and only the caller knows its address.
        unsafe { libc::munmap(page.cast(), SIZE) };
    }
}

/// The process that a value belongs to. In a child that is forked later, the value is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u32);

impl Generation {
    /// Returns the generation of this process. From the first call on, forks are noticed.
    pub(crate) fn now() -> Self {
        match number().load(Ordering::Relaxed) {
            0 => Self::begin(),
            number => Self(number),
        }
    }

    /// Gives this process its number.
    #[cold]
    fn begin() -> Self {
        if ptr::eq(number(), &raw const UNMARKED) {
            watch_forks();
        }
        let new = HIGHEST.fetch_add(1, Ordering::Relaxed) + 1;
        match number().compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Self(new),
            Err(other) => Self(other),
        }
    }

    /// Returns whether this process was forked after `self` was returned by [`now`](Self::now). Two atomic loads.
    pub(crate) fn is_past(self) -> bool {
        number().load(Ordering::Relaxed) != self.0
    }
}

/// A value of the process that made it: a hold on what that process shares with others, or a lock that its threads
/// take.
///
/// In a forked child there is no access to the value, and its destructor does not run. So a destructor that gives
/// something back, sends something or takes a lock belongs to a value in here, and cannot forget the check.
pub struct OwnProcess<T> {
    born: Generation,
    value: ManuallyDrop<T>,
}

impl<T> OwnProcess<T> {
    /// Wraps a value of this process.
    pub fn new(value: T) -> Self {
        Self { born: Generation::now(), value: ManuallyDrop::new(value) }
    }

    /// Returns the value. `None` in a forked child. Two atomic loads.
    pub fn get(&self) -> Option<&T> {
        if self.born.is_past() { None } else { Some(&self.value) }
    }

    /// Takes the value out. `None` in a forked child.
    pub fn into_inner(self) -> Option<T> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: the value is taken out once, since `this` is not used or dropped afterwards.
        (!this.born.is_past()).then(|| unsafe { ManuallyDrop::take(&mut this.value) })
    }
}

impl<T> Drop for OwnProcess<T> {
    fn drop(&mut self) {
        if !self.born.is_past() {
            // SAFETY: the value is dropped here alone, and is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for OwnProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnProcess").field(&self.get()).finish()
    }
}

/// A value that all threads of a process share, but not with a forked child: there the value's threads do not exist,
/// and its locks may have been held at the moment of the fork. The child makes another value.
///
/// Access takes no lock. The thread that needs the value first makes it. If two threads do so at once, one of them
/// drops its own and gets the other's. A published value is never freed.
#[derive(Debug)]
pub struct PerProcess<T: 'static>(Published<Made<T>>);

/// A value, and the process that made it.
#[derive(Debug)]
struct Made<T> {
    born: Generation,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    /// Makes a place that has no value yet.
    #[allow(clippy::new_without_default, reason = "it is the value of a static")]
    pub const fn new() -> Self {
        Self(Published::new(ptr::null_mut()))
    }

    /// Begins an execution of a model, before there are other threads.
    #[cfg(all(test, weak_memory))]
    pub(crate) fn begin_model(&self) {
        self.0.load(Ordering::Relaxed);
    }

    /// Returns the value of this process, if there is one.
    #[allow(dead_code, reason = "the layer that needs it may be left out")]
    pub(crate) fn existing(&'static self) -> Option<&'static T> {
        // SAFETY: as in `try_get`.
        let found = unsafe { self.0.load(Ordering::Acquire).as_ref() }?;
        (!found.born.is_past()).then_some(&found.value)
    }

    /// Returns the value of this process. Makes it with `make` if there is none yet.
    pub(crate) fn get(&'static self, make: impl FnOnce() -> T) -> &'static T {
        let Ok(value) = self.try_get(|| Ok::<_, Infallible>(make()));
        value
    }

    /// Returns the value like [`get`](Self::get), or the error of `make`.
    pub fn try_get<E>(&'static self, make: impl FnOnce() -> Result<T, E>) -> Result<&'static T, E> {
        let found = self.0.load(Ordering::Acquire);
        // SAFETY: the pointer is null or was published below. What is published comes from a `Box` and is never freed.
        match unsafe { found.as_ref() } {
            Some(found) if !found.born.is_past() => return Ok(&found.value),
            _ => {}
        }
        let new = Self::allocate(make()?);
        let published = match self.0.compare_exchange(found, new, Ordering::Release, Ordering::Acquire) {
            Ok(_) => new,
            Err(winner) => {
                // SAFETY: `new` comes from `Box::into_raw` just above. It was not published, so this is its only owner.
                drop(unsafe { Box::from_raw(new) });
                winner
            }
        };
        // SAFETY: `published` was published, so it comes from a `Box`, is not null, and is never freed.
        Ok(unsafe { &(*published).value })
    }

    /// Makes `value` the value of this process, and leaks the former one.
    #[allow(dead_code, reason = "the layer that needs it may be left out")]
    pub(crate) fn set(&'static self, value: T) -> &'static T {
        let new = Self::allocate(value);
        self.0.store(new, Ordering::Release);
        // SAFETY: `new` comes from a `Box` and is published now, so it is never freed.
        unsafe { &(*new).value }
    }

    fn allocate(value: T) -> *mut Made<T> {
        Box::into_raw(Box::new(Made { born: Generation::now(), value }))
    }
}

//! The memory that a pool and one worker share: a ring of slots for calls, and the words by which they wake each other.
//!
//! ```text
//!            pool                          worker                        pool
//! Empty ──────────▶ Offered ──────────▶ Claimed ──────────▶ Answered ──────────▶ Empty
//!                      │ pool                                                     ▲
//!                      └────────▶ Withdrawn ─────────────── worker ───────────────┘
//! ```
//!
//! A job may send items before its answer: `Claimed ─worker─▶ Item ─pool─▶ Claimed`. A worker that cannot read a call puts
//! it back, `Claimed ─worker─▶ Offered`, and leaves.
//!
//! Both sides go round the ring in the same order. The state of a slot says which side may write to it. Only `Offered`
//! is contended: both sides leave it by compare-and-swap, so a call is either claimed or withdrawn, never both. What
//! the states mean for each side, who sleeps when, and who dies where, is in the README of the process pool.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use super::message::{FAR, SPAN, SlotHeader};
use crate::base::line::Line;
use crate::base::sync::UnsafeCell;
use crate::base::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(weak_memory))]
use crate::wire::memfd::Mapping;
use crate::wire::payload::{BodyLocation, INLINE, PARTS, Payload};

/// The number of calls that a link holds. Few in a model, which makes each of them anew in each execution.
pub(in crate::processes) const SLOTS: u32 = if cfg!(weak_memory) { 2 } else { 32 };

/// The size of a slot's data, in bytes: room for the list of a payload's parts and for its body.
pub(in crate::processes) const DATA: usize = PARTS * SPAN + INLINE;

/// The number of freed blocks that can be on their way back to the worker.
pub(super) const RETURNS: u32 = if cfg!(weak_memory) { 2 } else { 256 };

/// The states of a slot.
pub(in crate::processes) mod state {
    pub(in crate::processes) const EMPTY: u32 = 0;
    pub(in crate::processes) const OFFERED: u32 = 1;
    pub(in crate::processes) const CLAIMED: u32 = 2;
    pub(in crate::processes) const ANSWERED: u32 = 3;
    pub(in crate::processes) const WITHDRAWN: u32 = 4;
    pub(in crate::processes) const ITEM: u32 = 5;
}

/// The states of the pool's listener towards one worker. 0: the pool has no listener.
pub(super) mod listener {
    /// It wants to be notified of the next answer.
    pub(in super::super) const OPEN: u32 = 1;
    /// It was notified and has not looked yet.
    pub(in super::super) const NOTIFIED: u32 = 2;
}

/// The shared memory. It begins as zeros, which is a valid value of each field.
#[repr(C)]
pub(in crate::processes) struct Shared {
    /// The worker's fingerprint; 0 until the worker is up. Written once by the worker.
    pub(super) greeting: AtomicU64,
    /// 1 if the worker has more memory than it may have between two jobs. Set by the worker before an answer, once.
    pub(super) worn: AtomicU32,
    /// 1 while the worker sleeps or is about to. Set by the worker. Cleared by the side that ends the sleep, so that
    /// one thread of the pool alone wakes it.
    pub(super) worker_sleeps: Line<AtomicU32>,
    /// 1 while the supervisor sleeps or is about to. Set by the supervisor. Cleared by the worker that wakes it.
    pub(super) pool_waits: Line<AtomicU32>,
    /// The state of this worker for the pool's listener: see [`listener`]. Written by both sides.
    pub(super) listener: Line<AtomicU32>,
    /// The core that the worker last claimed a call on. If it is the pool's own core, spinning for the worker is in
    /// vain.
    pub(super) worker_core: Line<AtomicU32>,
    /// The core that the pool last offered a call on. The same holds for the worker.
    pub(super) pool_core: Line<AtomicU32>,
    /// Blocks of the worker's arena that the pool has released, on their way back to the worker.
    pub(in crate::processes) returns: Returns,
    pub(super) slots: [Slot; SLOTS as usize],
}

/// A queue of freed blocks from the pool to the worker.
#[repr(C)]
pub(in crate::processes) struct Returns {
    /// Counts the entries that the pool has put in. Written by the pool.
    pub(in crate::processes) put: Line<AtomicU32>,
    /// Counts the entries that the worker has taken out. Written by the worker.
    pub(super) taken: Line<AtomicU32>,
    /// The offsets of the blocks. The entry number `n` is at `n % RETURNS`. The counts decide which side may access it.
    pub(super) offsets: [UnsafeCell<u64>; RETURNS as usize],
}

/// The place of one call.
#[repr(C, align(64))]
pub(in crate::processes) struct Slot {
    /// One of [`state`]. Decides which side may access `header` and `data`.
    pub(in crate::processes) state: AtomicU32,
    /// Counts the callers that sleep until the state is `Answered`. Written by these callers. A caller that wakes late
    /// may meet the next one, which waits for another call in the same slot.
    pub(super) awaited: AtomicU32,
    /// 1 while the worker sleeps until the state is not `Item` any more. Written by the worker.
    pub(super) blocked: AtomicU32,
    /// The moment at which the worker began with the call's function; 0 if it has not said so. Cleared by the pool before
    /// it offers a call, written by the worker while the call is `Claimed`.
    pub(super) began: AtomicU64,
    pub(in crate::processes) header: UnsafeCell<SlotHeader>,
    pub(in crate::processes) data: UnsafeCell<[u8; DATA]>,
}

/// One side's mapping of the shared memory.
#[cfg(not(weak_memory))]
#[derive(Debug)]
pub(in crate::processes) struct Ring(pub(super) Mapping);

/// One side's view of the memory. The model checker knows memory only as values that were made, so both sides share one.
#[cfg(weak_memory)]
#[derive(Debug, Clone)]
pub(in crate::processes) struct Ring(std::sync::Arc<Shared>);

#[cfg(weak_memory)]
// SAFETY: the cells are accessed by the side that the states and counts say, as in a mapping, which is `Sync` too. The
// model checker looks for accesses that race.
unsafe impl Sync for Ring {}
#[cfg(weak_memory)]
// SAFETY: as above.
unsafe impl Send for Ring {}

#[cfg(not(weak_memory))]
impl Ring {
    /// Maps the memory of a link, which is a file of the size of [`Shared`].
    pub(super) fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(Mapping::new(file, size_of::<Shared>(), true)?))
    }

    pub(in crate::processes) fn shared(&self) -> &Shared {
        // SAFETY: the mapping is as large as `Shared`, which `map` ensures, and it is aligned to a page. Every pattern
        // of bits is a valid `Shared`: it consists of atomics and of cells, and the cells are only accessed through raw
        // pointers, since the other process may write to them.
        unsafe { self.0.start().cast().as_ref() }
    }
}

#[cfg(weak_memory)]
impl Ring {
    /// Makes the memory of a link. The file is not used.
    pub(super) fn map(_: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self::new())
    }

    pub(super) fn new() -> Self {
        let word = || Line(AtomicU32::new(0));
        Self(std::sync::Arc::new(Shared {
            greeting: AtomicU64::new(0),
            worn: AtomicU32::new(0),
            worker_sleeps: word(),
            pool_waits: word(),
            listener: word(),
            worker_core: word(),
            pool_core: word(),
            returns: Returns {
                put: word(),
                taken: word(),
                offsets: std::array::from_fn(|_| UnsafeCell::new(0)),
            },
            slots: std::array::from_fn(|_| Slot {
                state: AtomicU32::new(state::EMPTY),
                awaited: AtomicU32::new(0),
                blocked: AtomicU32::new(0),
                began: AtomicU64::new(0),
                header: UnsafeCell::new(SlotHeader::default()),
                data: UnsafeCell::new([0; DATA]),
            }),
        }))
    }

    pub(in crate::processes) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Ring {
    /// Returns the slot with this number. Numbers go on when the ring begins anew.
    pub(in crate::processes) fn slot(&self, at: u32) -> &Slot {
        &self.shared().slots[(at % SLOTS) as usize]
    }

    /// Writes a payload into a slot that belongs to the caller's side by its state.
    pub(super) fn write(&self, at: u32, mut header: SlotHeader, payload: &Payload) {
        let slot = self.slot(at);
        let mut used = 0;
        let mut put = |bytes: &[u8]| {
            assert!(bytes.len() <= DATA - used, "payloads are made to fit");
            slot.data.with_mut(|data| {
                // SAFETY: the range lies within the slot's data, and by the slot's state only this side accesses it now.
                unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast::<u8>().add(used), bytes.len());
                }
            });
            used += bytes.len();
        };
        header.parts = 0;
        for part in payload.parts() {
            let (address, length) = part.location().expect("parts were copied to shared memory");
            put(&address.to_le_bytes());
            put(&(length as u64).to_le_bytes());
            header.parts += 1;
        }
        match payload.location() {
            BodyLocation::Inline(bytes) => {
                header.inline = u32::try_from(bytes.len()).expect("inline bodies are small");
                put(bytes);
            }
            BodyLocation::InArena { address, length } => {
                (header.inline, header.offset, header.length) = (FAR, address, length as u64);
            }
        }
        slot.header.with_mut(|slot| {
            // SAFETY: the pointer is to the slot's header, and by the slot's state only this side accesses it now.
            unsafe { slot.write(header) };
        });
    }

    /// Copies a slot's header and the used part of its data.
    pub(super) fn read(&self, at: u32) -> (SlotHeader, Vec<u8>) {
        let slot = self.slot(at);
        let header = slot.header.with(|header| {
            // SAFETY: the pointer is to mapped memory, where every pattern of bits is a valid header. A worker that
            // violates the protocol may write meanwhile. Then the copy has arbitrary content, and all content is
            // checked.
            unsafe { header.read_volatile() }
        });
        let inline = if header.inline == FAR { 0 } else { header.inline as usize };
        let used = (header.parts as usize).saturating_mul(SPAN).saturating_add(inline).min(DATA);
        let mut data: Vec<u8> = Vec::with_capacity(used);
        slot.data.with(|from| {
            // SAFETY: `used` bytes are within the slot's data and within the vector's capacity, and the copy
            // initialises them.
            unsafe {
                std::ptr::copy_nonoverlapping(from.cast::<u8>(), data.as_mut_ptr(), used);
                data.set_len(used);
            }
        });
        (header, data)
    }
}

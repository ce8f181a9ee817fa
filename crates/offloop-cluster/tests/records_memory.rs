//! Decodes hostile records under an allocator that counts. It is the only test in its process.

#![allow(missing_docs, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use offloop_cluster::records::{Job, State};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Notes the largest size that was asked for.
struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: each call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer is from `alloc` or `realloc`, which are those of the system.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the pointer is from `alloc` or `realloc`, which are those of the system.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_more_memory_is_taken_than_the_bytes_have() {
    let heads = prop::sample::select(&[0xc4_u8, 0xc5, 0xc6, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf][..]);
    let keys = prop::sample::select(
        &["id", "task", "sig", "args", "carry", "result", "worker", "later", "name"][..],
    );
    let entry = (keys, heads, prop::collection::vec(any::<u8>(), 0..64));
    let record = prop::collection::vec(entry, 0..4).prop_map(|entries| {
        let mut bytes = vec![0x81 + u8::try_from(entries.len()).unwrap(), 0xa1, b'v', 1];
        for (key, head, body) in entries {
            rmp::encode::write_str(&mut bytes, key).unwrap();
            bytes.push(head);
            bytes.extend(body);
        }
        bytes
    });
    TestRunner::default()
        .run(&record, |bytes| {
            LARGEST.store(0, Ordering::Relaxed);
            let decoded = (Job::decode(&bytes), State::decode(&bytes));
            let largest = LARGEST.load(Ordering::Relaxed);
            drop(decoded);
            // An error's text may be longer than a short record.
            prop_assert!(largest <= bytes.len() + 256, "{} bytes for a record of {}", largest, bytes.len());
            Ok(())
        })
        .unwrap();
}

//! A model of the arena under loom: its counts are relaxed, and the lists are under one lock.

use super::*;
use crate::base::sync::thread;
use crate::base::sync::weak::check;

#[test]
fn no_block_is_held_twice_and_the_kept_bytes_are_counted_exactly() {
    check(2, || {
        let (file, mapping) = create(4 * SMALLEST, true).unwrap();
        let made: *mut Arena = Box::into_raw(Box::new(Arena::new(&file, mapping).unwrap()));
        // SAFETY: it is freed at the end of this execution, when no block is left.
        let arena: &'static Arena = unsafe { &*made };
        arena.enter();
        // The values of this process are made here, before there are other threads.
        drop(arena.take(1));
        let threads = [1, 2].map(|number: u8| {
            thread::spawn(move || {
                for _ in 0..2 {
                    let mut block = arena.take(100).unwrap();
                    block.bytes_mut(100).fill(number);
                    thread::yield_now();
                    assert!(block.bytes(100).iter().all(|&byte| byte == number));
                }
            })
        });
        arena.shrink_to(0);
        for thread in threads {
            thread.join().unwrap();
        }
        let touched = |arena: &Arena| -> usize {
            arena.blocks.get().unwrap().lock().free.iter().flatten().map(|free| free.touched).sum()
        };
        assert_eq!(arena.bytes(), ArenaBytes { used: 0, kept: touched(arena) as u64 });
        arena.leave();
        assert_eq!((touched(arena), arena.retains()), (0, false));
        // SAFETY: it comes from a box, and there are no other references.
        drop(unsafe { Box::from_raw(made) });
    });
}

//! A model of the arena under loom: its counts are relaxed, and the lists are under one lock.

use super::*;
use crate::base::sync::thread;
use crate::base::sync::weak::check;

#[test]
fn no_block_is_held_twice_and_the_kept_bytes_are_counted_exactly() {
    check(2, || {
        let (_file, mapping) = create(4 * SMALLEST, true).unwrap();
        let arena = Arc::new(Arena::new(mapping));
        // The values of this process are made here, before there are other threads.
        drop(arena.take(1));
        let threads = [1, 2].map(|number: u8| {
            let arena = Arc::clone(&arena);
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
        assert_eq!(arena.bytes(), ArenaBytes { used: 0, kept: touched(&arena) as u64 });
        arena.shrink_to(0);
        assert_eq!((touched(&arena), arena.retains()), (0, false));
    });
}

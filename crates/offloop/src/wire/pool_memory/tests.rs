//! The memory of a pool: what belongs to it, when it grows, and when it goes back to the system.

use std::os::fd::AsFd;

use super::*;
use crate::wire::blob::{Blob, BlobMut};
use crate::wire::payload::{Incoming, Payload};

fn filled(memory: &PoolMemory, length: usize) -> Block {
    let mut block = memory.take(length).unwrap();
    block.bytes_mut(length).fill(1);
    block
}

fn kept(memory: &PoolMemory) -> usize {
    usize::try_from(memory.bytes().kept).unwrap()
}

fn segments(memory: &PoolMemory) -> Vec<u32> {
    memory.segments.get().unwrap().lock().all.iter().map(|segment| segment.number()).collect()
}

#[test]
fn there_is_no_segment_until_one_is_needed_and_small_blocks_share_one() {
    let memory = PoolMemory::new();
    assert_eq!((segments(&memory), memory.uses(), memory.bytes()), (vec![], 0, ArenaBytes::default()));
    let blocks = [1, 5000, 1 << 20].map(|length| filled(&memory, length));
    assert_eq!(segments(&memory), [0]);
    assert!(blocks.iter().all(|block| memory.has(block) && !PoolMemory::new().has(block)));
    assert_eq!(memory.bytes(), ArenaBytes { used: 4096 + 8192 + (1 << 20), kept: 0 });
}

#[test]
fn a_block_that_does_not_fit_gets_a_segment_of_its_own_size() {
    let memory = PoolMemory::new();
    let small = filled(&memory, 1);
    let large = memory.take(SEGMENT + 1).unwrap();
    assert_eq!((segments(&memory), large.arena().size()), (vec![0, 1], 2 * SEGMENT));
    assert!(memory.take(RESERVE + 1).is_err() && memory.take(usize::MAX).is_err());
    drop((small, large));
}

#[test]
fn segments_grow_with_the_memory_in_use_so_that_they_stay_few() {
    let memory = PoolMemory::new();
    // Nothing is written to it.
    let blocks: Vec<Block> = (0..512).map(|_| memory.take(SEGMENT).unwrap()).collect();
    assert!(segments(&memory).len() < 60, "{} segments", segments(&memory).len());
    drop(blocks);
}

#[test]
fn memory_goes_back_when_nothing_of_its_segment_is_in_use() {
    let memory = PoolMemory::new();
    let first = filled(&memory, SEGMENT / 2);
    let second = filled(&memory, SEGMENT);
    let uses = memory.uses();
    assert!(!memory.retains() && memory.shrink_to(0).is_empty());
    drop(second);
    assert!(memory.retains() && kept(&memory) == SEGMENT && memory.uses() != uses);
    assert!(memory.shrink_to(SEGMENT).is_empty(), "as much is allowed");
    assert_eq!((memory.shrink_to(0), kept(&memory)), (vec![1], 0));
    assert_eq!(segments(&memory), [0], "the other is in use");
    drop(first);
    assert_eq!((memory.shrink_to(0), segments(&memory)), (vec![0], vec![]));
    assert_eq!(filled(&memory, 1).arena().number(), 2, "numbers are not used again");
}

#[test]
fn memory_that_was_freed_last_is_used_first() {
    let memory = PoolMemory::new();
    let address = filled(&memory, SEGMENT).address();
    let _other = filled(&memory, 1);
    assert_eq!(memory.take(SEGMENT).unwrap().address(), address);
}

#[test]
fn a_closed_memory_keeps_what_is_in_use_and_nothing_else() {
    let memory = PoolMemory::new();
    let block = filled(&memory, 5000);
    memory.close();
    assert_eq!(memory.bytes(), ArenaBytes::default());
    assert_eq!(block.bytes(5000), [1; 5000]);
    let late = filled(&memory, 5000);
    let file = late.arena().for_readers().unwrap().try_clone_to_owned().unwrap();
    assert!(rustix::fs::fstat(&file).unwrap().st_blocks > 0);
    let arena = Arc::downgrade(late.arena());
    drop(late);
    assert!(arena.upgrade().is_none() && segments(&memory).is_empty());
}

#[test]
fn a_payload_lies_in_the_memory_of_its_pool_whatever_it_is_made_of() {
    let (ours, theirs) = (Arc::new(PoolMemory::new()), Arc::new(PoolMemory::new()));
    let blob = |memory| {
        let mut blob = BlobMut::in_memory(memory, 0);
        blob.resize(5000, 3);
        blob.freeze()
    };
    let (own, heap, foreign) = (blob(Some(Arc::clone(&ours))), blob(None), blob(Some(Arc::clone(&theirs))));
    let value = (vec![7_u32; 3000], &own, &heap, &foreign);
    let payload = Payload::encode_call(None::<&()>, &value, &*ours).unwrap();
    assert_eq!(payload.arenas().count(), 4);
    assert!(payload.arenas().all(|arena| arena.owner() == ours.identity));
    assert_eq!(payload.parts()[0].as_ptr(), own.as_ptr(), "it is there already");
    assert!(payload.parts().iter().all(|part| *part == own && part.is_in(&*ours)));
    let decoded: (Vec<u32>, Blob, Blob, Blob) = Incoming::from(&payload).decode_arguments().unwrap();
    assert!(decoded.0 == value.0 && decoded.1 == own && decoded.2 == heap && decoded.3 == foreign);
}

#[test]
fn a_payload_for_a_memory_that_is_refused_says_why() {
    struct Refused;

    impl Memory for Refused {
        fn take(&self, _: usize) -> io::Result<Block> {
            Err(io::Error::other("on purpose"))
        }

        fn has(&self, _: &Block) -> bool {
            false
        }
    }

    let encode = |value: Blob| Payload::encode_call(None::<&()>, &(vec![7_u8], value), &Refused);
    let long = Payload::encode_call(None::<&()>, &(vec![7_u32; 3000],), &Refused);
    for error in [long.unwrap_err(), encode(Blob::from(vec![7; 3000])).unwrap_err()] {
        assert!(error.to_string().ends_with("on purpose"), "{error}");
    }
    assert!(encode(Blob::from(vec![7; 30])).is_ok(), "it needs none");
}

#[test]
fn the_files_of_two_pools_are_different_ones() {
    let inode = |memory: &PoolMemory| {
        let block = filled(memory, 1);
        rustix::fs::fstat(block.arena().for_readers().unwrap().as_fd()).unwrap().st_ino
    };
    assert_ne!(inode(&PoolMemory::new()), inode(&PoolMemory::new()));
}

//! The allocator against a naive model, the memory that it takes from the system, and what a reader may do.

use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use proptest::prelude::*;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mm::MprotectFlags;

use super::*;

/// An arena for one test, with its file.
struct TestArena {
    arena: Arc<Arena>,
    file: OwnedFd,
}

impl Deref for TestArena {
    type Target = Arc<Arena>;

    fn deref(&self) -> &Arc<Arena> {
        &self.arena
    }
}

fn arena(size: usize) -> TestArena {
    let (file, mapping) = create(size, true).unwrap();
    assert_eq!(mapping.size(), size);
    TestArena { arena: Arc::new(Arena::new(mapping)), file }
}

/// Makes this process a worker with an arena, for all its tests, and maps the arena as its parent does.
pub(crate) fn arena_of_this_process() -> Mapping {
    static FILE: OnceLock<OwnedFd> = OnceLock::new();
    const SIZE: usize = 1 << 30;
    let file = FILE.get_or_init(|| {
        let (file, mapping) = create(SIZE, true).unwrap();
        Arena::adopt(mapping);
        file
    });
    Mapping::new(file.as_fd(), SIZE, false).unwrap()
}

/// Returns the memory that a file takes, in bytes.
fn footprint(file: &OwnedFd) -> usize {
    usize::try_from(rustix::fs::fstat(file).unwrap().st_blocks).unwrap() * 512
}

fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(SMALLEST)
}

impl Arena {
    /// Returns the free blocks: offset, capacity, touched.
    fn free_blocks(&self) -> Vec<(usize, usize, usize)> {
        let blocks = self.blocks.get().unwrap().lock();
        let of_class = |(class, frees): (usize, &Vec<FreeBlock>)| {
            frees.iter().map(|free| (free.offset, SMALLEST << class, free.touched)).collect::<Vec<_>>()
        };
        blocks.free.iter().enumerate().flat_map(of_class).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    /// Fills the beginning of a held block: which one, and how much of it in 1/1000.
    Write(usize, usize),
    Free(usize),
    Shrink(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![0..3 * SMALLEST, 0..40 * SMALLEST].prop_map(Step::Take),
        4 => (any::<usize>(), 0..=1000_usize).prop_map(|(which, share)| Step::Write(which, share)),
        4 => any::<usize>().prop_map(Step::Free),
        1 => prop_oneof![Just(0), 0..60 * SMALLEST].prop_map(Step::Shrink),
    ]
}

/// A block that is held, with what was written to it.
struct Held {
    block: Block,
    written: usize,
    fill: u8,
    /// The number of its bytes that were ever written to since its memory was given back.
    touched: usize,
}

impl Held {
    fn range(&self) -> Range<usize> {
        self.block.offset..self.block.offset + self.block.capacity()
    }

    fn is_intact(&self) -> bool {
        self.block.bytes(self.written).iter().all(|&byte| byte == self.fill)
    }
}

/// Every block that was ever made is either held or free; nothing is split, merged or forgotten.
struct Model {
    arena: TestArena,
    held: Vec<Held>,
    /// Offset, capacity, touched.
    free: Vec<(usize, usize, usize)>,
    /// The part of the arena that has been cut into blocks.
    cut: usize,
    fills: u8,
}

impl Model {
    fn new(size: usize) -> Self {
        Self { arena: arena(size), held: Vec::new(), free: Vec::new(), cut: 0, fills: 0 }
    }

    fn take(&mut self, size: usize) {
        let capacity = size.max(SMALLEST).next_power_of_two();
        let Some(block) = self.arena.take(size) else {
            assert!(self.cut + capacity > self.arena.size(), "there was room for {size} bytes at the end");
            let fits = self.free.iter().find(|free| free.1 >= capacity);
            assert_eq!(fits, None, "a free block would have done for {size} bytes");
            return;
        };
        assert!(block.capacity() >= size);
        assert_eq!(block.offset % SMALLEST, 0);
        let touched = if block.offset == self.cut {
            self.cut += block.capacity();
            0
        } else {
            let at = self.free.iter().position(|free| free.0 == block.offset).expect("it was never freed");
            let (_, capacity, touched) = self.free.swap_remove(at);
            assert_eq!(block.capacity(), capacity, "a block changes its size");
            touched
        };
        let held = Held { block, written: 0, fill: 0, touched };
        assert!(held.range().end <= self.arena.size(), "it does not fit");
        for other in &self.held {
            let (a, b) = (held.range(), other.range());
            assert!(a.end <= b.start || b.end <= a.start, "{a:?} and {b:?} overlap");
        }
        self.held.push(held);
    }

    fn write(&mut self, which: usize, share: usize) {
        if self.held.is_empty() {
            return;
        }
        self.fills = self.fills.wrapping_add(1);
        let count = self.held.len();
        let held = &mut self.held[which % count];
        held.written = held.block.capacity() * share / 1000;
        held.fill = self.fills;
        held.touched = held.touched.max(held.written);
        held.block.bytes_mut(held.written).fill(held.fill);
    }

    fn free(&mut self, which: usize) {
        if !self.held.is_empty() {
            let held = self.held.swap_remove(which % self.held.len());
            self.free.push((held.block.offset, held.block.capacity(), held.touched));
        }
    }

    fn shrink(&mut self, bound: usize) {
        let before = self.retained();
        self.arena.shrink_to(bound);
        let mut largest_given = 0;
        for (offset, capacity, touched) in self.arena.free_blocks() {
            let free = self.free.iter_mut().find(|free| free.0 == offset).expect("it is not free");
            assert_eq!(free.1, capacity);
            if touched != free.2 {
                assert_eq!(touched, 0, "a part of a block is given back");
                largest_given = largest_given.max(free.2);
                free.2 = 0;
            }
        }
        assert!(self.retained() <= bound, "{} are kept, {bound} are allowed", self.retained());
        assert!(before > bound || largest_given == 0, "memory that was allowed is given back");
        assert!(
            largest_given == 0 || self.retained() + largest_given > bound,
            "more is given back than is needed"
        );
    }

    fn retained(&self) -> usize {
        self.free.iter().map(|free| free.2).sum()
    }

    fn check(&self) {
        assert!(self.held.iter().all(Held::is_intact), "a block's bytes have changed");
        assert_eq!(self.arena.retained.load(Ordering::Relaxed), self.retained());
        assert_eq!(self.arena.retains(), self.retained() > 0);
        let (mut shelved, mut free) = (self.arena.free_blocks(), self.free.clone());
        shelved.sort_unstable();
        free.sort_unstable();
        assert_eq!(shelved, free);
        let held: usize = self.held.iter().map(|held| pages(held.touched)).sum();
        let kept: usize = self.free.iter().map(|free| pages(free.2)).sum();
        assert_eq!(footprint(&self.arena.file), held + kept, "the memory that the system reports");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn blocks_never_overlap_and_freed_memory_is_accounted_for_to_the_byte(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::new(256 * SMALLEST);
        for step in steps {
            match step {
                Step::Take(size) => model.take(size),
                Step::Write(which, share) => model.write(which, share),
                Step::Free(which) => model.free(which),
                Step::Shrink(bound) => model.shrink(bound),
            }
            model.check();
        }
        while !model.held.is_empty() {
            model.free(0);
        }
        model.shrink(0);
        model.check();
        assert_eq!(footprint(&model.arena.file), 0);
    }
}

#[test]
fn the_block_that_was_freed_last_is_used_first() {
    let arena = arena(64 * SMALLEST);
    let mut blocks: Vec<Block> = (0..4).map(|_| arena.take(SMALLEST).unwrap()).collect();
    let mut offsets: Vec<usize> = blocks.iter().map(|block| block.offset).collect();
    blocks.drain(..).for_each(drop);
    for _ in 0..4 {
        blocks.push(arena.take(1).unwrap());
        assert_eq!(blocks.last().map(|block| block.offset), offsets.pop());
    }
}

#[test]
fn an_arena_that_is_used_up_gives_none_until_a_block_is_freed() {
    let arena = arena(8 * SMALLEST);
    assert!(arena.take(8 * SMALLEST + 1).is_none(), "larger than the arena");
    assert!(arena.take(usize::MAX / 4).is_none(), "larger than any class");
    let mut blocks: Vec<Block> = (0..8).map(|_| arena.take(SMALLEST).unwrap()).collect();
    assert!(arena.take(0).is_none());
    drop(blocks.pop());
    blocks.push(arena.take(SMALLEST).expect("one was freed"));
    assert!(arena.take(1).is_none());
    blocks.clear();
    assert!(arena.take(2 * SMALLEST).is_none(), "blocks are not merged");
    assert_eq!((0..8).map_while(|_| arena.take(1).map(std::mem::forget)).count(), 8);
}

#[test]
fn a_small_request_gets_a_block_that_is_much_too_large_rather_than_none() {
    let arena = arena(64 * SMALLEST);
    let all = arena.take(64 * SMALLEST).unwrap();
    assert!(arena.take(1).is_none());
    drop(all);
    assert_eq!(arena.take(1).map(|block| block.capacity()), Some(64 * SMALLEST));
}

#[test]
fn tidying_leaves_as_much_memory_as_is_allowed() {
    let arena = arena(64 * SMALLEST);
    arena.allow(3 * SMALLEST);
    let mut blocks: Vec<Block> = (0..8).map(|_| arena.take(SMALLEST).unwrap()).collect();
    for block in &mut blocks {
        block.bytes_mut(SMALLEST).fill(1);
    }
    assert!(!arena.is_over(), "what is held does not count");
    let uses = arena.uses();
    drop(blocks);
    assert_eq!(arena.uses(), uses + 8);
    assert!(arena.is_over());
    arena.tidy();
    assert!(!arena.is_over());
    assert_eq!(footprint(&arena.file), 3 * SMALLEST);
}

/// Threads fill, check and free blocks while another one gives memory back. It must not give back the memory of a block
/// that is held.
#[test]
fn a_held_block_keeps_its_contents_while_others_are_freed_and_given_back() {
    const THREADS: usize = 3;
    const ROUNDS: usize = 1500;
    let arena = arena(1024 * SMALLEST);
    let done = std::sync::atomic::AtomicUsize::new(0);
    let work = |number: usize| {
        let fill = u8::try_from(number + 1).unwrap();
        let mut held: Vec<(Block, usize)> = Vec::new();
        for round in 0..ROUNDS {
            let size = (round * 7919 + number * 104_729) % (6 * SMALLEST);
            let mut block = arena.take(size).expect("there is room for all");
            block.bytes_mut(size).fill(fill);
            held.push((block, size));
            if held.len() > 8 {
                let (block, size) = held.swap_remove(round % 8);
                assert!(block.bytes(size).iter().all(|&byte| byte == fill), "in round {round}");
            }
        }
        for (block, size) in held {
            assert!(block.bytes(size).iter().all(|&byte| byte == fill));
        }
    };
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (work, done) = (&work, &done);
            scope.spawn(move || {
                // Counted even if an assertion fails, so that the scope ends.
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(number)));
                done.fetch_add(1, Ordering::Relaxed);
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
        }
        while done.load(Ordering::Relaxed) < THREADS {
            arena.shrink_to(2 * SMALLEST);
        }
    });
    arena.shrink_to(0);
    let kept: usize = arena.free_blocks().iter().map(|free| free.2).sum();
    assert_eq!((kept, arena.retained.load(Ordering::Relaxed)), (0, 0));
    assert_eq!(footprint(&arena.file), 0);
}

#[test]
fn a_reader_sees_what_the_owner_writes_and_cannot_write_itself() {
    let arena = Arc::new(Arena::segment(16 * SMALLEST, 1, 3).unwrap());
    let mut block = arena.take(100).unwrap();
    block.bytes_mut(100).fill(7);
    assert_eq!(split_address(block.address()), (3, block.offset as u64));

    let shared = arena.for_readers().unwrap();
    let mapping = Mapping::new(shared, arena.size(), false).unwrap();
    let (_, offset) = split_address(block.address());
    let start = mapping.at(&(offset..offset + 100)).unwrap();
    // SAFETY: the range lies within the mapping, and nothing writes to it while the slice is used.
    assert_eq!(unsafe { std::slice::from_raw_parts(start.as_ptr(), 100) }, [7; 100]);
    // SAFETY: the range is a mapping of this test, to which nothing is written even if the call succeeds.
    let made_writable = unsafe {
        rustix::mm::mprotect(
            mapping.start().as_ptr().cast(),
            mapping.size(),
            MprotectFlags::READ | MprotectFlags::WRITE,
        )
    };
    assert_eq!(made_writable, Err(rustix::io::Errno::ACCESS));
    let opened_again = rustix::fs::open(
        format!("/proc/self/fd/{}", shared.as_raw_fd()),
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    );
    for file in [shared, opened_again.unwrap().as_fd()] {
        assert!(Mapping::new(file, arena.size(), true).is_err());
        assert_eq!(rustix::io::pwrite(file, b"x", 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(file, 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(file, 1 << 30), Err(rustix::io::Errno::PERM));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(file, hole, 0, SMALLEST as u64), Err(rustix::io::Errno::PERM));
    }
    block.bytes_mut(100).fill(8);
    // SAFETY: as above.
    assert_eq!(unsafe { start.read_volatile() }, 8, "the owner goes on");
}

#[test]
fn the_reserve_is_a_power_of_two_within_its_bounds() {
    let reserve = reserve();
    assert!(reserve.is_power_of_two() && (SMALLEST..=RESERVE).contains(&reserve), "{reserve}");
}

//! The allocator against a naive model, what the system sees of it, and what a reader may do.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use proptest::prelude::*;
use rustix::fs::FallocateFlags;
use rustix::mm::MprotectFlags;

use super::*;

/// An arena of its own, used by a pool; never freed, as its blocks ask for that.
fn arena(size: usize) -> &'static Arena {
    let (file, mapping) = create(size, true).unwrap();
    assert_eq!(mapping.size(), size);
    let arena: &'static Arena = Box::leak(Box::new(Arena::new(&file, mapping).unwrap()));
    arena.enter();
    arena
}

/// The memory that a file takes, in bytes.
fn footprint(file: BorrowedFd<'_>) -> usize {
    usize::try_from(rustix::fs::fstat(file).unwrap().st_blocks).unwrap() * 512
}

fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(SMALLEST)
}

impl Arena {
    /// What lies on the shelves: offset, capacity, touched.
    fn shelved(&self) -> Vec<(usize, usize, usize)> {
        let shelves = self.shelves.lock();
        let of_class = |(class, frees): (usize, &Vec<Free>)| {
            frees.iter().map(|free| (free.offset, SMALLEST << class, free.touched)).collect::<Vec<_>>()
        };
        shelves.free.iter().enumerate().flat_map(of_class).collect()
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
    /// How much of it was ever written to since its memory was given back.
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
    arena: &'static Arena,
    held: Vec<Held>,
    /// Offset, capacity, touched.
    free: Vec<(usize, usize, usize)>,
    /// How much of the arena has been cut into blocks.
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
        for (offset, capacity, touched) in self.arena.shelved() {
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
        let (mut shelved, mut free) = (self.arena.shelved(), self.free.clone());
        shelved.sort_unstable();
        free.sort_unstable();
        assert_eq!(shelved, free);
        let held: usize = self.held.iter().map(|held| pages(held.touched)).sum();
        let kept: usize = self.free.iter().map(|free| pages(free.2)).sum();
        assert_eq!(footprint(self.arena.file.as_fd()), held + kept, "what the system says");
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
        assert_eq!(footprint(model.arena.file.as_fd()), 0);
    }

    #[test]
    fn an_address_is_given_exactly_for_ranges_within_the_mapping(start: u64, end: u64, near: bool) {
        let (_file, mapping) = create(16 * SMALLEST, true).unwrap();
        let size = mapping.size() as u64;
        let range = if near { start % (size + 2)..end % (size + 2) } else { start..end };
        let expected = range.start <= range.end && range.end <= size;
        let address = mapping.at(&range).map(|it| it.as_ptr().addr() - mapping.start().as_ptr().addr());
        prop_assert_eq!(address, expected.then(|| usize::try_from(range.start).unwrap()));
    }
}

#[test]
fn what_was_freed_last_is_used_first() {
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
fn an_arena_that_is_used_up_says_so_and_recovers() {
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
fn a_small_request_takes_a_block_that_is_too_large_by_far_rather_than_none() {
    let arena = arena(64 * SMALLEST);
    let all = arena.take(64 * SMALLEST).unwrap();
    assert!(arena.take(1).is_none());
    drop(all);
    assert_eq!(arena.take(1).map(|block| block.capacity()), Some(64 * SMALLEST));
}

#[test]
fn the_allowance_bounds_what_tidying_leaves() {
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
    assert_eq!(footprint(arena.file.as_fd()), 3 * SMALLEST);
}

#[test]
fn freed_memory_is_kept_only_while_there_is_a_pool() {
    let arena = arena(64 * SMALLEST);
    let footprint = || footprint(arena.file.as_fd());
    let use_block = || arena.take(SMALLEST).unwrap().bytes_mut(SMALLEST).fill(1);
    arena.enter();
    arena.leave();
    use_block();
    assert_eq!((footprint(), arena.retains()), (SMALLEST, true), "one pool is left");
    arena.leave();
    assert_eq!((footprint(), arena.retains()), (0, false));
    use_block();
    assert_eq!((footprint(), arena.retains()), (0, false), "it goes back at once");
}

/// Threads that fill, check and free blocks while another one gives memory back: who gives memory back must not
/// do it to a block that somebody holds.
#[test]
fn contents_survive_what_neighbours_free_and_give_back() {
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
    let kept: usize = arena.shelved().iter().map(|free| free.2).sum();
    assert_eq!((kept, arena.retained.load(Ordering::Relaxed)), (0, 0));
    assert_eq!(footprint(arena.file.as_fd()), 0);
}

/// A file of `size` bytes with these seals.
fn file(size: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("offloop-test", flags).unwrap();
    rustix::fs::ftruncate(&file, size as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

#[test]
fn a_file_that_could_shrink_is_not_mapped() {
    let size = 4 * SMALLEST;
    for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::GROW | SealFlags::SEAL] {
        for writable in [false, true] {
            let error = Mapping::new(file(size, seals).as_fd(), size, writable).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{seals:?}");
        }
    }
    assert!(Mapping::new(file(size, SealFlags::SHRINK).as_fd(), size, true).is_ok());
}

#[test]
fn a_file_that_is_too_small_is_not_mapped() {
    let file = memory_file("offloop-test", 4 * SMALLEST).unwrap();
    for size in [4 * SMALLEST + 1, 5 * SMALLEST, usize::MAX] {
        let error = Mapping::new(file.as_fd(), size, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{size}");
    }
    let empty = memory_file("offloop-test", 0).unwrap();
    assert!(Mapping::new(empty.as_fd(), 1, false).is_err());
    for size in [1, SMALLEST, 4 * SMALLEST] {
        assert_eq!(Mapping::new(file.as_fd(), size, true).unwrap().size(), size);
    }
}

#[test]
fn what_is_no_memory_file_is_not_mapped() {
    let (read, _write) = rustix::pipe::pipe().unwrap();
    assert!(Mapping::new(read.as_fd(), SMALLEST, false).is_err());
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(Mapping::new(null.as_fd(), SMALLEST, false).is_err());
}

#[test]
fn a_memory_file_keeps_its_size() {
    let file = memory_file("offloop-test", 4 * SMALLEST).unwrap();
    for size in [0, 3 * SMALLEST, 5 * SMALLEST] {
        assert!(rustix::fs::ftruncate(&file, size as u64).is_err(), "to {size}");
    }
    assert!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).is_err(), "its seals are final");
}

#[test]
fn a_reader_sees_what_the_owner_writes_and_cannot_write_itself() {
    let arena = arena(16 * SMALLEST);
    let mut block = arena.take(100).unwrap();
    block.bytes_mut(100).fill(7);

    let shared = arena.for_readers();
    assert_eq!(arena.for_readers().as_raw_fd(), shared.as_raw_fd(), "one descriptor for all");
    let mapping = Mapping::new(shared, arena.size(), false).unwrap();
    let range = block.offset()..block.offset() + 100;
    let start = mapping.at(&range).unwrap();
    // SAFETY: the range lies within the mapping, and nobody writes to it while the slice is used.
    assert_eq!(unsafe { std::slice::from_raw_parts(start.as_ptr(), 100) }, [7; 100]);

    let refused = Mapping::new(shared, arena.size(), true).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    // SAFETY: the range is this test's own mapping. Nothing is written to it, whatever it comes to.
    let made_writable = unsafe {
        rustix::mm::mprotect(
            mapping.start().as_ptr().cast(),
            mapping.size(),
            MprotectFlags::READ | MprotectFlags::WRITE,
        )
    };
    assert_eq!(made_writable, Err(rustix::io::Errno::ACCESS));
    assert_eq!(rustix::io::pwrite(shared, b"x", 0), Err(rustix::io::Errno::BADF));
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(rustix::fs::fallocate(shared, hole, 0, SMALLEST as u64), Err(rustix::io::Errno::BADF));
}

#[test]
fn the_reserve_is_a_power_of_two_within_its_bounds() {
    let reserve = reserve();
    assert!(reserve.is_power_of_two() && (SMALLEST..=RESERVE).contains(&reserve), "{reserve}");
}

/// A mapping of a file of four pages, each full of its number, that keeps its file.
fn four_pages() -> Mapping {
    let (_, mapping) = create(4 * SMALLEST, true).unwrap();
    for page in 0..4_u8 {
        // SAFETY: the page is within the mapping, to which nobody else has a reference.
        unsafe { mapping.start().add(usize::from(page) * SMALLEST).write_bytes(page, SMALLEST) };
    }
    mapping
}

fn of_page(mapping: &Mapping, page: usize, length: usize) -> Option<Private> {
    // SAFETY: `page` is at most the number of pages.
    mapping.private(unsafe { mapping.start().add(page * SMALLEST) }, length)
}

#[test]
fn a_private_mapping_has_the_bytes_of_its_place_and_keeps_its_own_to_itself() {
    let mapping = four_pages();
    let mut private = of_page(&mapping, 1, 2 * SMALLEST).unwrap();
    assert_eq!(private.bytes(), [[1; SMALLEST], [2; SMALLEST]].concat());
    private.bytes_mut().fill(9);
    assert_eq!(private.bytes(), [9; 2 * SMALLEST]);
    let again = of_page(&mapping, 0, 4 * SMALLEST).unwrap();
    let expected: Vec<u8> = (0..4).flat_map(|page| [page; SMALLEST]).collect();
    assert_eq!(again.bytes(), expected);
    // It outlives the mapping that it was made from.
    drop(mapping);
    assert_eq!((again.bytes(), private.bytes()[0]), (&*expected, 9));
}

#[test]
fn nothing_but_whole_ranges_of_a_file_that_is_still_there_is_mapped_privately() {
    let mapping = four_pages();
    assert!(of_page(&mapping, 3, SMALLEST).is_some());
    assert!(of_page(&mapping, 3, SMALLEST + 1).is_none(), "beyond the end");
    assert!(of_page(&mapping, 4, 1).is_none(), "behind the end");
    assert!(of_page(&mapping, 1, usize::MAX).is_none(), "more than there are addresses");
    assert!(of_page(&mapping, 1, 0).is_none(), "nothing");
    assert!(mapping.private(NonNull::<u64>::dangling().cast(), SMALLEST).is_none(), "elsewhere");

    let (file, _) = create(4 * SMALLEST, true).unwrap();
    let forgetful = Mapping::new(file.as_fd(), 4 * SMALLEST, true).unwrap();
    assert!(of_page(&forgetful, 0, SMALLEST).is_none(), "it was not kept");

    // What a job does that closes all files, after which others take their numbers.
    let (kept, _) = mapping.file.as_ref().unwrap();
    let other = create(4 * SMALLEST, true).unwrap().0;
    // SAFETY: both are open; nobody but the mapping uses the descriptor that changes its meaning.
    assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), kept.as_raw_fd()) }, kept.as_raw_fd());
    assert!(of_page(&mapping, 1, SMALLEST).is_none(), "it is another file");
}

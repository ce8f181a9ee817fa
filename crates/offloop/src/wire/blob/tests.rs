//! Blobs that are written, compared with a vector of the same bytes, and their private views.

#![allow(clippy::cast_possible_truncation, reason = "the numbers only tell things apart")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use proptest::prelude::*;

use super::*;
use crate::wire::arena;
use crate::wire::arena::tests::arena_of_this_process;

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<u8>),
    Extend(Vec<u8>),
    Resize(usize, u8),
    Reserve(usize),
    /// Sets a byte: where, in 1/1000 of its length.
    Set(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..3000).prop_map(Step::Write),
        2 => prop::collection::vec(any::<u8>(), 0..3000).prop_map(Step::Extend),
        3 => (0..20_000_usize, any::<u8>()).prop_map(|(length, value)| Step::Resize(length, value)),
        1 => (0..20_000_usize).prop_map(Step::Reserve),
        2 => (0..1000_usize, any::<u8>()).prop_map(|(at, byte)| Step::Set(at, byte)),
    ]
}

/// Makes a blob as where the system refuses shared memory.
fn on_the_heap(capacity: usize) -> BlobMut {
    BlobMut { memory: Growing::Heap(vec![0; capacity]), length: 0, pool: None }
}

/// Leaves free blocks in the arena that are full of other bytes than zeros.
fn soil() {
    arena_of_this_process();
    let mut blocks: Vec<BlobMut> = (0..6).map(|class| BlobMut::with_capacity(4096 << class)).collect();
    for block in &mut blocks {
        let capacity = block.capacity();
        block.spare(capacity).fill(0xaa);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_behaves_as_a_vector_does(
        capacity in 0..5000_usize,
        heap: bool,
        steps in prop::collection::vec(step(), 0..30),
    ) {
        soil();
        let mut blob = if heap { on_the_heap(capacity) } else { BlobMut::with_capacity(capacity) };
        let mut vector: Vec<u8> = Vec::new();
        prop_assert!(blob.capacity() >= capacity && blob.is_empty());
        for step in steps {
            match step {
                Step::Write(bytes) => {
                    prop_assert_eq!(blob.write(&bytes).unwrap(), bytes.len());
                    vector.extend(bytes);
                }
                Step::Extend(bytes) => {
                    blob.extend_from_slice(&bytes);
                    vector.extend(bytes);
                }
                Step::Resize(length, value) => {
                    blob.resize(length, value);
                    vector.resize(length, value);
                }
                Step::Reserve(additional) => {
                    blob.reserve(additional);
                    let (capacity, address) = (blob.capacity(), blob.as_ptr());
                    prop_assert!(capacity >= vector.len() + additional);
                    blob.resize(vector.len() + additional, 1);
                    prop_assert_eq!((blob.capacity(), blob.as_ptr()), (capacity, address), "it moves");
                    blob.resize(vector.len(), 1);
                }
                Step::Set(at, byte) if !vector.is_empty() => {
                    let at = vector.len() * at / 1000;
                    (blob[at], vector[at]) = (byte, byte);
                }
                Step::Set(..) => {}
            }
            prop_assert!(*blob == *vector, "they differ");
            prop_assert!(blob.capacity() >= blob.len());
        }
        let blob = blob.freeze();
        prop_assert!(*blob == *vector, "they differ in the end");
        prop_assert_eq!(&blob, &Blob::from(vector));
    }

    #[test]
    fn all_that_a_source_gives_is_read_however_it_gives_it(
        length in prop_oneof![0..100_usize, (60 * 1024)..(70 * 1024_usize), 0..300_000_usize],
        pieces in prop::collection::vec(prop_oneof![Just(0), 1..10_usize, 1..100_000_usize], 1..10),
    ) {
        soil();
        let bytes: Vec<u8> = (0..length).map(|it| (it % 251) as u8).collect();
        // A piece of no bytes stands for an interruption.
        let source = Source { left: &bytes, pieces: pieces.into_iter().cycle(), end: None, turns: 0 };
        let blob = BlobMut::read_from(source).unwrap().freeze();
        prop_assert!(*blob == *bytes, "{} of {} bytes", blob.len(), bytes.len());
    }
}

/// Gives its bytes in pieces.
struct Source<'a, I> {
    left: &'a [u8],
    pieces: I,
    end: Option<io::ErrorKind>,
    turns: usize,
}

impl<I: Iterator<Item = usize>> Read for Source<'_, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "an empty buffer cannot tell the end from a pause");
        self.turns += 1;
        if self.left.is_empty() {
            return self.end.map_or(Ok(0), |kind| Err(kind.into()));
        }
        // Now and then it gives bytes anyway: the list of pieces may consist of interruptions only.
        let piece = if self.turns % 5 == 0 { 1000 } else { self.pieces.next().unwrap_or(0) };
        if piece == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = piece.min(buffer.len()).min(self.left.len());
        let (now, later) = self.left.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.left = later;
        Ok(count)
    }
}

#[test]
fn an_error_of_the_source_is_passed_on() {
    for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::WouldBlock, io::ErrorKind::Other] {
        let source = Source { left: &[1; 100], pieces: std::iter::repeat(30), end: Some(kind), turns: 0 };
        assert_eq!(BlobMut::read_from(source).unwrap_err().kind(), kind);
    }
}

#[test]
fn a_source_that_claims_more_than_it_was_asked_for_is_not_believed() {
    /// Claims a thousand times the bytes that it was asked for, three times.
    #[derive(Default)]
    struct Liar {
        reads: u32,
        asked_for: usize,
    }

    impl Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.reads += 1;
            if self.reads > 3 {
                return Ok(0);
            }
            self.asked_for += buffer.len();
            Ok(buffer.len().saturating_mul(1000))
        }
    }

    let mut liar = Liar::default();
    let blob = BlobMut::read_from(&mut liar).unwrap();
    assert!(blob.len() <= blob.capacity());
    // The arena is shared with other tests and may give larger blocks than it was asked for, so the length varies.
    assert!(liar.asked_for >= 4 * 64 * 1024, "it begins with 64 KiB and doubles twice");
    assert_eq!(blob.freeze().iter().map(|_| 1).sum::<usize>(), liar.asked_for);
}

#[test]
fn zeros_are_zeros_in_memory_that_was_used_before() {
    for length in [0, 1, 4095, 4096, 4097, 100_000] {
        soil();
        let mut blob = BlobMut::zeroed(length);
        assert!(blob.len() == length && blob.iter().all(|&byte| byte == 0));
        blob.fill(1);
        blob.resize(length / 2, 1);
        blob.resize(length, 0);
        assert!(blob[length / 2..].iter().all(|&byte| byte == 0), "bytes that were cut off come back");
    }
}

#[test]
fn growing_in_small_steps_moves_rarely() {
    let mut blob = BlobMut::with_capacity(0);
    let mut moves = 0;
    for _ in 0..100_000 {
        let before = blob.capacity();
        blob.write_all(&[1, 2, 3]).unwrap();
        moves += u32::from(blob.capacity() != before);
    }
    assert_eq!(blob.len(), 300_000);
    assert!(moves <= 8, "{moves} moves");
}

#[test]
fn clones_share_their_bytes_and_are_counted_as_shared() {
    let blob = BlobMut::zeroed(5000).freeze();
    assert!(!blob.is_shared());
    let clone = blob.clone();
    assert!(blob.is_shared() && clone.is_shared());
    assert_eq!((clone.as_ptr(), clone.location()), (blob.as_ptr(), blob.location()));
    drop(blob);
    assert!(!clone.is_shared());
    assert_eq!(clone.location().map(|(offset, length)| (offset % 4096, length)), Some((0, 5000)));
    assert_eq!(Blob::from(vec![0; 5000]).location(), None);
    assert_eq!(clone, Blob::from(vec![0; 5000]));
}

/// Another process's memory as its reader has it mapped, read-only. Counts the blobs that keep it.
#[derive(Clone)]
struct Lent {
    hold: Arc<()>,
    mapping: &'static Mapping,
}

impl Keeper for Lent {
    fn mapping(&self) -> &Mapping {
        self.mapping
    }
}

/// Makes shared memory with these bytes: the writable mapping, and the reader's.
fn lent(bytes: &[u8]) -> (Mapping, Lent) {
    let (file, ours) = arena::create(bytes.len().max(1).next_multiple_of(4096), true).unwrap();
    // SAFETY: the mapping is at least as long as the bytes, and there are no references to it.
    unsafe { ours.start().copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OwnedFd::from(std::fs::File::open(path).unwrap());
    let theirs = Mapping::new(file.as_fd(), ours.size(), false).unwrap().keep_copy_of(file.as_fd()).unwrap();
    (ours, Lent { hold: Arc::default(), mapping: Box::leak(Box::new(theirs)) })
}

impl Lent {
    fn blob(&self, from: usize, length: usize) -> Blob {
        // SAFETY: the mapping is leaked, and the tests do not write to this range while there is a blob of it.
        let foreign = unsafe { Foreign::new(self.mapping.start().add(from), length, Box::new(self.clone())) };
        Blob::foreign(foreign)
    }

    fn holds(&self) -> usize {
        Arc::strong_count(&self.hold) - 1
    }
}

#[test]
fn the_keeper_of_foreign_bytes_lives_as_long_as_the_last_clone() {
    let (_ours, lent) = lent(&[7; 100]);
    let blob = lent.blob(10, 20);
    assert_eq!((&*blob, blob.location()), (&[7; 20][..], None));
    let clone = blob.clone();
    drop(blob);
    assert_eq!((lent.holds(), clone.len()), (1, 20));
    drop(clone);
    assert_eq!(lent.holds(), 0);
}

/// Makes bytes in which each position has a value of its own, within a period.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at ^ (at >> 8) ^ (at >> 16)) % 251) as u8).collect()
}

/// The same bytes in each kind of memory that a blob may be in.
fn in_all_kinds_of_memory(bytes: &[u8]) -> [Blob; 3] {
    arena_of_this_process();
    let mut own = BlobMut::with_capacity(bytes.len());
    own.extend_from_slice(bytes);
    [Blob::from(bytes.to_vec()), own.freeze(), lent(bytes).1.blob(0, bytes.len())]
}

fn is_mapped(blob: &PrivateBlob) -> bool {
    matches!(blob.0, Writable::Mapped(..))
}

#[test]
fn bytes_written_to_a_private_view_are_seen_in_no_other() {
    for length in [0, 1, 5000, SMALL - 1, SMALL, SMALL + 1, 300_000] {
        let bytes = pattern(length);
        for (at, blob) in in_all_kinds_of_memory(&bytes).into_iter().enumerate() {
            let (mut one, other) = (blob.to_private(), blob.to_private());
            assert!(*one == bytes[..], "it begins with other bytes");
            one.iter_mut().for_each(|byte| *byte = !*byte);
            assert!(one.iter().zip(&bytes).all(|(a, b)| *a == !b) && one.len() == length);
            assert!(*blob == bytes[..] && *other == bytes[..], "kind {at}, {length} bytes: others see it");
            drop(blob);
            assert!(*other == bytes[..] && one.iter().zip(&bytes).all(|(a, b)| *a == !b));
        }
    }
}

#[test]
fn a_private_view_of_few_bytes_is_a_copy_and_of_many_a_mapping_unless_they_are_on_the_heap() {
    for length in [0, 1, SMALL - 1, SMALL, SMALL + 1, 300_000] {
        let kinds = in_all_kinds_of_memory(&pattern(length)).map(|blob| is_mapped(&blob.to_private()));
        assert_eq!(kinds, [false, length >= SMALL, length >= SMALL], "{length} bytes");
    }
}

#[test]
fn bytes_that_cannot_be_mapped_are_copied() {
    let bytes = pattern(300_000);
    // A mapping begins at a page.
    let mut private = lent(&bytes).1.blob(10, 200_000).to_private();
    assert!(!is_mapped(&private) && *private == bytes[10..200_010]);
    private.fill(0);
    // Or its file was not kept.
    let (file, _) = arena::create(1 << 20, true).unwrap();
    let mapping = Box::leak(Box::new(Mapping::new(file.as_fd(), 1 << 20, false).unwrap()));
    let private = Lent { hold: Arc::default(), mapping }.blob(0, 1 << 20).to_private();
    assert!(!is_mapped(&private) && private.iter().all(|&byte| byte == 0));
}

/// Returns the size of the mapping that begins at an address, and how much of it was copied, both in bytes.
fn mapping_at(start: *const u8) -> Option<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let head = format!("{:x}-", start as usize);
    let lines = maps.lines().skip_while(|line| !line.starts_with(&head));
    let value = |name: &str| {
        let line = lines.clone().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kibibytes| kibibytes * 1024)
    };
    Some((value("Size:")?, value("Anonymous:")?))
}

#[test]
fn only_pages_that_are_written_to_are_copied_and_dropping_gives_them_back() {
    let bytes = pattern(1 << 20);
    for blob in in_all_kinds_of_memory(&bytes).into_iter().skip(1) {
        let mut private = blob.to_private();
        let start = private.as_ptr();
        assert!(*private == bytes[..]);
        assert_eq!(mapping_at(start), Some((1 << 20, 0)), "reading copies nothing");
        for at in [5, 6, 500_000] {
            private[at] = 0;
        }
        assert_eq!(mapping_at(start), Some((1 << 20, 2 * 4096)));
        drop(private);
        assert!(mapping_at(start).is_none_or(|(size, copied)| (size, copied) != (1 << 20, 2 * 4096)));
    }
}

#[test]
fn shared_memory_is_not_used_again_before_its_private_view_is_gone() {
    let bytes = pattern(200_000);
    let [_, own, foreign] = in_all_kinds_of_memory(&bytes);
    for blob in [own, foreign] {
        assert!(!blob.is_shared());
        let private = blob.to_private();
        assert!(blob.is_shared(), "the view counts as a use of it");
        drop(private);
        assert!(!blob.is_shared());
    }
    let (_ours, lent) = lent(&bytes);
    let private = lent.blob(0, bytes.len()).to_private();
    assert_eq!(lent.holds(), 1);
    drop(private);
    assert_eq!(lent.holds(), 0);
    // Heap memory is copied whole, so the view does not keep it.
    let blob = Blob::from(bytes);
    let _private = blob.to_private();
    assert!(!blob.is_shared());
}

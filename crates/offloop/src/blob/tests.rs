//! Blobs in the making, beside a plain vector that ought to have the same bytes.

#![allow(clippy::cast_possible_truncation, reason = "the numbers only tell things apart")]

use proptest::prelude::*;

use super::*;

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

/// As it is where the system gives no shared memory.
fn on_the_heap(capacity: usize) -> BlobMut {
    BlobMut { memory: Growing::Heap(vec![0; capacity]), length: 0 }
}

/// Leaves blocks behind that are full of something else than zeros.
fn soil() {
    // Without a pool, freed memory would go back and come again as zeros.
    Arena::of_this_process().unwrap().enter();
    let mut blocks: Vec<BlobMut> = (0..6).map(|class| BlobMut::with_capacity(4096 << class)).collect();
    for block in &mut blocks {
        let capacity = block.capacity();
        block.room(capacity).fill(0xaa);
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
        // Not for ever, as a list of pieces may be all interruptions.
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
    struct Liar(u32);

    impl Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            Ok(if self.0 > 3 { 0 } else { buffer.len().saturating_mul(1000) })
        }
    }

    let blob = BlobMut::read_from(Liar(0)).unwrap();
    assert!(blob.len() <= blob.capacity());
    assert_eq!(blob.freeze().iter().map(|_| 1).sum::<usize>(), 4 * 64 * 1024);
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
        assert!(blob[length / 2..].iter().all(|&byte| byte == 0), "what was cut off is gone");
    }
}

#[test]
fn growing_bit_by_bit_moves_seldom() {
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
fn clones_share_their_bytes_and_know_it() {
    let blob = BlobMut::zeroed(5000).freeze();
    assert!(!blob.is_shared());
    let clone = blob.clone();
    assert!(blob.is_shared() && clone.is_shared());
    assert_eq!((clone.as_ptr(), clone.place()), (blob.as_ptr(), blob.place()));
    drop(blob);
    assert!(!clone.is_shared());
    assert_eq!(clone.place().map(|(offset, length)| (offset % 4096, length)), Some((0, 5000)));
    assert_eq!(Blob::from(vec![0; 5000]).place(), None);
    assert_eq!(clone, Blob::from(vec![0; 5000]));
}

#[test]
fn the_keeper_of_foreign_bytes_lives_as_long_as_the_last_clone() {
    let bytes: Arc<[u8]> = vec![7; 100].into();
    let start = NonNull::from(&bytes[10]);
    // SAFETY: the keeper holds the bytes, and nobody writes to them.
    let foreign = unsafe { Foreign::new(start, 20, Box::new(Arc::clone(&bytes))) };
    let blob = Blob::foreign(foreign);
    assert_eq!((&*blob, blob.place()), (&[7; 20][..], None));
    let clone = blob.clone();
    drop(blob);
    assert_eq!((Arc::strong_count(&bytes), clone.len()), (2, 20));
    drop(clone);
    assert_eq!(Arc::strong_count(&bytes), 1);
}

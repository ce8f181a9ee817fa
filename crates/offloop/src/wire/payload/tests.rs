//! Values and blobs that are encoded and decoded again.

#![allow(clippy::cast_possible_truncation, reason = "the numbers only tell things apart")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::ser::Error as _;

use super::*;
use crate::wire::arena::tests::arena_of_this_process;
use crate::wire::blob::BlobMut;

/// Values as users nest them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Tree {
    Nothing,
    Number(i64),
    Text(String),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    Blob(Blob),
    Pair { left: Box<Tree>, right: Option<Box<Tree>> },
    List(Vec<Tree>),
    Table(BTreeMap<String, Tree>),
    Json(AsJson<Box<Tree>>),
}

/// A value that is encoded as a text by another serialiser.
#[derive(Debug, Clone, PartialEq)]
struct AsJson<T>(T);

impl<T: Serialize> Serialize for AsJson<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for AsJson<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Tree {
    /// Collects the blobs that must become parts, in order.
    fn large_blobs<'a>(&'a self, found: &mut Vec<&'a Blob>) {
        match self {
            Self::Blob(blob) if blob.len() >= SMALL_BLOB => found.push(blob),
            Self::Pair { left, right } => {
                left.large_blobs(found);
                if let Some(right) = right {
                    right.large_blobs(found);
                }
            }
            Self::List(list) => list.iter().for_each(|it| it.large_blobs(found)),
            Self::Table(table) => table.values().for_each(|it| it.large_blobs(found)),
            _ => {}
        }
    }
}

/// Makes a blob in shared memory.
fn own(bytes: &[u8]) -> Blob {
    arena_of_this_process();
    let mut blob = BlobMut::zeroed(bytes.len());
    blob.copy_from_slice(bytes);
    blob.freeze()
}

fn blob() -> impl Strategy<Value = Blob> {
    let length = prop_oneof![
        Just(0),
        0..100_usize,
        SMALL_BLOB - 2..SMALL_BLOB + 3,
        INLINE - 20..INLINE + 20,
        0..6000_usize
    ];
    (length, any::<u8>(), any::<bool>()).prop_map(|(length, first, is_shared)| {
        let bytes: Vec<u8> = (0..length).map(|at| first.wrapping_add((at % 251) as u8)).collect();
        if is_shared { own(&bytes) } else { bytes.into() }
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Nothing),
        any::<i64>().prop_map(Tree::Number),
        ".{0,40}".prop_map(Tree::Text),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Tree::Bytes),
        blob().prop_map(Tree::Blob),
        blob().prop_map(Tree::Blob),
    ];
    leaf.prop_recursive(4, 100, 12, |inner| {
        let pair = |(left, right): (Tree, Option<Tree>)| Tree::Pair {
            left: Box::new(left),
            right: right.map(Box::new),
        };
        prop_oneof![
            (inner.clone(), prop::option::of(inner.clone())).prop_map(pair),
            prop::collection::vec(inner.clone(), 0..12).prop_map(Tree::List),
            prop::collection::btree_map("[a-z]{1,4}", inner.clone(), 0..6).prop_map(Tree::Table),
            inner.prop_map(|it| Tree::Json(AsJson(Box::new(it)))),
        ]
    })
}

/// Encodes a value and decodes it again.
fn through<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let payload = Payload::encode(value).unwrap();
    assert!(!is_encoding());
    let decoded = Incoming::from(&payload).decode().unwrap();
    assert!(!is_decoding());
    decoded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_decoded_value_equals_the_encoded_one(tree in tree()) {
        arena_of_this_process();
        let payload = Payload::encode(&tree).unwrap();
        prop_assert!(!is_encoding());
        let mut blobs = Vec::new();
        tree.large_blobs(&mut blobs);
        blobs.truncate(PARTS);
        // Parts are the very memory of the blobs that are in shared memory, and copies of the others.
        let is_sent = |(part, blob): (&Blob, &&Blob)| match blob.location() {
            Some(location) => part.location() == Some(location),
            None => part.location().is_some() && part == *blob,
        };
        prop_assert_eq!(payload.parts().len(), blobs.len());
        prop_assert!(payload.parts().iter().zip(&blobs).all(is_sent));
        prop_assert_eq!(
            payload.size(),
            payload.body().len() + blobs.iter().map(|blob| blob.len()).sum::<usize>()
        );
        prop_assert_eq!(matches!(payload.location(), BodyLocation::Inline(_)), payload.body().len() <= INLINE);
        prop_assert_eq!(&Incoming::from(&payload).decode::<Tree>().unwrap(), &tree);
        // What the sender must keep while it is read: all of the parts, and the body if that is in the arena.
        let in_arena = usize::from(payload.body().len() > INLINE);
        let body = payload.body().to_vec();
        let kept: Vec<Blob> = payload.into_blobs().collect();
        prop_assert_eq!(kept.len(), in_arena + blobs.len());
        prop_assert!(kept.iter().all(|blob| blob.location().is_some()));
        prop_assert!(in_arena == 0 || *kept[0] == *body);
    }

    #[test]
    fn a_body_that_is_cut_short_or_has_lost_its_parts_is_an_error(tree in tree(), cut: usize) {
        let payload = Payload::encode(&tree).unwrap();
        let body = &payload.body()[..cut % (payload.body().len() + 1)];
        let is_whole = body.len() == payload.body().len();
        let cut = Incoming { body, parts: payload.parts() }.decode::<Tree>();
        prop_assert_eq!(cut.is_ok(), is_whole);
        let alone = Incoming { body: payload.body(), parts: &[] }.decode::<Tree>();
        prop_assert_eq!(alone.is_ok(), payload.parts().is_empty());
        prop_assert!(!is_decoding());
    }

    #[test]
    fn bytes_are_read_from_a_block_and_from_single_bytes(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        let [block, one_by_one] = [Payload::encode(&Bytes(&bytes)), Payload::encode(&bytes)].map(Result::unwrap);
        for payload in [&block, &one_by_one] {
            prop_assert_eq!(&Incoming::from(payload).decode::<ByteBuf>().unwrap().0, &bytes);
            prop_assert_eq!(&Incoming::from(payload).decode::<Vec<u8>>().unwrap(), &bytes);
        }
        prop_assert_eq!(through(&ByteBuf(bytes.clone())).0, bytes.clone());
        prop_assert_eq!(Incoming::from(&block).decode::<Bytes>().unwrap().0, &bytes);
    }

    #[test]
    fn a_blob_is_bytes_to_other_serialisers(blob in blob()) {
        let json = serde_json::to_string(&blob).unwrap();
        prop_assert_eq!(&json, &serde_json::to_string(&*blob).unwrap());
        prop_assert_eq!(&serde_json::from_str::<Blob>(&json).unwrap(), &blob);
        let encoded = postcard::to_stdvec(&blob).unwrap();
        prop_assert_eq!(&encoded, &postcard::to_stdvec(serde_bytes::Bytes::new(&blob)).unwrap());
        prop_assert_eq!(&postcard::from_bytes::<Blob>(&encoded).unwrap(), &blob);
    }

    #[test]
    fn a_text_is_cut_between_characters(text in "(\u{1F980}|ä|x){0,1500}") {
        let payload = Payload::text(&text);
        let cut = std::str::from_utf8(payload.body()).unwrap();
        prop_assert!(text.starts_with(cut));
        prop_assert!(cut.len() <= INLINE && (cut.len() == text.len() || cut.len() > INLINE - 4));
    }
}

#[test]
fn bodies_move_to_the_arena_when_they_are_too_long_for_the_link() {
    arena_of_this_process();
    for (length, is_inline) in [(0, true), (INLINE - 3, true), (INLINE - 2, false), (100_000, false)] {
        // Three bytes more for the marker and the length.
        let bytes = vec![3; length];
        let payload = Payload::encode(&Bytes(&bytes)).unwrap();
        assert_eq!(matches!(payload.location(), BodyLocation::Inline(_)), is_inline, "{length}");
        if let BodyLocation::InArena { address, length } = payload.location() {
            assert_eq!((address % 4096, length), (0, payload.body().len()));
        }
        assert_eq!(Incoming::from(&payload).decode::<Bytes>().unwrap().0, bytes);
    }
}

#[test]
fn a_body_that_grows_piece_by_piece_keeps_what_it_has() {
    for pieces in [1, 500, 1000, 5000, 200_000] {
        let numbers: Vec<u32> = (0..pieces).map(|it: u32| it.wrapping_mul(2_654_435)).collect();
        assert_eq!(through(&numbers), numbers);
    }
}

#[test]
fn blobs_beyond_the_limit_and_small_ones_and_those_on_the_heap_are_copied() {
    let blobs: Vec<Blob> = (0..PARTS + 5).map(|it| own(&vec![u8::try_from(it).unwrap(); 2000])).collect();
    let payload = Payload::encode(&blobs).unwrap();
    assert_eq!(payload.parts().len(), PARTS);
    assert!(payload.body().len() > 5 * 2000);
    assert_eq!(Incoming::from(&payload).decode::<Vec<Blob>>().unwrap(), blobs);

    for copied in [own(&[]), own(&[1; SMALL_BLOB - 1]), Blob::default()] {
        let payload = Payload::encode(&copied).unwrap();
        assert!(payload.parts().is_empty());
        assert_eq!(Incoming::from(&payload).decode::<Blob>().unwrap(), copied);
    }

    let heap = Blob::from(vec![2; 50_000]);
    let payload = Payload::encode(&heap).unwrap();
    assert!(payload.parts()[0].location().is_some() && payload.parts()[0] == heap);
    assert_eq!(Incoming::from(&payload).decode::<Blob>().unwrap(), heap);
}

#[test]
fn a_blob_that_is_sent_is_not_copied() {
    let blob = own(&[5; SMALL_BLOB]);
    let payload = Payload::encode(&(&blob, &blob)).unwrap();
    assert_eq!(payload.parts().len(), 2);
    let (one, other) = Incoming::from(&payload).decode::<(Blob, Blob)>().unwrap();
    assert_eq!([one.as_ptr(), other.as_ptr()], [blob.as_ptr(); 2]);
    drop((one, other));
    assert!(blob.is_shared());
    drop(payload);
    assert!(!blob.is_shared(), "neither decoding nor the payload keeps it");
}

#[test]
fn a_missing_part_is_an_error() {
    let blob = own(&[5; SMALL_BLOB]);
    let payload = Payload::encode(&[&blob, &blob]).unwrap();
    let error = Incoming { body: payload.body(), parts: &payload.parts()[..1] }.decode::<[Blob; 2]>();
    assert!(error.is_err());
}

/// Encodes another value while it is encoded. After that it may fail or panic.
struct Within<'a>(&'a Blob, &'static str);

impl Serialize for Within<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = Payload::encode(&(self.0, self.0)).map_err(S::Error::custom)?;
        assert_eq!(inner.parts().len(), 2, "only its own parts");
        assert_eq!(Incoming::from(&inner).decode::<(Blob, Blob)>().unwrap().1, *self.0);
        match self.1 {
            "fail" => Err(S::Error::custom("on purpose")),
            "panic" => panic!("on purpose"),
            _ => self.0.serialize(serializer),
        }
    }
}

#[test]
fn a_value_encoded_within_another_one_has_parts_of_its_own() {
    let [first, second] = [own(&[1; 2000]), own(&[2; 2000])];
    let payload = Payload::encode(&(&first, Within(&second, ""), &first)).unwrap();
    assert_eq!(payload.parts(), [first.clone(), second.clone(), first.clone()]);
    let decoded: (Blob, Blob, Blob) = Incoming::from(&payload).decode().unwrap();
    assert_eq!(decoded, (first.clone(), second, first));
}

#[test]
fn a_value_that_fails_or_panics_leaves_nothing_behind() {
    let blob = own(&[1; 2000]);
    assert!(matches!(Payload::encode(&(&blob, Within(&blob, "fail"))), Err(Error::Custom(_))));
    assert!(!is_encoding());
    let panic = crate::base::panic::catch(|| Payload::encode(&(&blob, Within(&blob, "panic"))).is_ok());
    assert!(panic.is_err());
    assert!(!is_encoding());
    assert!(!blob.is_shared());
    // Outside of a payload it is an ordinary byte string again.
    assert_eq!(postcard::to_stdvec(&blob).unwrap().len(), 2002);
}

#[derive(Debug)]
struct Panics;

impl<'de> Deserialize<'de> for Panics {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("on purpose")
    }
}

#[test]
fn a_value_that_panics_when_decoded_leaves_nothing_behind() {
    let blob = own(&[1; 2000]);
    let payload = Payload::encode(&(&blob, 0)).unwrap();
    let panic = crate::base::panic::catch(|| Incoming::from(&payload).decode::<(Blob, Panics)>().is_ok());
    assert!(panic.is_err());
    assert!(!is_decoding());
    drop(payload);
    assert!(!blob.is_shared());
}

/// Decodes another payload while it is decoded.
#[derive(Debug)]
struct DecodesWithin;

impl<'de> Deserialize<'de> for DecodesWithin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let blob = own(&[9; 3000]);
        let inner = Payload::encode(&blob).unwrap();
        assert_eq!(Incoming::from(&inner).decode::<Blob>().unwrap(), blob);
        <()>::deserialize(deserializer)?;
        Ok(Self)
    }
}

#[test]
fn a_value_decoded_within_another_one_has_parts_of_its_own() {
    let [first, second] = [own(&[1; 2000]), own(&[2; 2000])];
    let payload = Payload::encode(&(&first, (), &second)).unwrap();
    let (one, _, other) = Incoming::from(&payload).decode::<(Blob, DecodesWithin, Blob)>().unwrap();
    assert_eq!((one, other), (first, second));
}

#[test]
fn a_blob_in_a_value_that_uses_another_serialiser_is_copied() {
    struct Sealed(Blob);

    impl Serialize for Sealed {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&postcard::to_stdvec(&self.0).unwrap())
        }
    }

    impl<'de> Deserialize<'de> for Sealed {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let bytes = <&[u8]>::deserialize(deserializer)?;
            postcard::from_bytes(bytes).map(Self).map_err(serde::de::Error::custom)
        }
    }

    let blob = own(&[9; 2000]);
    let payload = Payload::encode(&(Sealed(blob.clone()), blob.clone())).unwrap();
    assert_eq!(payload.parts().len(), 1, "the one that is the payload's own");
    let (sealed, open): (Sealed, Blob) = Incoming::from(&payload).decode().unwrap();
    assert!(sealed.0 == blob && open == blob);
}

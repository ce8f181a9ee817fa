//! Values of all kinds that are encoded and decoded again, compared with themselves and with `rmp-serde`.

#![allow(clippy::option_option, reason = "the difference must survive")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;

impl Output for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn replace(&mut self, at: usize, bytes: [u8; 4]) {
        self[at..at + 4].copy_from_slice(&bytes);
    }
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder::new(Vec::new());
    value.serialize(&mut encoder)?;
    Ok(encoder.into_output())
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    let mut decoder = Decoder::new(bytes);
    let value = decoder.value()?;
    decoder.finish()?;
    Ok(value)
}

#[track_caller]
fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let bytes = encode(value).unwrap();
    assert_eq!(&decode::<T>(&bytes).unwrap(), value, "{bytes:02x?}");
    assert_eq!(check(&bytes), Ok(()), "{bytes:02x?}");
    // Not the first value of its bytes, and within serde's own buffer.
    let beside = (0, value, Untagged::Any(value));
    let bytes = encode(&beside).unwrap();
    assert_eq!(
        decode::<(u8, T, Untagged<T>)>(&bytes).unwrap(),
        (0, decode_of(value), Untagged::Any(decode_of(value)))
    );
}

fn same_type<T>(_: &T, value: T) -> T {
    value
}

fn decode_of<T: Serialize + DeserializeOwned>(value: &T) -> T {
    decode(&encode(value).unwrap()).unwrap()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged<T> {
    Any(T),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Newtype(u32);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pair(i8, String);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    left_out: Option<u32>,
    #[serde(skip)]
    skipped: u8,
    #[serde(rename = "other name", alias = "alias")]
    renamed: i64,
    #[serde(default)]
    defaulted: Vec<u16>,
    nested: Option<Option<u8>>,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum External {
    Unit,
    #[serde(skip)]
    #[allow(dead_code, reason = "a variant that is never sent changes the numbers of the others")]
    Skipped,
    Newtype(Box<External>),
    Tuple(u8, Option<char>),
    Struct {
        field: f32,
        #[serde(skip_serializing_if = "is_zero", default)]
        left_out: u8,
    },
    Last,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Internal {
    Unit,
    Bytes {
        list: Vec<u8>,
        #[serde(with = "serde_bytes")]
        block: Vec<u8>,
    },
    Newtype(Fields),
    Struct {
        at: IpAddr,
        time: Duration,
        list: Vec<Internal>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "content")]
enum Adjacent {
    Unit,
    Newtype(Option<u8>),
    Tuple(u8, String),
    Struct { at: SocketAddr },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Choice {
    Number(u64),
    Text(String),
    Nothing,
    List(Vec<Choice>),
    Named { name: String, at: Option<IpAddr> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    first: u8,
    #[serde(flatten)]
    fields: Fields,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FlatTagged {
    #[serde(flatten)]
    tagged: Internal,
    last: Option<()>,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,6}", "x{30,34}", "[a-z]{250,260}"]
}

fn fields() -> impl Strategy<Value = Fields> {
    (
        any::<Option<u32>>(),
        any::<i64>(),
        prop::collection::vec(any::<u16>(), 0..20),
        any::<Option<Option<u8>>>(),
    )
        .prop_flat_map(|(left_out, renamed, defaulted, nested)| {
            prop::collection::vec(any::<u8>(), 0..300).prop_map(move |bytes| {
                let defaulted = defaulted.clone();
                Fields { left_out, skipped: 0, renamed, defaulted, nested, bytes }
            })
        })
}

fn external() -> impl Strategy<Value = External> {
    let leaf = prop_oneof![
        Just(External::Unit),
        Just(External::Last),
        (any::<u8>(), any::<Option<char>>()).prop_map(|(a, b)| External::Tuple(a, b)),
        (-1e9..1e9_f32, 0..3_u8).prop_map(|(field, left_out)| External::Struct { field, left_out }),
    ];
    leaf.prop_recursive(8, 8, 1, |inner| inner.prop_map(|inner| External::Newtype(Box::new(inner))))
}

fn internal() -> impl Strategy<Value = Internal> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..5000);
    let leaf = prop_oneof![
        Just(Internal::Unit),
        fields().prop_map(Internal::Newtype),
        (bytes(), bytes()).prop_map(|(list, block)| Internal::Bytes { list, block }),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        (any::<IpAddr>(), any::<Duration>(), prop::collection::vec(inner, 0..4))
            .prop_map(|(at, time, list)| Internal::Struct { at, time, list })
    })
}

fn adjacent() -> impl Strategy<Value = Adjacent> {
    prop_oneof![
        Just(Adjacent::Unit),
        any::<Option<u8>>().prop_map(Adjacent::Newtype),
        (any::<u8>(), text()).prop_map(|(number, text)| Adjacent::Tuple(number, text)),
        (any::<IpAddr>(), any::<u16>())
            .prop_map(|(address, port)| Adjacent::Struct { at: SocketAddr::new(address, port) }),
    ]
}

fn choice() -> impl Strategy<Value = Choice> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Choice::Number),
        text().prop_map(Choice::Text),
        Just(Choice::Nothing),
        (text(), any::<Option<IpAddr>>()).prop_map(|(name, at)| Choice::Named { name, at }),
    ];
    leaf.prop_recursive(5, 30, 6, |inner| prop::collection::vec(inner, 0..20).prop_map(Choice::List))
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-1e300..1e300_f64).prop_map(Into::into),
        text().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Into::into),
            prop::collection::btree_map(".{0,5}", inner, 0..20)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn plain_values_keep_their_meaning(
        numbers: (u8, u16, u32, u64, usize, i8, i16, i32, i64, isize),
        others: (bool, char, f32, f64),
        text in text(),
        lists: (Vec<u32>, [i16; 3], Option<Vec<bool>>, BTreeSet<i32>, HashMap<(u8, i8), Vec<u8>>),
        wrapped: (Option<Option<Option<u8>>>, Option<()>, Result<Option<u8>, String>),
        times in (any::<Duration>(), any::<u32>(), any::<IpAddr>()),
    ) {
        same(&numbers);
        same(&text);
        same(&lists);
        same(&wrapped);
        let (duration, after, address) = times;
        let time = SystemTime::UNIX_EPOCH + Duration::new(after.into(), after % 1_000_000_000);
        same(&(duration, time, address, PathBuf::from(text)));
        let bits = |(flag, letter, short, long): (bool, char, f32, f64)| (flag, letter, short.to_bits(), long.to_bits());
        prop_assert_eq!(bits(decode_of(&others)), bits(others));
    }

    /// Bytes that pass the check are whole values: those that are cut anywhere within one do not.
    #[test]
    fn the_check_takes_whole_values_alone_and_stands_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        value: (u64, String, Vec<Option<i16>>, f64),
        cut: prop::sample::Index,
    ) {
        let _ = check(&bytes);
        let whole = encode(&[&value, &value]).unwrap();
        prop_assert_eq!(check(&whole), Ok(()));
        prop_assert_eq!(check(&[&whole[..], &whole].concat()), Ok(()));
        let part = &whole[..cut.index(whole.len())];
        prop_assert_eq!(check(part), if part.is_empty() { Ok(()) } else { Err(Error::End) });
    }

    // serde's buffers do not hold numbers of 128 bits, so these are not tried within one.
    #[test]
    fn long_numbers_keep_their_meaning(unsigned: u128, signed: i128, short: u64) {
        prop_assert_eq!(decode_of(&(unsigned, signed, u128::from(short))), (unsigned, signed, u128::from(short)));
        prop_assert_eq!(decode::<(u128, i128)>(&encode(&(short, -1)).unwrap()).unwrap(), (u128::from(short), -1));
    }

    #[test]
    fn types_with_attributes_keep_their_meaning(
        fields in fields(),
        external in external(),
        internal in internal(),
        adjacent in adjacent(),
        choice in choice(),
        json in json(),
    ) {
        same(&fields);
        same(&external);
        same(&internal);
        same(&adjacent);
        same(&choice);
        same(&json);
        same(&(Unit, Newtype(7), Pair(-1, "a".to_owned()), Some(Unit), ((), ((),))));
        let rest = BTreeMap::from([("x".to_owned(), json.clone()), ("y".to_owned(), serde_json::Value::Null)]);
        same(&Flat { first: 1, fields, rest });
        same(&FlatTagged { tagged: internal, last: Some(()) });
        same(&vec![Some(choice), None]);
        same(&Some(json));
    }

    #[test]
    fn it_is_the_format_that_rmp_serde_writes_and_reads(
        fields in fields(),
        external in external(),
        json in json(),
        numbers: (u64, i64, f32, f64, u128),
    ) {
        // That crate cannot tell `Some(None)` from `None`.
        let fields = Fields { nested: fields.nested.flatten().map(Some), ..fields };
        let value = (fields, external, Newtype(3), numbers, BTreeMap::from([(json.to_string(), json)]));
        let bytes = encode(&value).unwrap();
        let mut theirs = Vec::new();
        let mut serializer = rmp_serde::Serializer::new(&mut theirs).with_struct_map().with_human_readable().with_bytes(rmp_serde::config::BytesMode::ForceIterables);
        value.serialize(&mut serializer).unwrap();
        prop_assert_eq!(&bytes, &theirs);
        let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes).with_human_readable();
        let read = same_type(&value, Deserialize::deserialize(&mut reader).unwrap());
        prop_assert_eq!(&read, &value);
        // It writes maps of unknown length with the shortest header.
        let mut theirs = Vec::new();
        let value = Flat { first: 1, fields: value.0, rest: value.4 };
        let mut serializer = rmp_serde::Serializer::new(&mut theirs).with_struct_map().with_human_readable().with_bytes(rmp_serde::config::BytesMode::ForceIterables);
        value.serialize(&mut serializer).unwrap();
        prop_assert_eq!(&decode::<Flat>(&theirs).unwrap(), &value);
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut decoder = Decoder::new(&bytes);
        let skipped = decoder.value::<serde::de::IgnoredAny>().is_ok();
        let mut other = Decoder::new(&bytes);
        if let Ok(value) = other.value::<serde_json::Value>() {
            prop_assert!(skipped && decoder.rest().len() == other.rest().len(), "{value:?}");
        }
        let _ = decode::<Flat>(&bytes);
        let _ = decode::<Option<Option<External>>>(&bytes);
        let _ = decode::<Tree>(&bytes);
        let _ = whole_block(&bytes, true);
        let _ = whole_block(&bytes, false);
    }

    #[test]
    fn a_whole_block_is_what_the_decoder_reads(length in prop_oneof![0..70_usize, 250..260_usize, 65530..65540_usize]) {
        let text = "x".repeat(length);
        let encoded = encode(&text).unwrap();
        prop_assert_eq!(whole_block(&encoded, true), Some(text.as_bytes()));
        prop_assert_eq!(whole_block(&encoded, false), None);
        prop_assert_eq!(whole_block(&encoded[..encoded.len() - 1], true), None);
        let bytes = encode(&serde_bytes::Bytes::new(text.as_bytes())).unwrap();
        prop_assert_eq!(whole_block(&bytes, false), Some(text.as_bytes()));
        prop_assert_eq!(whole_block(&bytes, true), None);
        let longer = [&bytes[..], &[0]].concat();
        prop_assert_eq!(whole_block(&longer, false), None);
    }
}

#[test]
fn arguments_have_no_header_and_the_empty_value_no_bytes() {
    let mut encoder = Encoder::new(Vec::new());
    encoder.arguments(&(7, "x", (1,))).unwrap();
    let bytes = encoder.into_output();
    assert_eq!(bytes, [7, 0xa1, b'x', 0x91, 1]);
    let mut decoder = Decoder::new(&bytes);
    assert_eq!(decoder.arguments::<(u8, &str, (u8,))>().unwrap(), (7, "x", (1,)));
    decoder.finish().unwrap();
    let mut none = Encoder::new(Vec::new());
    none.arguments(&()).unwrap();
    assert!(none.into_output().is_empty());
    Decoder::new(&[]).arguments::<()>().unwrap();
    assert!(encode(&()).unwrap().is_empty());
    assert!(encode(&None::<u8>).unwrap().is_empty());
    decode::<()>(&[]).unwrap();
    assert_eq!(decode::<Option<u8>>(&[]).unwrap(), None);
    assert_eq!(decode::<u8>(&[]).unwrap_err().to_string(), "invalid type: unit value, expected u8");
    assert_eq!(decode::<((), u8)>(&[0x92]).unwrap_err(), Error::End);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum TextOrBytes {
    Text(String),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
}

#[test]
fn bytes_are_borrowed_wherever_they_are_and_are_no_text() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Borrows<'a> {
        text: &'a str,
        #[serde(borrow)]
        list: Vec<Option<&'a [u8]>>,
    }

    let long = vec![7; 10_000];
    let value = (Borrows { text: "text", list: vec![Some(&[1, 200]), None, Some(&long)] }, &b"x"[..]);
    let bytes = encode(&value).unwrap();
    assert!(bytes.len() < long.len() + 40, "each byte is one");
    assert_eq!(decode::<(Borrows, &[u8])>(&bytes).unwrap(), value);
    same(&(BTreeSet::from([1_u8, 200]), [1_u8, 200], vec![vec![200_u8; 9000]; 2]));
    same(&(TextOrBytes::Text("text".to_owned()), TextOrBytes::Bytes(b"text".to_vec())));
}

#[test]
fn what_is_left_over_is_refused() {
    let bytes = encode(&(1, 2, 3)).unwrap();
    assert!(decode::<(u8, u8)>(&bytes).is_err());
    assert!(decode::<u8>(&bytes).is_err());
    assert_eq!(decode::<u8>(&[1, 2]).unwrap_err(), Error::Left(1));
    let error = decode::<()>(&encode("abc").unwrap()).unwrap_err();
    assert!(error.to_string().contains("invalid type: string"), "{error}");
    assert!(decode::<[u8; 3]>(&encode("abc").unwrap()).is_err());
}

/// Writes another number of elements than it announces.
struct Miscounts(usize, usize);

impl Serialize for Miscounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq as _;
        let mut list = serializer.serialize_seq(Some(self.0))?;
        (0..self.1).try_for_each(|_| list.serialize_element(&0))?;
        list.end()
    }
}

#[test]
fn a_serialize_that_miscounts_is_refused() {
    encode(&Miscounts(2, 2)).unwrap();
    for (announced, written) in [(2, 1), (1, 2), (0, 1)] {
        let error = encode(&(Miscounts(announced, written), 0)).unwrap_err();
        assert_eq!(error, Error::Announced { announced, written });
    }
}

// ---- Depth ----

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct List {
    value: u32,
    next: Option<Box<List>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Chain {
    End,
    Link(Box<Chain>),
    Field { inner: Box<Chain> },
    Tuple(u8, Box<Chain>),
}

/// A type that is only made of what has no bytes of its own.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Peano(Option<Box<Peano>>);

/// A realistic node: many fields, of which one leads on.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tree {
    name: String,
    id: u64,
    position: (f64, f64),
    tags: Vec<String>,
    attributes: BTreeMap<String, String>,
    parent: Option<u64>,
    color: Option<String>,
    children: Vec<Tree>,
    a: u32,
    b: u32,
    c: Option<String>,
    d: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Loose {
    Number(u64),
    Text(String),
    List(Vec<Loose>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    Leaf,
    Node {
        name: String,
        children: Vec<Tagged>,
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    },
}

fn chain(depth: usize) -> Chain {
    (0..depth).fold(Chain::End, |inner, _| Chain::Link(Box::new(inner)))
}

fn list(length: u32) -> List {
    let end = List { value: 0, next: None };
    (1..length).fold(end, |next, value| List { value, next: Some(Box::new(next)) })
}

/// Makes the bytes of a value in many others: `count` times `outer`, then `inner`.
fn around(outer: &[u8], count: usize, inner: &[u8]) -> Vec<u8> {
    [outer.repeat(count).as_slice(), inner].concat()
}

#[test]
fn the_limit_of_depth_is_the_same_on_both_sides() {
    let limit = usize::from(DEPTH);
    let bytes = encode(&chain(limit)).unwrap();
    assert_eq!(decode::<Chain>(&bytes).unwrap(), chain(limit));
    assert_eq!(encode(&chain(limit + 1)).unwrap_err(), Error::TooDeep);
    let deeper = around(b"\x81\xa4Link", limit + 1, b"\xa3End");
    assert_eq!(decode::<Chain>(&deeper[6..]).unwrap(), chain(limit));
    assert_eq!(decode::<Chain>(&deeper).unwrap_err(), Error::TooDeep);
    // A struct and an `Option` are two levels.
    let longest = u32::from(DEPTH / 2);
    same_bytes(&list(longest));
    assert_eq!(encode(&list(longest + 1)).unwrap_err(), Error::TooDeep);
}

fn same_bytes<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(&decode_of(value), value);
}

#[test]
fn hostile_depth_is_refused_whatever_the_type() {
    let deep = 1_000_000;
    assert_eq!(decode::<serde_json::Value>(&around(&[0x91], deep, &[0])).unwrap_err(), Error::TooDeep);
    assert_eq!(decode::<Loose>(&around(&[0x91], deep, &[0])).unwrap_err(), Error::TooDeep);
    assert_eq!(
        decode::<Untagged<Chain>>(&around(b"\x81\xa4Link", deep, b"\xa3End")).unwrap_err(),
        Error::TooDeep
    );
    assert_eq!(decode::<Peano>(&[7]).unwrap_err(), Error::TooDeep);
    decode::<serde::de::IgnoredAny>(&around(&[0x91], deep, &[0])).unwrap();
    let peano = (0..DEPTH / 2 - 1).fold(Peano(None), |inner, _| Peano(Some(Box::new(inner))));
    same_bytes(&peano);
    assert_eq!(encode(&Peano(Some(Box::new(peano)))).unwrap_err(), Error::TooDeep);
}

#[test]
fn what_is_as_deep_as_it_may_be_needs_half_the_stack_of_a_thread() {
    fn deepest<T: Serialize + DeserializeOwned>(end: T, nest: impl Fn(T) -> T) {
        let mut value = end;
        let mut levels = 0;
        loop {
            let deeper = nest(value);
            levels += 1;
            match encode(&deeper) {
                Ok(bytes) => value = decode::<T>(&bytes).unwrap(),
                Err(error) => {
                    assert_eq!(error, Error::TooDeep);
                    assert!(levels > u32::from(DEPTH) / 5, "{levels}");
                    return;
                }
            }
            through_buffer(&value);
        }
    }

    /// Reads the value through serde's buffer as well, if that is not too deep.
    fn through_buffer<T: Serialize + DeserializeOwned>(value: &T) {
        if let Ok(bytes) = encode(&Untagged::Any(value)) {
            decode::<Untagged<T>>(&bytes).unwrap();
        }
    }

    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
        deepest(Chain::End, |inner| Chain::Link(Box::new(inner)));
        deepest(Chain::End, |inner| Chain::Field { inner: Box::new(inner) });
        deepest(Chain::End, |inner| Chain::Tuple(1, Box::new(inner)));
        deepest(Tree::default(), |inner| Tree { children: vec![inner], ..Tree::default() });
        deepest(list(1), |next| List { value: 0, next: Some(Box::new(next)) });
        deepest(Loose::Number(1), |inner| Loose::List(vec![inner]));
        deepest(serde_json::Value::Null, |inner| serde_json::json!([inner]));
        deepest(serde_json::Value::Null, |inner| serde_json::json!({ "x": inner }));
        deepest(Tagged::Leaf, |inner| Tagged::Node {
            name: "n".to_owned(),
            children: vec![inner],
            rest: BTreeMap::new(),
        });
    });
    thread.unwrap().join().unwrap();
}

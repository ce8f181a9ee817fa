//! Values of more than bytes, which jobs return: odd ones, deep ones, and ones that encode themselves as something else.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{Error as _, SerializeMap, SerializeSeq, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};

use crate::payload::{mix, pattern};
use crate::plan::Kind;

/// The result of a job of these kinds.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) enum Value {
    Odd(Box<Odd>),
    Deep(Chain),
    Sample(Sample),
    /// Encodes itself as a damaged sample.
    #[serde(skip)]
    Lie(Lie, Sample),
}

/// Every type that serde knows, with the values at their borders.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Odd {
    number: u64,
    floats: Vec<Bits>,
    singles: Vec<f32>,
    texts: Vec<String>,
    bytes: Vec<u8>,
    nothings: Vec<()>,
    #[expect(clippy::option_option, reason = "an encoding may confuse `None` with `Some(None)`")]
    options: Vec<Option<Option<u8>>>,
    wide: (u128, i128, i64, u64, i8),
    letters: Vec<char>,
    map: BTreeMap<String, Option<i64>>,
    choices: Vec<Choice>,
    empty: (Vec<u8>, BTreeMap<u8, u8>, String, Nothing, [u8; 0]),
}

/// A floating-point number, equal to the same bits alone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
struct Bits(f64);

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nothing;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Choice {
    Unit,
    Newtype(Box<Choice>),
    Tuple(u8, String),
    Struct { left: bool, right: Option<i16> },
}

/// A list whose every element lies within the one before.
#[derive(PartialEq, Serialize, Deserialize)]
pub(crate) struct Chain {
    number: u64,
    next: Option<Box<Chain>>,
}

impl Chain {
    fn new(number: u64, depth: u64) -> Self {
        let chain = |next, _| Some(Box::new(Self { number, next }));
        Self { number, next: (1..depth).fold(None, chain) }
    }
}

impl Drop for Chain {
    /// Drops the elements one after the other: a deep chain must not exhaust the stack of its own accord.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut chain) = next {
            next = chain.next.take();
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a chain of {}", self.number)
    }
}

/// A value of whose parts each has wrong encodings.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    number: u64,
    list: Vec<u64>,
    text: String,
    letter: char,
    flag: bool,
    choice: Choice,
}

/// How a value encodes itself wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// A variant that there is not.
    Variant,
    /// A list that is said to be much longer than it is.
    Length,
    /// A map that is said to be much longer than it is, where a struct belongs.
    Map,
    /// A text that is not UTF-8.
    Text,
    /// A number that is no character, where a character belongs.
    Letter,
    /// A number that is neither true nor false.
    Flag,
    /// A struct that ends early.
    Short,
    /// An error.
    Error,
    /// A struct with more behind it.
    Long,
}

/// The lies that nobody can take for a sample.
const LIES: [Lie; 8] =
    [Lie::Variant, Lie::Length, Lie::Map, Lie::Text, Lie::Letter, Lie::Flag, Lie::Short, Lie::Error];

/// Returns the value of a job.
pub(crate) fn value(kind: Kind, number: u64, variant: u64) -> Value {
    match kind {
        Kind::Deep => Value::Deep(Chain::new(number, 1 + variant % 30)),
        Kind::Deeper => Value::Deep(Chain::new(number, 100 + variant % 900)),
        Kind::TooDeep => Value::Deep(Chain::new(number, 1000 + variant % 100_000)),
        Kind::Lie => {
            let at = usize::try_from(variant % LIES.len() as u64).unwrap_or(0);
            Value::Lie(LIES[at], sample(number))
        }
        Kind::LongLie => Value::Lie(Lie::Long, sample(number)),
        _ => Value::Odd(Box::new(odd(number, variant))),
    }
}

/// Checks that a job's value arrived whole.
pub(crate) fn check(value: &Value, kind: Kind, number: u64, variant: u64) -> Result<(), String> {
    let expected = match self::value(kind, number, variant) {
        Value::Lie(_, sample) => Value::Sample(sample),
        other => other,
    };
    if *value == expected { Ok(()) } else { Err(format!("{value:.200?} arrived, not {expected:.200?}")) }
}

fn sample(number: u64) -> Sample {
    Sample {
        number,
        list: vec![number; 3],
        text: "sample".to_owned(),
        letter: 's',
        flag: true,
        choice: Choice::Unit,
    }
}

fn odd(number: u64, variant: u64) -> Odd {
    let text = |length: u64, letter: &str| letter.repeat(usize::try_from(length).unwrap_or(0));
    let quiet_nan_with_a_note = f64::from_bits(0xfff8_0000_0000_0000 | (number & 0xffff));
    Odd {
        number,
        floats: [quiet_nan_with_a_note, f64::NAN, -0.0, f64::INFINITY, f64::MIN_POSITIVE / 2.0, f64::MAX]
            .map(Bits)
            .to_vec(),
        singles: vec![f32::MAX, -0.0, f32::MIN_POSITIVE / 2.0, f32::NEG_INFINITY],
        texts: vec![
            String::new(),
            "\0\u{feff}\u{202e}\u{10ffff}\r\n".to_owned(),
            // Around the lengths at which the encoding changes, and now and then huge.
            text(30 + variant % 4, "x"),
            text(254 + variant % 4, "é"),
            if variant % 16 == 0 { text(100_000 + variant % 2_000_000, "ü") } else { String::new() },
        ],
        bytes: pattern(mix(number), usize::try_from(variant % 70_000).unwrap_or(0)),
        nothings: vec![(); usize::try_from(variant % 40).unwrap_or(0)],
        options: vec![None, Some(None), Some(Some(0)), Some(Some(255))],
        wide: (u128::MAX - u128::from(number), i128::MIN, i64::MIN, u64::MAX, i8::MIN),
        letters: vec!['\0', '\u{7f}', '\u{80}', '\u{d7ff}', '\u{e000}', char::MAX],
        map: (0..variant % 20).map(|key| (text(key, "k"), (key % 2 == 0).then_some(i64::MIN))).collect(),
        choices: vec![
            Choice::Unit,
            Choice::Newtype(Box::new(Choice::Newtype(Box::new(Choice::Unit)))),
            Choice::Tuple(255, String::new()),
            Choice::Struct { left: true, right: None },
            Choice::Struct { left: false, right: Some(i16::MIN) },
        ],
        empty: (Vec::new(), BTreeMap::new(), String::new(), Nothing, []),
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Odd(odd) => to.serialize_newtype_variant("Value", 0, "Odd", odd),
            Self::Deep(chain) => to.serialize_newtype_variant("Value", 1, "Deep", chain),
            Self::Sample(sample) => to.serialize_newtype_variant("Value", 2, "Sample", sample),
            Self::Lie(Lie::Variant, _) => to.serialize_unit_variant("Value", 99, "Nowhere"),
            Self::Lie(lie, sample) => {
                to.serialize_newtype_variant("Value", 2, "Sample", &Damaged { lie: *lie, sample })
            }
        }
    }
}

/// A sample that encodes itself wrongly.
struct Damaged<'a> {
    lie: Lie,
    sample: &'a Sample,
}

impl Serialize for Damaged<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { lie, sample } = *self;
        let Sample { number, list, text, letter, flag, choice } = sample;
        match lie {
            Lie::Error => return Err(S::Error::custom("it does not want to be encoded")),
            Lie::Map => {
                let mut map = to.serialize_map(Some(usize::MAX / 2))?;
                map.serialize_entry("number", number)?;
                return map.end();
            }
            _ => {}
        }
        let fields = match lie {
            Lie::Short => 2,
            Lie::Long => 7,
            _ => 6,
        };
        let mut it = to.serialize_struct("Sample", fields)?;
        it.serialize_field("number", number)?;
        match lie {
            Lie::Length => it.serialize_field("list", &Endless)?,
            _ => it.serialize_field("list", list)?,
        }
        if lie == Lie::Short {
            return it.end();
        }
        match lie {
            Lie::Text => it.serialize_field("text", &NotText)?,
            _ => it.serialize_field("text", text)?,
        }
        match lie {
            Lie::Letter => it.serialize_field("letter", &0xd800_u32)?,
            _ => it.serialize_field("letter", letter)?,
        }
        match lie {
            Lie::Flag => it.serialize_field("flag", &7_u8)?,
            _ => it.serialize_field("flag", flag)?,
        }
        it.serialize_field("choice", choice)?;
        if lie == Lie::Long {
            it.serialize_field("more", &[7_u64; 9])?;
        }
        it.end()
    }
}

/// A list that is said to have very many elements, and has one.
struct Endless;

impl Serialize for Endless {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(usize::MAX / 2))?;
        list.serialize_element(&1_u64)?;
        list.end()
    }
}

/// Bytes that are not UTF-8, where a text belongs.
struct NotText;

impl Serialize for NotText {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&[b's', 0xc0, 0x80, 0xff, 0xed, 0xa0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_job_passes_its_check_and_that_of_another_job_does_not() {
        for kind in [Kind::Odd, Kind::Deep, Kind::Deeper] {
            for variant in 0..40 {
                let value = value(kind, 6, variant);
                assert_eq!(check(&value, kind, 6, variant), Ok(()));
                assert!(check(&value, kind, 8, variant).is_err());
            }
        }
    }

    #[test]
    fn zeros_of_another_sign_and_numbers_of_other_bits_are_found() {
        let Value::Odd(mut value) = value(Kind::Odd, 6, 1) else { panic!("another value") };
        value.floats[2] = Bits(0.0);
        assert!(check(&Value::Odd(value), Kind::Odd, 6, 1).is_err());
    }

    #[test]
    fn a_lie_is_expected_to_arrive_as_the_sample_or_not_at_all() {
        let sample = Value::Sample(sample(6));
        assert_eq!(check(&sample, Kind::LongLie, 6, 0), Ok(()));
        assert!(check(&sample, Kind::LongLie, 8, 0).is_err());
    }

    #[test]
    fn a_chain_is_as_deep_as_it_should_be_and_is_dropped_without_recursion() {
        let mut chain = &Chain::new(6, 1000);
        let mut depth = 1;
        while let Some(next) = &chain.next {
            (chain, depth) = (next, depth + 1);
        }
        assert_eq!(depth, 1000);
        drop(Chain::new(6, 1_000_000));
    }
}

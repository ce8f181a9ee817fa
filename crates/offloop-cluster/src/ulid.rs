//! Ids that need no coordination, and sort by the time they were made.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The digits of Crockford's base 32, in the order of their values.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The number of digits of an id in text.
const LENGTH: usize = 26;

/// The id of a job, a client or a worker: a [ULID](https://github.com/ulid/spec), which is 48 bits of milliseconds
/// since 1970 and 80 random bits. Its text is 26 characters that are allowed in a subject of NATS.
///
/// No decision is made by the time in it, since clocks of several machines differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ulid(u128);

impl Ulid {
    /// Makes a new id.
    ///
    /// # Panics
    ///
    /// If the system gives no random bits.
    pub fn new() -> Self {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the system gives random bits");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self(now << 80 | u128::from_le_bytes(random) >> 48)
    }

    /// Returns the id with these bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Returns the 128 bits.
    pub const fn to_bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        let mut rest = self.0;
        for digit in text.iter_mut().rev() {
            *digit = DIGITS[(rest & 31) as usize];
            rest >>= 5;
        }
        f.pad(std::str::from_utf8(&text).expect("the digits are ASCII"))
    }
}

impl fmt::Debug for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not the id of a job, a client or a worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a ULID, which has 26 digits of 0-9 and A-Z without I, L, O and U, and at most 128 bits")]
pub struct ParseUlidError(());

impl FromStr for Ulid {
    type Err = ParseUlidError;

    /// Reads an id, with digits in upper or lower case.
    fn from_str(text: &str) -> Result<Self, ParseUlidError> {
        let mut bits = 0_u128;
        for digit in text.bytes() {
            let value =
                DIGITS.iter().position(|it| it.eq_ignore_ascii_case(&digit)).ok_or(ParseUlidError(()))?;
            bits = bits.checked_mul(32).ok_or(ParseUlidError(()))? | value as u128;
        }
        if text.len() == LENGTH { Ok(Self(bits)) } else { Err(ParseUlidError(())) }
    }
}

/// As 16 bytes, the most significant first.
impl Serialize for Ulid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.to_be_bytes())
    }
}

impl<'de> Deserialize<'de> for Ulid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Ulid;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the 16 bytes of an id")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Ulid, E> {
                let bytes = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
                Ok(Ulid(u128::from_be_bytes(bytes)))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_differ_and_sort_by_their_time() {
        let (first, second) = (Ulid::new(), Ulid::new());
        assert_ne!(first, second);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(Ulid::new() > first.max(second));
    }

    #[test]
    fn a_text_that_is_no_id_is_refused() {
        let good = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert_eq!(good.to_lowercase().parse::<Ulid>().unwrap().to_string(), good);
        for bad in
            ["", "01ARZ3NDEKTSV4RRFFQ69G5FA", "01ARZ3NDEKTSV4RRFFQ69G5FAU", &format!("8{}", "Z".repeat(25))]
        {
            assert!(bad.parse::<Ulid>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_id_is_the_same_after_text_and_bytes(bits: u128) {
            let id = Ulid::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<Ulid>(), Ok(id));
            let bytes = rmp_serde::to_vec(&id).unwrap();
            prop_assert_eq!(rmp_serde::from_slice::<Ulid>(&bytes).unwrap(), id);
        }
    }
}

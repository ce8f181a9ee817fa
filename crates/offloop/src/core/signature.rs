//! The mark that two programs must have in common to call a function by its name.

use std::fmt;
use std::str::FromStr;

/// A hash of a task's name, its version and the types of its function, the same in all builds.
///
/// Programs of different builds compare it before one of them calls a task of the other. Two functions with the same
/// signature have the same name, version, and types as they are written in the source. It does not tell what is inside
/// a type: a struct that has gained a field has the same name, and its fields are encoded by name. A change that old and
/// new programs must not mistake for each other gets a new `version`.
///
/// Displayed and parsed as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(u64);

impl Signature {
    /// Stands for any signature, in calls that leave open which one the task has.
    pub(crate) const ANY: Self = Self(0);

    /// Returns the signature of a function: 64 bits of FNV-1a.
    pub(crate) fn of(name: &str, version: u32, types: &str) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        // A byte that occurs in no text separates the parts.
        let parts = [name.as_bytes(), &[0xff], &version.to_le_bytes(), &[0xff], types.as_bytes()];
        for byte in parts.into_iter().flatten() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(hash)
    }

    /// Returns the signature as a number, to send it elsewhere.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// Makes a signature of a number that has come from elsewhere.
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// The error of a text that is no [`Signature`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no signature of a task, which has 16 hexadecimal digits")]
pub struct NoSignature(String);

impl FromStr for Signature {
    type Err = NoSignature;

    fn from_str(text: &str) -> Result<Self, NoSignature> {
        let is_right = text.len() == 16 && text.bytes().all(|it| it.is_ascii_hexdigit());
        let number = if is_right { u64::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or_else(|| NoSignature(text.chars().take(40).collect()))
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::Signature;

    #[test]
    fn a_signature_is_the_same_in_all_builds_and_differs_with_each_part() {
        let signature = Signature::of("billing:invoice", 2, "fn(u64)->Vec<String>");
        assert_eq!(signature.to_string(), "5a09aba1149146ff");
        for other in [
            Signature::of("billing:invoices", 2, "fn(u64)->Vec<String>"),
            Signature::of("billing:invoice", 1, "fn(u64)->Vec<String>"),
            Signature::of("billing:invoice", 2, "fn(u32)->Vec<String>"),
        ] {
            assert_ne!(signature, other);
        }
        assert_eq!(signature.to_string().parse(), Ok(signature));
        assert_eq!(Signature::from_u64(signature.as_u64()), signature);
        for wrong in ["", "1", "+000000000000001", "000000000000000g", "00000000000000001"] {
            assert!(wrong.parse::<Signature>().is_err(), "{wrong}");
        }
    }
}

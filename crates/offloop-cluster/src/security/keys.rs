//! Keys and their texts, which are those of NATS.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use nkeys::{KeyPair, KeyPairType};

/// The number of characters of a public key's text.
pub(super) const PUBLIC_KEY_LENGTH: usize = 56;

/// The number of bytes of a signature.
pub(super) const SIGNATURE_LENGTH: usize = 64;

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// A public key was expected.
    #[error("this is no public key, which has {PUBLIC_KEY_LENGTH} characters and begins with U: {0}")]
    Public(String),
    /// A secret key was expected. Its text is not repeated, since it may be one with an error.
    #[error("this is no secret key, which has 58 characters and begins with SU: {0}")]
    Secret(String),
}

/// The secret half of an Ed25519 key pair, which signs records.
///
/// The text of a secret key is that of a NATS user's seed: `SU` and 56 more characters, with a checksum. It may be one
/// that also logs the user in.
#[derive(Clone)]
pub struct SigningKey {
    pair: KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// Makes a new key from random bits of the system.
    ///
    /// # Panics
    ///
    /// If the system gives no random bits.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system gives random bits");
        let pair = KeyPair::new_from_raw(KeyPairType::User, seed).expect("all 32 bytes are a key");
        Self::of(pair).expect("its public key is one")
    }

    /// Returns the text of the secret key. Keep it in a file that only its owner may read.
    ///
    /// # Panics
    ///
    /// Never: a signing key has its seed.
    pub fn to_secret(&self) -> String {
        self.pair.seed().expect("a signing key has its seed")
    }

    /// Returns the public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs bytes.
    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        let signature = self.pair.sign(bytes).expect("a signing key has its seed");
        signature.try_into().expect("a signature has 64 bytes")
    }

    fn of(pair: KeyPair) -> Result<Self, InvalidKey> {
        let public = pair.public_key().parse()?;
        Ok(Self { pair, public })
    }
}

/// Reads a secret key. White space around it is left out.
impl FromStr for SigningKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let refuse = |reason: &dyn fmt::Display| InvalidKey::Secret(reason.to_string());
        let text = text.trim();
        if !text.starts_with("SU") {
            return Err(refuse(&"it does not begin so"));
        }
        Self::of(KeyPair::from_seed(text).map_err(|error| refuse(&error))?)
    }
}

/// The secret is left out.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The public half of a key pair, which tells whether a signature is one of the secret half.
///
/// The text of a public key is that of a NATS user: `U` and 55 more characters, with a checksum.
#[derive(Clone)]
pub struct PublicKey {
    text: String,
    pair: KeyPair,
}

impl PublicKey {
    /// Returns the key's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the signature is one of these bytes by this key.
    pub(super) fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        self.pair.verify(bytes, signature).is_ok()
    }
}

/// Reads a public key. White space around it is left out.
impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let refuse = |reason: &dyn fmt::Display| InvalidKey::Public(reason.to_string());
        let text = text.trim();
        if text.starts_with('S') {
            return Err(refuse(&"it begins as a secret key does; name the public half, which is not secret"));
        }
        let pair = KeyPair::from_public_key(text).map_err(|error| refuse(&error))?;
        match pair.key_pair_type() {
            KeyPairType::User => Ok(Self { text: text.to_owned(), pair }),
            other => Err(refuse(&format_args!("it is that of a NATS {other:?}"))),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PublicKey {}

impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

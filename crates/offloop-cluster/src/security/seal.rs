//! Signed records. A signature is the last entry of a record's map, behind the name of the key, and covers all bytes
//! before it.

use super::keys::{PUBLIC_KEY_LENGTH, SIGNATURE_LENGTH, SigningKey};
use crate::Ulid;
use crate::records::{RecordError, check, check_size};

/// The entry `key_id`, up to its value: a text of [`PUBLIC_KEY_LENGTH`] bytes.
const KEY_ID: &[u8] = b"\xa6key_id\xd9\x38";

/// The entry `mac`, up to its value: [`SIGNATURE_LENGTH`] bytes.
const MAC: &[u8] = b"\xa3mac\xc4\x40";

/// The bytes that a signature adds to a record, besides a longer head of the map.
const ADDED: usize = KEY_ID.len() + PUBLIC_KEY_LENGTH + MAC.len() + SIGNATURE_LENGTH;

/// The record that a signature is for. It does not count for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// A job record.
    Job {
        /// The namespace.
        namespace: &'a str,
        /// The queue.
        queue: &'a str,
    },
    /// The record of a job's end.
    End {
        /// The namespace.
        namespace: &'a str,
        /// The job.
        job: Ulid,
    },
    /// The record of an item that a job streams.
    Item {
        /// The namespace.
        namespace: &'a str,
        /// The job.
        job: Ulid,
    },
}

impl Scope<'_> {
    /// Returns the bytes that are signed: those of the scope, then those of the record. No two scopes have a common
    /// beginning, since each text follows its length.
    fn signed(&self, record: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + record.len());
        let mut text = |text: &[u8]| {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text);
        };
        text(b"offloop cluster record, version 1");
        match self {
            Self::Job { namespace, queue } => {
                text(b"job");
                text(namespace.as_bytes());
                text(queue.as_bytes());
            }
            Self::End { namespace, job } => {
                text(b"end");
                text(namespace.as_bytes());
                text(&job.to_bits().to_be_bytes());
            }
            Self::Item { namespace, job } => {
                text(b"item");
                text(namespace.as_bytes());
                text(&job.to_bits().to_be_bytes());
            }
        }
        bytes.extend(record);
        bytes
    }
}

impl SigningKey {
    /// Signs an encoded record, which must not be signed yet. Returns it with the entries `key_id` and `mac`.
    ///
    /// # Errors
    ///
    /// The record is no whole one, or too large with a signature.
    pub fn seal(&self, scope: Scope<'_>, record: &[u8]) -> Result<Vec<u8>, RecordError> {
        // The entries that are added must not become the missing values of a record that is cut short.
        check(record)?;
        let mut rest = record;
        let no_map = |_| RecordError::Malformed("it is no map".to_owned());
        let entries = rmp::decode::read_map_len(&mut rest).map_err(no_map)?;
        let mut sealed = Vec::with_capacity(record.len() + ADDED + 4);
        rmp::encode::write_map_len(&mut sealed, entries.saturating_add(2))
            .map_err(|error| RecordError::Malformed(error.to_string()))?;
        sealed.extend(rest);
        sealed.extend(KEY_ID);
        sealed.extend(self.public().as_str().as_bytes());
        let signature = self.sign(&scope.signed(&sealed));
        sealed.extend(MAC);
        sealed.extend(signature);
        check_size(sealed.len())?;
        Ok(sealed)
    }
}

/// The signature of a record, not yet checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seal<'a> {
    /// The text of the key that is said to have signed it.
    pub(super) key: &'a str,
    /// The bytes that the signature is for, without the scope.
    record: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Seal<'a> {
    /// Finds the signature of a record, if it has one.
    pub(super) fn find(record: &'a [u8]) -> Option<Self> {
        let (rest, signature) = record.split_at_checked(record.len().checked_sub(SIGNATURE_LENGTH)?)?;
        let rest = rest.strip_suffix(MAC)?;
        let (front, key) = rest.split_at_checked(rest.len().checked_sub(PUBLIC_KEY_LENGTH)?)?;
        if !front.ends_with(KEY_ID) {
            return None;
        }
        Some(Self { key: std::str::from_utf8(key).ok()?, record: rest, signature })
    }

    /// Returns whether the key has signed this record for this scope.
    pub(super) fn is_by(&self, key: &super::PublicKey, scope: Scope<'_>) -> bool {
        key.as_str() == self.key && key.verifies(&scope.signed(self.record), self.signature)
    }
}

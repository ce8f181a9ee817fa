//! The keys of one party of a cluster: whom it trusts, and its own.

use std::time::Duration;

use super::{Scope, SigningKey, Trust};
use crate::Ulid;
use crate::records::{End, Job, Outcome, RecordError};

/// Whom a worker or a submitter trusts, and the key by which others trust it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seals {
    pub(crate) trust: Trust,
    pub(crate) key: Option<SigningKey>,
}

impl Seals {
    /// Encodes a job for its queue, signed if this party has a key.
    pub(crate) fn encode(&self, namespace: &str, job: &Job) -> Result<Vec<u8>, RecordError> {
        let record = job.encode()?;
        let Some(key) = &self.key else { return Ok(record) };
        key.seal(Scope::Job { namespace, queue: &job.queue }, &record)
    }

    /// Signs the record of a job's end, if this party has a key.
    pub(crate) fn seal_end(&self, namespace: &str, job: Ulid, end: Vec<u8>) -> Result<Vec<u8>, RecordError> {
        let Some(key) = &self.key else { return Ok(end) };
        key.seal(Scope::End { namespace, job }, &end)
    }

    /// Signs the record of an item that a job streams, if this party has a key.
    pub(crate) fn seal_item(
        &self,
        namespace: &str,
        job: Ulid,
        item: Vec<u8>,
    ) -> Result<Vec<u8>, RecordError> {
        let Some(key) = &self.key else { return Ok(item) };
        key.seal(Scope::Item { namespace, job }, &item)
    }

    /// Decides whether an item that a job streams counts. Returns the reason why it does not.
    pub(crate) fn admit_item(&self, namespace: &str, job: Ulid, record: &[u8]) -> Result<(), String> {
        self.trust.admit_item(namespace, job, record).map(drop).map_err(String::from)
    }

    /// Decides whether a job from a queue may run. Returns the reason why it may not.
    pub(crate) fn admit(
        &self,
        namespace: &str,
        queue: &str,
        record: &[u8],
        job: &Job,
        remember: Duration,
    ) -> Result<(), String> {
        self.trust.admit_job(Scope::Job { namespace, queue }, record, job, remember).map_err(String::from)
    }

    /// Decides whether a job's end counts. Returns the reason why it does not.
    ///
    /// One that says no more than that the job was stopped counts without a signature, since other submitters with the
    /// same key may stop a job.
    pub(crate) fn admit_end(
        &self,
        namespace: &str,
        job: Ulid,
        record: &[u8],
        end: &End,
    ) -> Result<(), String> {
        if end.body.is_empty() && matches!(end.outcome, Outcome::Cancelled | Outcome::QueueTimeout) {
            return Ok(());
        }
        self.trust.admit_end(namespace, job, record).map(drop).map_err(String::from)
    }
}

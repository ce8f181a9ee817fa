//! The trust in the writers of records.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::keys::{InvalidKey, PublicKey};
use super::seal::{Scope, Seal};
use crate::Ulid;
use crate::records::{Codec, Job};

/// The difference between the clocks of two machines that is allowed for. No other decision compares clocks.
const SKEW: Duration = Duration::from_secs(60 * 60);

/// A record that does not count. The text says why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotTrusted(String);

impl From<NotTrusted> for String {
    fn from(refusal: NotTrusted) -> Self {
        refusal.0
    }
}

/// The keys that a worker or a submitter trusts, and whether it loads pickles. It trusts none by default.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The keys, each with the tasks that it may call.
    keys: BTreeMap<String, (PublicKey, Tasks)>,
    loads_pickles: bool,
}

/// The tasks that a key may call.
#[derive(Debug, Clone)]
enum Tasks {
    All,
    /// Names of tasks. One that ends with `*` stands for all that begin so.
    Some(Vec<String>),
}

impl Tasks {
    fn has(&self, task: &str) -> bool {
        let Self::Some(names) = self else { return true };
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => task.starts_with(beginning),
            None => name == task,
        })
    }
}

impl Trust {
    /// Returns a trust in no key.
    pub fn none() -> Self {
        Self::default()
    }

    /// Trusts what this key signs. At a worker it may call all tasks.
    pub fn key(mut self, key: PublicKey) -> Self {
        self.keys.insert(key.as_str().to_owned(), (key, Tasks::All));
        self
    }

    /// Trusts what this key signs, for some tasks only. A name that ends with `*` stands for all that begin so. At a
    /// submitter this is the same as [`Trust::key`], since it chooses the tasks itself.
    pub fn key_for<T: Into<String>>(mut self, key: PublicKey, tasks: impl IntoIterator<Item = T>) -> Self {
        let tasks = Tasks::Some(tasks.into_iter().map(Into::into).collect());
        self.keys.insert(key.as_str().to_owned(), (key, tasks));
        self
    }

    /// Trusts a key as a command line names it: `KEY`, or `KEY=TASK,TASK` if it may call these tasks only.
    ///
    /// # Errors
    ///
    /// The key is none.
    pub fn with(self, text: &str) -> Result<Self, InvalidKey> {
        match text.split_once('=') {
            None => Ok(self.key(text.parse()?)),
            Some((key, tasks)) => Ok(self.key_for(key.parse()?, tasks.split(',').map(str::trim))),
        }
    }

    /// Loads the pickles that a trusted key has signed. Loading a pickle runs code that its author has chosen.
    pub fn accept_pickles(mut self) -> Self {
        self.loads_pickles = true;
        self
    }

    /// Returns whether no key is trusted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns whether pickles of trusted keys are loaded.
    pub fn loads_pickles(&self) -> bool {
        self.loads_pickles && !self.keys.is_empty()
    }

    /// Decides, at a worker, whether a job may run.
    ///
    /// `record` is the job record as it came, and `job` what it was decoded to. `remember` is the time for which the ends
    /// of jobs are stored.
    ///
    /// # Errors
    ///
    /// It may not. The text is meant for the submitter.
    pub fn admit_job(
        &self,
        scope: Scope<'_>,
        record: &[u8],
        job: &Job,
        remember: Duration,
    ) -> Result<(), NotTrusted> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.admit_job_at(scope, record, job, remember, now)
    }

    pub(super) fn admit_job_at(
        &self,
        scope: Scope<'_>,
        record: &[u8],
        job: &Job,
        remember: Duration,
        now: Duration,
    ) -> Result<(), NotTrusted> {
        let refuse = |reason: String| Err(NotTrusted(format!("`{}` was not run: {reason}", job.task)));
        match self.author(scope, record, "worker") {
            Err(reason) => return refuse(reason),
            Ok(None) => {}
            Ok(Some((key, tasks))) => {
                if !tasks.has(&job.task) {
                    return refuse(format!(
                        "the worker lets the key {key} call other tasks only; add this one's name to the worker's list"
                    ));
                }
                let (issued, longest) = (Duration::from_millis(job.issued), remember.saturating_add(SKEW));
                if now.saturating_sub(issued) > longest || issued.saturating_sub(now) > SKEW {
                    return refuse(format!(
                        "by the clocks of the two machines it was submitted {} s {}, and a copy of an old record might \
                         run a job again; set the clocks right, or submit it anew",
                        now.abs_diff(issued).as_secs(),
                        if issued > now { "from now" } else { "ago" },
                    ));
                }
            }
        }
        if job.codec == Codec::Pickle && !self.loads_pickles() {
            return refuse(if self.keys.is_empty() {
                "it comes as a pickle, and the worker trusts no key; start it with `--trust KEY --accept pickle`, or \
                 register the function with the worker and pass plain data"
                    .to_owned()
            } else {
                "it comes as a pickle, and the worker accepts none; start it with `--accept pickle`, or register the \
                 function with the worker and pass plain data"
                    .to_owned()
            });
        }
        Ok(())
    }

    /// Decides, at a submitter, whether a job's end counts. Returns whether a pickle in it may be loaded.
    ///
    /// `record` is the record of the end, as it came.
    ///
    /// # Errors
    ///
    /// It does not count. The text is meant for the submitter.
    pub fn admit_end(&self, namespace: &str, job: Ulid, record: &[u8]) -> Result<bool, NotTrusted> {
        let author = self.author(Scope::End { namespace, job }, record, "program");
        let author =
            author.map_err(|reason| NotTrusted(format!("the end of job {job} is ignored: {reason}")))?;
        Ok(author.is_some() && self.loads_pickles)
    }

    /// Decides, at a submitter, whether an item that a job streams counts. Returns whether a pickle in it may be loaded.
    ///
    /// `record` is the record of the item, as it came. The signature covers its number and that of the start, so an item
    /// does not count at another place of the stream.
    ///
    /// # Errors
    ///
    /// It does not count. The text is meant for the submitter.
    pub fn admit_item(&self, namespace: &str, job: Ulid, record: &[u8]) -> Result<bool, NotTrusted> {
        let author = self.author(Scope::Item { namespace, job }, record, "program");
        let author = author.map_err(|reason| {
            NotTrusted(format!("an item of job {job} is refused, and so the job: {reason}"))
        })?;
        Ok(author.is_some() && self.loads_pickles)
    }

    /// Returns the trusted key that has signed the record; `None` if no key is trusted. `who` trusts.
    fn author(
        &self,
        scope: Scope<'_>,
        record: &[u8],
        who: &str,
    ) -> Result<Option<(&PublicKey, &Tasks)>, String> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let Some(seal) = Seal::find(record) else {
            return Err(format!(
                "it is not signed, and this {who} trusts signed records only; give the one that wrote it a key"
            ));
        };
        let Some((key, tasks)) = self.keys.get(seal.key) else {
            return Err(format!(
                "it is signed with a key that this {who} does not trust; if {:?} is one of yours, add it to the trusted keys",
                seal.key
            ));
        };
        if seal.is_by(key, scope) {
            Ok(Some((key, tasks)))
        } else {
            Err(format!(
                "its signature is not one by {key} for this record in this place: it was changed on the way, or copied from \
                 elsewhere"
            ))
        }
    }
}

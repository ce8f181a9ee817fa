//! A job that runs in another process, as its pool sees it.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::item_queue::ItemQueue;
use crate::base::panic;
use crate::core::cell::Cell;
use crate::core::error::ErrorKind;
use crate::core::observer::Observer;
use crate::core::runnable::{AnyJob, Runnable};
use crate::wire::call::Encoded;
use crate::wire::decode::{self, DecodePace};
use crate::wire::msgpack;
use crate::wire::payload::Received;

/// The work of such a job: its call, and the queue for the items that it may send.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) call: Encoded,
    /// `None` if the job may send no items.
    pub(super) items: Option<Arc<ItemQueue>>,
}

/// A job that runs in another process. It can also be run here, where the policy of a full queue says so.
pub(super) trait RemoteCall: Runnable {
    /// Takes the work out to send it. Returns `None` if the job has ended.
    fn start(&self) -> Option<Outbound>;

    /// Takes back work that no worker has begun with. Returns false if the job has ended.
    fn take_back(&self, work: Outbound) -> bool;

    /// Returns whether its result is of a type that is known to be decoded quickly.
    fn has_plain_result(&self) -> bool;

    /// Ends the job with its encoded result. `pace` learns how long that takes to be decoded. Returns whether it did.
    fn complete(&self, result: Received<'_>, pace: &DecodePace, observer: &dyn Observer) -> bool;
}

/// The result of such a job as its handle gets it.
pub(super) trait FromAnswer: Sized + Send + 'static {
    /// Returns whether it is quickly made of any answer.
    fn is_plain() -> bool;

    /// Makes it of the encoded result. `has_failed`: the job has declared itself failed.
    fn from_answer(result: Received<'_>, has_failed: bool) -> Result<Self, msgpack::Error>;
}

/// A value that the caller decodes.
impl<R: DeserializeOwned + Send + 'static> FromAnswer for R {
    fn is_plain() -> bool {
        decode::is_plain::<R>()
    }

    fn from_answer(result: Received<'_>, _: bool) -> Result<Self, msgpack::Error> {
        decode::decode(result)
    }
}

/// A result that stays encoded, on its way to another machine.
#[derive(Debug)]
pub(crate) struct EncodedAnswer {
    pub(crate) bytes: Vec<u8>,
    /// The job has declared itself failed.
    pub(crate) has_failed: bool,
}

impl FromAnswer for EncodedAnswer {
    fn is_plain() -> bool {
        true
    }

    fn from_answer(result: Received<'_>, has_failed: bool) -> Result<Self, msgpack::Error> {
        Ok(Self { bytes: result.settled().into_owned(), has_failed })
    }
}

impl<R: FromAnswer> RemoteCall for Cell<Outbound, R> {
    fn start(&self) -> Option<Outbound> {
        // A job that is queued has an owner, which counts its end.
        Self::start(self).ok()
    }

    fn take_back(&self, work: Outbound) -> bool {
        Self::take_back(self, work)
    }

    fn has_plain_result(&self) -> bool {
        R::is_plain()
    }

    fn complete(&self, result: Received<'_>, pace: &DecodePace, observer: &dyn Observer) -> bool {
        // `Deserialize` is the user's code. A panic in it is this job's, like any other.
        let has_failed = self.header().has_failed();
        let decode = || panic::catch(|| R::from_answer(result, has_failed));
        let result = match if R::is_plain() { decode() } else { pace.measure(decode) } {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let name = &self.header().options.name;
                Err(ErrorKind::Decode(format!("the result of `{name}`: {error}")))
            }
            Err(panic) => Err(ErrorKind::Panicked(panic)),
        };
        self.finish(result, observer)
    }
}

impl<R: FromAnswer> Runnable for Cell<Outbound, R> {
    fn run(self: Arc<Self>, observer: &dyn Observer) {
        match Self::start(&self) {
            Ok(Outbound { call, .. }) => {
                let task = call.task;
                match self.header().perform(|| call.run().map_err(|fault| fault.into_kind(task.name))) {
                    Ok(result) => self.complete(Received::from(&result), &task.results, observer),
                    Err(kind) => self.finish(Err(kind), observer),
                };
            }
            Err(ended) => ended.count(observer),
        }
    }
}

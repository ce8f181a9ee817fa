//! Runs one request in a worker: finds the task, calls it as the current job of this thread, and encodes what comes of
//! it.

use std::sync::OnceLock;

use crate::base::panic;
use crate::core::error::ErrorKind;
use crate::core::header::Header;
use crate::core::options::Options;
use crate::core::outcome::Outcome;
use crate::processes::link::{AnswerTag, CONTEXT, PanicNote, Request, WHOLE};
use crate::wire::call::{CallContext, Whole};
use crate::wire::payload::{Incoming, Payload};
use crate::wire::registry::registry;
use crate::wire::task::{Fault, Task};

type Surround = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// The hook that the user has put around each job. Set once.
static SURROUND: OnceLock<Box<Surround>> = OnceLock::new();

/// Installs the hook around each job. Returns false if there is one already.
pub(crate) fn surround(hook: Box<Surround>) -> bool {
    SURROUND.set(hook).is_ok()
}

/// Runs one request. Returns the kind and the body of the answer.
pub(super) fn run(request: &Request) -> (AnswerTag, Payload) {
    let Some(task) = usize::try_from(request.task).ok().and_then(|index| registry().get(index)) else {
        return (AnswerTag::BadArguments, Payload::text("the request names no task of this program"));
    };
    match perform(task, request) {
        Ok((result, has_failed)) => (if has_failed { AnswerTag::Failed } else { AnswerTag::Done }, result),
        Err(Fault::Arguments(reason)) => (AnswerTag::BadArguments, Payload::text(&reason)),
        Err(Fault::Result(reason)) => (AnswerTag::BadResult, Payload::text(&reason)),
        Err(Fault::Panicked(panic)) => {
            let note =
                PanicNote { message: panic.message, location: panic.location, backtrace: panic.backtrace };
            match Payload::encode(&note) {
                Ok(note) => (AnswerTag::Panicked, note),
                Err(_) => (AnswerTag::BadResult, Payload::text(&format!("it panicked: {}", note.message))),
            }
        }
    }
}

/// Calls the task as the current job of this thread, with panics caught. Returns its result, and whether it declared
/// itself failed.
fn perform(task: &Task, request: &Request) -> Result<(Payload, bool), Fault> {
    let mut incoming = Incoming { body: request.body(), parts: &request.parts };
    let mut options = Options::new();
    options.name = task.name.into();
    let mut parent = None;
    if request.flags & CONTEXT != 0 {
        let (context, arguments) =
            CallContext::take(incoming).map_err(|error| Fault::Arguments(error.to_string()))?;
        incoming = arguments;
        parent = context.parent;
        if context.carried.is_some() || context.request.is_some() {
            let extras = options.extras_mut();
            extras.carried = context.carried.map(|bytes| bytes.0.into());
            extras.request = context.request.map(Into::into);
        }
        if let Some(name) = context.name {
            options.name = name.to_owned().into();
        }
    }
    let header = Header::of_request(request.job, options, parent);
    let _whole = Whole::begin(request.flags & WHOLE != 0);
    let mut outcome = None;
    let caught = header.perform(|| {
        let mut call = || outcome = Some(panic::catch(|| (task.run)(incoming)));
        match SURROUND.get() {
            Some(hook) => hook(&mut call),
            None => call(),
        }
        Ok(())
    });
    let result = match (outcome, caught) {
        (Some(Ok(result)), Ok(())) => result.map(|result| (result, header.has_failed())),
        (Some(Err(panic)), _) | (_, Err(ErrorKind::Panicked(panic))) => Err(Fault::Panicked(panic)),
        (_, Err(other)) => Err(Fault::Result(other.to_string())),
        (None, Ok(())) => Err(Fault::Result("the hook that surrounds jobs did not call it".to_owned())),
    };
    header.span.record_outcome(match &result {
        Ok((_, false)) => Outcome::Completed,
        Err(Fault::Panicked(_)) => Outcome::Panicked,
        _ => Outcome::Failed,
    });
    result
}

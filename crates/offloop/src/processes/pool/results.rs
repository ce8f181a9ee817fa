//! From a worker's answer to the end of a job.

use std::sync::Arc;

use super::worker::Finished;
use crate::base::panic::{Panic, drop_quietly};
use crate::core::error::ErrorKind;
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::options::Options;
use crate::metrics::stats::OutcomeCounters;
use crate::processes::decoders::decoders;
use crate::processes::link::{Answer, AnswerTag, PanicNote};
use crate::wire;
use crate::wire::decode::is_quick;
use crate::wire::payload::Received;
use crate::wire::task::Fault;

/// Returns the encoded result of an answer, or the reason why there is none.
pub(in crate::processes) fn into_result<'a>(
    answer: &'a Answer,
    task: &str,
) -> Result<Received<'a>, ErrorKind> {
    let received = answer.received();
    match answer.tag {
        AnswerTag::Done | AnswerTag::Failed => Ok(received),
        AnswerTag::BadArguments => Err(Fault::Arguments(received.text()).into_kind(task)),
        AnswerTag::BadResult => Err(Fault::Result(received.text()).into_kind(task)),
        AnswerTag::Panicked => match wire::decode::decode::<PanicNote>(received) {
            Ok(PanicNote { message, location, backtrace }) => {
                Err(ErrorKind::Panicked(Panic { message, location, backtrace, payload: None }))
            }
            Err(error) => Err(ErrorKind::Decode(format!("the panic of `{task}`: {error}"))),
        },
    }
}

/// Ends a job with its worker's answer. The user's code decodes it: on this thread if that is known to be quick or asked
/// for (`here`), else on another one.
pub(super) fn finish(mut finished: Finished, counts: &Arc<OutcomeCounters>, here: bool) {
    // Their memory is free for other jobs before the caller learns of the end. Also before another thread decodes the
    // result: the supervisor may be this thread, and gives back only what is free when it goes to sleep.
    drop(finished.arguments.take());
    let Finished { job, answer, pace, .. } = &finished;
    let is_plain = job.has_plain_result() || !matches!(answer.tag, AnswerTag::Done | AnswerTag::Failed);
    if here || is_quick(answer.body().len(), is_plain, pace) {
        return end(finished, counts);
    }
    let counts = Arc::clone(counts);
    let placed = decoders().try_place(move || end(finished, &counts), Options::new());
    if let Err(rejected) = placed.map(Handle::detach) {
        // The system gives no thread.
        rejected.into_work()();
    }
}

fn end(finished: Finished, counts: &OutcomeCounters) {
    let Finished { job, answer, pace, .. } = finished;
    match into_result(&answer, &job.header().options.name) {
        Ok(result) => {
            if answer.tag == AnswerTag::Failed {
                job.header().mark_failed();
            }
            job.complete(result, pace, counts)
        }
        Err(kind) => job.fail(kind, counts),
    };
    drop(answer);
    // If nobody wants the result, it is dropped here, and its destructor is the user's.
    drop_quietly(job);
}

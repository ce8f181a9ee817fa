//! From a worker's answer to the end of a job.

use std::sync::Arc;

use super::worker::Finished;
use crate::base::fork::PerProcess;
use crate::base::panic::{Panic, drop_quietly};
use crate::core::error::ErrorKind;
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::options::Options;
use crate::metrics::stats::OutcomeCounters;
use crate::processes::link::{Answer, AnswerTag, PanicNote};
use crate::threads::ThreadPool;
use crate::wire::payload::Incoming;
use crate::wire::task::Fault;

/// Results above this size are decoded on other threads, so that the thread that took the answer can go on. In bytes.
const LARGE_RESULT: usize = 64 * 1024;

/// Returns the encoded result of an answer, or the reason why there is none.
pub(in crate::processes) fn into_result<'a>(
    answer: &'a Answer,
    task: &str,
) -> Result<Incoming<'a>, ErrorKind> {
    let text = || String::from_utf8_lossy(answer.body()).into_owned();
    match answer.tag {
        AnswerTag::Done | AnswerTag::Failed => Ok(Incoming { body: answer.body(), parts: &answer.parts }),
        AnswerTag::BadArguments => Err(Fault::Arguments(text()).into_kind(task)),
        AnswerTag::BadResult => Err(Fault::Result(text()).into_kind(task)),
        AnswerTag::Panicked => match postcard::from_bytes::<PanicNote>(answer.body()) {
            Ok(PanicNote { message, location, backtrace }) => {
                Err(ErrorKind::Panicked(Panic { message, location, backtrace, payload: None }))
            }
            Err(error) => Err(ErrorKind::Decode(format!("the panic of `{task}`: {error}"))),
        },
    }
}

/// Ends a job with its worker's answer, which the user's code decodes.
pub(super) fn finish(finished: Finished, counts: &Arc<OutcomeCounters>) {
    if finished.answer.body().len() <= LARGE_RESULT {
        return end(finished, counts);
    }
    let counts = Arc::clone(counts);
    let placed = decoders().try_place(move || end(finished, &counts), Options::new());
    if let Err(rejected) = placed.map(Handle::detach) {
        rejected.into_work()();
    }
}

fn end(finished: Finished, counts: &OutcomeCounters) {
    let Finished { job, arguments, answer, .. } = finished;
    // Their memory is free for other jobs before the caller learns of the end.
    drop(arguments);
    match into_result(&answer, &job.header().options.name) {
        Ok(result) => {
            if answer.tag == AnswerTag::Failed {
                job.header().mark_failed();
            }
            job.complete(result, counts)
        }
        Err(kind) => job.fail(kind, counts),
    };
    drop(answer);
    // If nobody wants the result, it is dropped here, and its destructor is the user's.
    drop_quietly(job);
}

/// Returns this process's threads for decoding large results.
fn decoders() -> &'static ThreadPool {
    static DECODERS: PerProcess<ThreadPool> = PerProcess::new();
    DECODERS.get(|| {
        let pool =
            ThreadPool::builder().name("offloop-decode").max_workers(crate::base::cores::cores()).unlisted();
        pool.build().expect("these settings are valid")
    })
}

//! From a worker's answer, or its death, to the end of a job.

use std::sync::Arc;

use crate::base::fork::PerProcess;
use crate::base::panic::Panic;
use crate::base::panic::drop_quietly;
use crate::core::error::ErrorKind;
use crate::core::executor::Accepts;
use crate::core::options::Options;
use crate::metrics::stats::OutcomeCounters;
use crate::processes::link::{Answer, AnswerTag, PanicNote};
use crate::processes::pool::worker::Finished;
use crate::threads::ThreadPool;
use crate::wire::payload::Incoming;
use crate::wire::task::Fault;

/// Results above this size in bytes are decoded on other threads, so that whoever took the answer goes on.
const LARGE_RESULT: usize = 64 * 1024;

/// What an answer comes to: the encoded result, or what went wrong.
pub(crate) fn verdict<'a>(answer: &'a Answer, task: &str) -> Result<Incoming<'a>, ErrorKind> {
    let text = || String::from_utf8_lossy(answer.body()).into_owned();
    match answer.kind {
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

/// Ends a job with its worker's answer, which is decoded by the user's code.
pub(crate) fn finish(finished: Finished, counts: &Arc<OutcomeCounters>) {
    if finished.answer.body().len() <= LARGE_RESULT {
        return end(finished, counts);
    }
    let counts = Arc::clone(counts);
    let placed = decoders().try_place(move || end(finished, &counts), Options::new());
    if let Err(rejected) = placed.map(crate::core::handle::Handle::detach) {
        rejected.into_work()();
    }
}

fn end(finished: Finished, counts: &OutcomeCounters) {
    let Finished { job, arguments, answer, .. } = finished;
    // Their memory can be used again before anybody learns of the end.
    drop(arguments);
    match verdict(&answer, &job.header().options.name) {
        Ok(result) => {
            if answer.kind == AnswerTag::Failed {
                job.header().mark_failed();
            }
            job.complete(result, counts)
        }
        Err(kind) => job.fail(kind, counts),
    };
    drop(answer);
    // If nobody wants the result it dies here, and its destructor is the user's too.
    drop_quietly(job);
}

fn decoders() -> &'static ThreadPool {
    static DECODERS: PerProcess<ThreadPool> = PerProcess::new();
    DECODERS.get(|| {
        let pool =
            ThreadPool::builder().name("offloop-decode").max_workers(crate::base::sync::cores()).unlisted();
        pool.build().expect("these settings are valid")
    })
}

//! The end of a job, from the record to its handle.

use offloop::remote::{Answer, Ender, unpack_error};
use offloop::{ErrorKind, Signature};

use super::handle::StoredEnd;
use crate::Ulid;
use crate::names::Part;
use crate::records::{End, Job, Outcome, Presence, Report, State};
use crate::store::Store;

/// Returns what the record says about a job, for one who has asked to stop it.
pub(super) fn stored_end(end: &End, me: Ulid) -> StoredEnd {
    match end.outcome {
        Outcome::Cancelled | Outcome::QueueTimeout if end.attempt == 0 => StoredEnd::NeverRan,
        Outcome::Cancelled if end.by != me => StoredEnd::Killed,
        Outcome::Cancelled => StoredEnd::Stopped,
        _ => StoredEnd::HadEnded,
    }
}

/// Adds the reason to the end of a job whose time in the queue is over, for those who know no more of the job than its id.
pub(super) fn explain(state: State, job: &Job) -> State {
    match state {
        State::End(end) if end.outcome == Outcome::QueueTimeout => {
            let kind = ErrorKind::QueueTimeout(job.queue_timeout().unwrap_or_default());
            State::End(Box::new(End { body: Report::of_error(&kind), ..*end }))
        }
        state => state,
    }
}

/// Ends the job, if its record is all that is needed. Else gives the ender back.
pub(super) fn end_at_once(ender: Ender, job: &Job, end: &End) -> Option<Ender> {
    if let Outcome::Lost | Outcome::NoSuchTask | Outcome::Expired | Outcome::QueueTimeout = end.outcome
        && let Some(kind) = said(&end.body)
    {
        ender.end(Err(kind));
        return None;
    }
    match end.outcome {
        Outcome::Returned | Outcome::Failed => match Report::decode(&end.body) {
            Ok(report) if report.blob.is_none() => give(ender, &report),
            Ok(_) => return Some(ender),
            Err(error) => ender.end(Err(unreadable(&error))),
        },
        Outcome::Cancelled => ender.end(Err(ErrorKind::Cancelled)),
        Outcome::QueueTimeout => {
            ender.end(Err(ErrorKind::QueueTimeout(job.queue_timeout().unwrap_or_default())));
        }
        Outcome::Expired => {
            let text = "the job lay in the queue for longer than the cluster remembers jobs. It may have run before, so \
                        it was not run again; it is among the dead jobs";
            ender.end(Err(ErrorKind::Unreachable(text.into())));
        }
        Outcome::Forgotten => {
            let text = "the cluster does not keep the job's end any more: results are kept for a shorter time than the \
                        fact that there was one. It is not run again";
            ender.end(Err(ErrorKind::Unreachable(text.into())));
        }
        Outcome::Lost | Outcome::NoSuchTask => return Some(ender),
    }
    None
}

/// Ends a job whose end needs more than its record.
pub(super) async fn end(store: &Store, ender: Ender, job: &Job, end: &End) {
    // The worker that ended it has said what it knows, unless it had no answer of the server.
    let told = Report::decode(&end.body).ok().and_then(|report| unpack_error(&report.error).ok());
    match (end.outcome, told) {
        (Outcome::Lost | Outcome::NoSuchTask, Some(kind)) => ender.end(Err(kind)),
        (Outcome::Lost, None) => {
            let worker = end.body.first_chunk().map(|bits| Ulid::from_bits(u128::from_be_bytes(*bits)));
            let workers = store.workers().await.unwrap_or_default();
            let host = workers.iter().find(|it| Some(it.worker) == worker).map(|it| it.host.clone());
            ender.end(Err(ErrorKind::Lost {
                worker: worker.map(|worker| worker.to_string()).unwrap_or_default(),
                host: host.unwrap_or_else(|| "unknown".to_owned()),
                attempt: end.attempt,
                silent_for: store.settings().lease,
            }));
        }
        (Outcome::NoSuchTask, None) => {
            let workers = store.workers().await.unwrap_or_default();
            ender.end(Err(no_such_task(job, &workers)));
        }
        _ => {
            let Ok(Report { blob: Some(blob), .. }) = Report::decode(&end.body) else { return };
            let bytes = loop {
                match store.get_blob(job.id, Part::Result(end.attempt), &blob).await {
                    Ok(bytes) => break bytes,
                    // The handle stays pending while the server is out of reach.
                    Err(crate::store::BlobError::Unreachable) if !ender.is_over() => {
                        tokio::time::sleep(store.settings().pause).await;
                    }
                    Err(error) => {
                        let text = format!("the job has ended, but its result cannot be had: {error}");
                        return ender.end(Err(ErrorKind::Unreachable(text.into())));
                    }
                }
            };
            match Report::decode(&bytes) {
                Ok(report) => give(ender, &report),
                Err(error) => ender.end(Err(unreadable(&error))),
            }
        }
    }
}

/// Returns the error that the worker has written into the end of a job that it has not run.
fn said(body: &[u8]) -> Option<ErrorKind> {
    unpack_error(&Report::decode(body).ok()?.error).ok()
}

fn give(ender: Ender, report: &Report) {
    if !report.stdout.is_empty() || !report.stderr.is_empty() || report.is_truncated {
        ender.output(&report.stdout, &report.stderr, report.is_truncated);
    }
    let result = if report.error.is_empty() {
        Ok(Answer::new(report.answer.clone()).failed(report.has_failed))
    } else {
        Err(unpack_error(&report.error).unwrap_or_else(|error| unreadable(&error)))
    };
    ender.end(result);
}

fn unreadable(error: &dyn std::fmt::Display) -> ErrorKind {
    ErrorKind::Decode(format!("the end of the job in the cluster: {error}"))
}

fn no_such_task(job: &Job, workers: &[Presence]) -> ErrorKind {
    let offers = workers.iter().flat_map(|worker| &worker.tasks).filter(|(name, _)| *name == job.task);
    let wanted = job.signature.first_chunk().map_or(0, |bits| u64::from_be_bytes(*bits));
    let mut offered: Vec<_> = offers.filter_map(|(_, offered)| offered.map(Signature::from_u64)).collect();
    offered.sort_unstable();
    offered.dedup();
    ErrorKind::NoSuchTask {
        task: job.task.clone(),
        wanted: Signature::from_u64(wanted),
        offered,
        workers: workers.iter().map(|worker| format!("{} on {}", worker.name, worker.host)).collect(),
    }
}

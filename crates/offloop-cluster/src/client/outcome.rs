//! The end of a job, from the record to its handle.

use offloop::remote::{Answer, Ender, unpack_error};
use offloop::{ErrorKind, Signature};

use super::handle::StoredEnd;
use crate::Ulid;
use crate::names::Part;
use crate::records::{End, Job, Outcome, Presence, Report};
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

/// Ends the job, if its record is all that is needed. Else gives the ender back.
pub(super) fn end_at_once(ender: Ender, job: &Job, end: &End) -> Option<Ender> {
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
        Outcome::Lost | Outcome::NoSuchTask => return Some(ender),
    }
    None
}

/// Ends a job whose end needs more than its record.
pub(super) async fn end(store: &Store, ender: Ender, job: &Job, end: &End) {
    match end.outcome {
        Outcome::Lost => {
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
        Outcome::NoSuchTask => {
            // The worker that ended it may have said what it knows.
            if let Some(kind) = Report::decode(&end.body).ok().and_then(|it| unpack_error(&it.error).ok()) {
                return ender.end(Err(kind));
            }
            let workers = store.workers().await.unwrap_or_default();
            ender.end(Err(no_such_task(job, &workers)));
        }
        _ => {
            let Ok(Report { blob: Some(blob), .. }) = Report::decode(&end.body) else { return };
            let mut pauses = 3;
            let bytes = loop {
                match store.get_blob(job.id, Part::Result(end.attempt), &blob).await {
                    Ok(bytes) => break bytes,
                    Err(crate::store::BlobError::Unreachable) if pauses > 0 && !ender.is_over() => {
                        pauses -= 1;
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

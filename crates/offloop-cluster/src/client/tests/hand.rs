//! A worker that a test plays.

use super::*;

/// A worker that the test plays.
pub(super) struct Hand {
    pub(super) store: Store,
    pub(super) me: Ulid,
}

impl Hand {
    pub(super) fn new(connection: Connection) -> Self {
        let store = wait(async move {
            let (store, _) = laid_out(&connection, "default", None).await;
            store
        });
        Self { store, me: Ulid::new() }
    }

    pub(super) fn pull(&self) -> Pull {
        self.store.pull("default", Band::Normal)
    }

    /// Takes the next job, in any band.
    pub(super) fn take(&self) -> (Message, Job) {
        let mut pull = self.pull();
        wait(async move {
            loop {
                if let Some(message) = pull.next(1, Duration::from_secs(1)).await.pop() {
                    let job = Job::decode(&message.record).unwrap();
                    return (message, job);
                }
            }
        })
    }

    pub(super) fn write(&self, job: &Job, expected: u64, state: &State) -> Written {
        let (store, place, bytes) = (self.store.clone(), Place::of(job), state.encode().unwrap());
        wait(async move { store.write(&place, expected, bytes, GUARD).await })
    }

    pub(super) fn claim(&self, job: &Job) -> u64 {
        match self.write(job, 0, &State::Claim { by: self.me, attempt: 1 }) {
            Written::Stored(revision) => revision,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn end(&self, job: &Job, claim: u64, outcome: Outcome, body: Vec<u8>) {
        let end = End { by: self.me, attempt: 1, outcome, body };
        let written = self.write(job, claim, &State::End(Box::new(end)));
        assert!(matches!(written, Written::Stored(_)), "{written:?}");
    }

    /// Takes the next job and ends it with this report.
    pub(super) fn perform(&self, outcome: Outcome, report: &Report) -> Job {
        let (message, job) = self.take();
        let claim = self.claim(&job);
        self.end(&job, claim, outcome, report.encode().unwrap());
        wait(async move { message.ack().await });
        job
    }
}

impl Hand {
    /// Claims a job with a key, in place of the state of its submission.
    pub(super) fn claim_keyed(&self, job: &Job) -> u64 {
        let (store, place) = (self.store.clone(), Place::of(job));
        let queued = wait(async move { store.read(&place).await.unwrap().unwrap() });
        assert!(matches!(State::decode(&queued.bytes).unwrap(), State::Queued { .. }));
        match self.write(job, queued.revision, &State::Claim { by: self.me, attempt: 1 }) {
            Written::Stored(revision) => revision,
            other => panic!("{other:?}"),
        }
    }
}

//! The states of a job and who moves it, as machines without input, output or a clock: events go in, actions come out.
//!
//! ```text
//!           PubAck              claim: CAS 0                 end: CAS claim
//! Waiting ─────────▶ Queued ─────────────────▶ Running(n, W) ─────────────────▶ Ended
//!  submitter           │ ▲                       │   │                            ▲  ▲
//!                      │ └── release: CAS claim ─┘   └── takeover: CAS claim ─────┘  │
//!                      └──────────── cancel, queue timeout: CAS by the submitter ────┘
//! ```
//!
//! Each arrow is one compare-and-set (CAS) on the job's one subject: a write names the revision that it replaces, and
//! the server refuses it if that is no longer the last. So a job ends once, and the end that a worker writes after
//! another has taken its job over is refused. If the answer to a write is lost, the subject is read: either the write is
//! there, or the machine decides anew from what is.
//!
//! - A [`Submission`] is a job at its submitter.
//! - A [`Delivery`] is a message with a job at a worker.
//!
//! The driver of a machine carries out each action, in order. For each *request* among them it hands back exactly one
//! answer, within [`Settings::answer`]: if the server has not answered by then, the answer is `Unknown`, and one that
//! comes later is dropped. A machine has at most one request at a time.
//!
//! The tests check both machines together against a model of the server and of the network: orders of events in which
//! answers and messages are lost, late or doubled, and workers die.

mod delivery;
#[cfg(test)]
mod model;
mod submission;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use delivery::{
    Action as DeliveryAction, Delivery, Event as DeliveryEvent, Terms, Timer as DeliveryTimer, Verdict,
};
pub use submission::{
    Action as SubmissionAction, Event as SubmissionEvent, Publication, Submission, Timer as SubmissionTimer,
};

use crate::records::State;

/// The place of a record among all those of its stream. 0 stands for no record.
pub type Revision = u64;

/// A state as it is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stored {
    /// The revision, which the next write has to name.
    pub revision: Revision,
    /// The state.
    pub state: State,
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Written {
    /// It is stored, as this revision.
    Stored(Revision),
    /// It was refused: the last revision is another one.
    Refused,
    /// There was no answer. It may be stored, now or later.
    Unknown,
}

/// The times that all parties of a namespace agree on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The silence after which a worker is taken for dead, and the time after which the server delivers a message again
    /// that no worker holds.
    pub lease: Duration,
    /// The interval in which a worker renews its hold on a message.
    pub progress: Duration,
    /// The longest wait for the answer to a request.
    pub answer: Duration,
    /// The time that is left, at the end of a lease, to kill a job that may not overlap with another start.
    pub margin: Duration,
    /// The interval in which a silent worker is asked.
    pub ask: Duration,
    /// The pause before a request without an answer is made again.
    pub pause: Duration,
    /// The time after which the message of a job that another worker runs is delivered again.
    pub busy: Duration,
    /// The time that is given to workers of another build to take a job.
    pub rollout: Duration,
    /// The time for which claims and ends are stored.
    pub remember: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            progress: Duration::from_secs(3),
            answer: Duration::from_secs(2),
            margin: Duration::from_secs(2),
            ask: Duration::from_secs(1),
            pause: Duration::from_secs(1),
            busy: Duration::from_secs(5),
            rollout: Duration::from_secs(60),
            remember: Duration::from_secs(24 * 60 * 60),
        }
    }
}

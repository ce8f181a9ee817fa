//! The channel between a pool and one worker process: a ring of calls in shared memory, and a socket for wake-ups.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `ring` | the layout of the shared memory, and the states of a slot |
//! | `message` | what a slot holds: headers, tags, and the check of everything that has come |
//! | `pool_end` | the pool's end: offers calls, takes answers |
//! | `worker_end` | the worker's end: claims calls, answers them |
//! | `segments` | the memory of the pool that a worker has been given |
//! | `template` | the messages between a pool and its template, on a socket of their own |

mod message;
mod pool_end;
mod ring;
mod segments;
pub(super) mod template;
#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
#[cfg(all(test, weak_memory))]
mod weak_model;
mod worker_end;

pub(super) use message::{AnswerTag, CAPTURE, CONTEXT, Malformed, PanicNote, STREAM, SlotHeader, WHOLE};
#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
pub(super) use message::{FAR, SPAN};
#[cfg(any(test, fuzzing))]
pub(super) use message::{Frame, FrameBody, Span, decode_frame};
#[cfg(any(test, fuzzing))]
pub(super) use pool_end::AnswerBody;
pub(super) use pool_end::{Answer, Link};
#[cfg(any(test, fuzzing))]
pub(super) use ring::DATA;
pub(super) use ring::{SLOTS, state};
pub(super) use worker_end::{Request, UNHEARD, WorkerEnd};

//! The worker's side of a process pool: it serves its link and runs tasks, or is a template that is forked.

pub(crate) mod constructor;
pub(crate) mod host;
pub(crate) mod main;
pub(crate) mod perform;
mod template;

//! The side of a worker process: it serves its link, runs tasks, and may be a template that is forked.

pub(crate) mod host;
pub(crate) mod main;

//! Runs tasks in worker processes where there are any, else on threads.
//!
//! For a service that is deployed on Linux and developed on other systems too. On threads a task that crashes takes the
//! program down, and a timeout does not end it.

use std::time::Duration;

use offloop::{BuildError, Call, Handle, OnCrash, ProcessPool};
use serde::de::DeserializeOwned;

/// Worker processes, or the threads that stand in for them.
#[derive(Debug, Clone)]
pub struct Workers(Option<ProcessPool>);

impl Workers {
    /// Starts worker processes, if this system has any.
    pub fn start() -> Result<Self, BuildError> {
        let pool = ProcessPool::builder()
            .name("portable")
            .max_workers(2)
            .on_crash(OnCrash::Isolate)
            .grace(Duration::from_secs(1));
        match pool.build() {
            Err(BuildError::Unsupported) => Ok(Self(None)),
            pool => pool.map(|pool| Self(Some(pool))),
        }
    }

    /// Runs a call. The error of a worker process is one of the handle's.
    pub fn run<R: DeserializeOwned + Send + 'static>(&self, call: Call<'static, R>) -> Handle<R> {
        match &self.0 {
            Some(pool) => pool.run(call),
            None => offloop::run_cpu(call),
        }
    }

    /// Returns whether these are processes.
    pub fn are_processes(&self) -> bool {
        self.0.is_some()
    }
}

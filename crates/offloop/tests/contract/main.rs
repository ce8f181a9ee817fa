//! One contract, and the executors of calls that keep it: each as far as it makes the promises.

#![cfg(all(feature = "process", target_os = "linux"))]

mod memory;
#[macro_use]
mod suite;

use std::time::Duration;

use memory::InMemory;
use offloop::remote::Remote;
use offloop::{Call, Handle, Inline, ItemStream, Prepared, ProcessPool, ShutdownReport, ThreadPool};
use suite::{Promise, Settings, Subject};

offloop::init_tests!();

struct InlineSubject;

impl Subject for InlineSubject {
    type Executor = Inline;

    fn open(_: Settings) -> Self {
        Self
    }

    fn executor(&self) -> &Inline {
        &Inline
    }

    fn lacks(promise: Promise) -> Option<&'static str> {
        Some(match promise {
            Promise::Queue | Promise::Backpressure => {
                "the submitter runs each job at once, so none is queued"
            }
            Promise::Kill => "a thread cannot be killed",
            Promise::Crash => "a job that crashes takes the program with it",
            Promise::Shutdown | Promise::Metrics => "it has no state",
            Promise::Stream => "only worker processes send items",
            Promise::Capture => "jobs share the output of their process",
        })
    }

    fn shut_down(&self, _: Duration) -> ShutdownReport {
        unreachable!("it promises no shutdown")
    }

    fn ended(&self) -> u64 {
        unreachable!("it promises no metrics")
    }

    fn stream(&self, _: Prepared<Call<'static, u64>>, _: usize) -> (Handle<u64>, ItemStream<String>) {
        unreachable!("it promises no items")
    }
}

/// The methods of a subject that is the executor itself.
macro_rules! is_its_executor {
    () => {
        type Executor = Self;

        fn executor(&self) -> &Self {
            self
        }

        fn shut_down(&self, drain: Duration) -> ShutdownReport {
            self.shutdown(drain).wait().unwrap()
        }

        fn ended(&self) -> u64 {
            self.metrics().outcomes.total()
        }
    };
}

impl Subject for ThreadPool {
    is_its_executor!();

    fn open(Settings { workers, capacity, on_full }: Settings) -> Self {
        Self::builder().max_workers(workers).queue_capacity(capacity).on_full(on_full).build().unwrap()
    }

    fn lacks(promise: Promise) -> Option<&'static str> {
        match promise {
            Promise::Kill => Some("a thread cannot be killed, but is asked to stop"),
            Promise::Crash => Some("a job that crashes takes the program with it"),
            Promise::Stream => Some("only worker processes send items"),
            Promise::Capture => Some("jobs share the output of their process"),
            Promise::Queue | Promise::Backpressure | Promise::Shutdown | Promise::Metrics => None,
        }
    }

    fn stream(&self, _: Prepared<Call<'static, u64>>, _: usize) -> (Handle<u64>, ItemStream<String>) {
        unreachable!("it promises no items")
    }
}

impl Subject for ProcessPool {
    is_its_executor!();

    fn open(Settings { workers, capacity, on_full }: Settings) -> Self {
        Self::builder().max_workers(workers).queue_capacity(capacity).on_full(on_full).build().unwrap()
    }

    fn lacks(_: Promise) -> Option<&'static str> {
        None
    }

    fn stream(
        &self,
        work: Prepared<Call<'static, u64>>,
        buffersize: usize,
    ) -> (Handle<u64>, ItemStream<String>) {
        ProcessPool::stream(self, work, buffersize)
    }
}

impl Subject for Remote<InMemory> {
    is_its_executor!();

    fn open(Settings { workers, capacity, on_full }: Settings) -> Self {
        let pool = ProcessPool::builder().max_workers(workers).build().unwrap();
        Self::new("in memory", InMemory::new(pool, workers, capacity, on_full))
    }

    fn lacks(_: Promise) -> Option<&'static str> {
        None
    }

    fn stream(
        &self,
        work: Prepared<Call<'static, u64>>,
        buffersize: usize,
    ) -> (Handle<u64>, ItemStream<String>) {
        Remote::stream(self, work, buffersize)
    }
}

contract!(inline, crate::InlineSubject);
contract!(thread_pool, offloop::ThreadPool);
contract!(process_pool, offloop::ProcessPool);
contract!(remote, offloop::remote::Remote<crate::memory::InMemory>);

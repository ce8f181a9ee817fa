//! The contract of all executors of calls, kept by a cluster: a server, and a worker in this process. Where no NATS server
//! is installed, the tests say so and pass. `cargo xtask test --only cluster` installs one.

#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "a test")]

#[macro_use]
#[path = "../../offloop/tests/contract/suite.rs"]
mod suite;

use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use offloop::{Call, Handle, ItemStream, Prepared, ProcessPool, ShutdownReport};
use offloop_cluster::embedded::{Embedded, StartError, USER};
use offloop_cluster::{Cluster, Credentials, Ulid, Worker};
use suite::{Promise, Settings, Subject};

offloop::init_tests!();

/// The address and the password of the server of all tests, which have a namespace each. `None` where none is installed.
static SERVER: LazyLock<Option<(String, String)>> =
    LazyLock::new(|| match Embedded::builder().directory(env!("CARGO_TARGET_TMPDIR")).start() {
        Ok(server) => {
            let access = (format!("nats://{}", server.address()), server.password().to_owned());
            // It ends with this process.
            std::mem::forget(server);
            Some(access)
        }
        Err(StartError::Missing(_)) => None,
        Err(error) => panic!("{error}"),
    });

/// The workers, which outlive their tests' executors.
static WORKERS: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

impl Subject for Cluster {
    type Executor = Self;

    fn is_missing() -> Option<&'static str> {
        SERVER.is_none().then_some("no NATS server is installed")
    }

    /// A queue holds the jobs that run, too.
    fn capacity(settings: Settings) -> usize {
        settings.capacity + settings.workers
    }

    fn open(settings: Settings) -> Self {
        let Settings { workers, on_full, .. } = settings;
        let (url, password) = SERVER.clone().unwrap();
        let credentials = Credentials::User { user: USER.to_owned(), password };
        let namespace = Ulid::new().to_string();
        let cluster = Self::builder(&url)
            .credentials(credentials.clone())
            .namespace(&namespace)
            .capacity(Self::capacity(settings) as u64)
            .on_full(on_full)
            .build();
        let worker = Worker::builder(&url)
            .credentials(credentials)
            .namespace(&namespace)
            .slots(workers)
            .pool(ProcessPool::builder().max_workers(workers).build().unwrap())
            .build();
        WORKERS.lock().unwrap().push(worker.unwrap());
        cluster.unwrap()
    }

    fn executor(&self) -> &Self {
        self
    }

    fn lacks(_: Promise) -> Option<&'static str> {
        None
    }

    fn shut_down(&self, drain: Duration) -> ShutdownReport {
        self.shutdown(drain).wait().unwrap()
    }

    fn ended(&self) -> u64 {
        self.metrics().outcomes.total()
    }

    fn stream(
        &self,
        work: Prepared<Call<'static, u64>>,
        buffersize: usize,
    ) -> (Handle<u64>, ItemStream<String>) {
        Cluster::stream(self, work, buffersize)
    }
}

contract!(cluster, offloop_cluster::Cluster);

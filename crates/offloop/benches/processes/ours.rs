//! offloop's process pool. Its results are awaited, or waited for by a blocked thread.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use offloop::{Blob, BlobMut, Handle, ProcessPool};
use tokio::runtime::Runtime;

use super::rows::there_and_back;
use super::{BURST, BYTE, Contender, Life, WORKERS, check, life, make, pages};
use crate::support::{Spread, median, per_second};

pub(crate) const AWAIT: &str = Await::NAME;
pub(crate) const WAIT: &str = Wait::NAME;
pub(crate) const BLOB: &str = "offloop Blob";

#[offloop::task]
fn nothing() {}

#[offloop::task]
fn count_pages(bytes: &[u8]) -> usize {
    pages(bytes)
}

#[offloop::task]
fn make_bytes(length: usize) -> Vec<u8> {
    make(length)
}

#[offloop::task]
fn count_pages_of_blob(bytes: Blob) -> usize {
    pages(&bytes)
}

#[offloop::task]
fn make_blob(length: usize) -> Blob {
    let mut blob = BlobMut::with_capacity(length);
    blob.resize(length, BYTE);
    blob.freeze()
}

#[offloop::task]
fn process_id() -> u32 {
    std::process::id()
}

/// A way to get the result of a handle.
pub(crate) trait Way {
    const NAME: &str;

    fn new() -> Self;

    /// Runs a workload to its end on this thread.
    fn drive<W: Future>(&self, workload: W) -> W::Output;

    async fn settle<T: Send + 'static>(handle: Handle<T>) -> Result<T, offloop::Error>;
}

/// `handle.await`, on a current-thread runtime of tokio.
pub(crate) struct Await(Runtime);

impl Way for Await {
    const NAME: &str = "offloop await";

    fn new() -> Self {
        Self(tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"))
    }

    fn drive<W: Future>(&self, workload: W) -> W::Output {
        self.0.block_on(workload)
    }

    async fn settle<T: Send + 'static>(handle: Handle<T>) -> Result<T, offloop::Error> {
        handle.await
    }
}

/// `handle.wait()`, on a thread without a runtime.
pub(crate) struct Wait;

impl Way for Wait {
    const NAME: &str = "offloop wait";

    fn new() -> Self {
        Self
    }

    /// The workload blocks this thread where it waits, so its future is never pending.
    fn drive<W: Future>(&self, workload: W) -> W::Output {
        block_on(workload)
    }

    async fn settle<T: Send + 'static>(handle: Handle<T>) -> Result<T, offloop::Error> {
        handle.wait()
    }
}

pub(crate) struct Ours<W> {
    way: W,
    pool: ProcessPool,
}

impl<W: Way> Ours<W> {
    pub(crate) fn start() -> Self {
        Self { way: W::new(), pool: ProcessPool::builder().max_workers(WORKERS).build().expect("a pool") }
    }

    async fn burst(&self) {
        let handles: Vec<_> = (0..BURST).map(|_| self.pool.run(nothing.with())).collect();
        for handle in handles {
            W::settle(handle).await.expect("a no-op succeeds");
        }
    }
}

impl<W: Way> Contender for Ours<W> {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn round_trips(&mut self, trips: usize) -> Option<Spread> {
        let mut times = Vec::with_capacity(trips);
        self.way.drive(async {
            for _ in 0..trips {
                let begin = Instant::now();
                W::settle(self.pool.run(nothing.with())).await.expect("a no-op succeeds");
                times.push(begin.elapsed());
            }
        });
        Some(Spread::of(times))
    }

    fn bursts(&mut self, bursts: usize) -> Option<f64> {
        let mut rates = Vec::with_capacity(bursts);
        self.way.drive(async {
            for _ in 0..bursts {
                let begin = Instant::now();
                self.burst().await;
                rates.push(per_second(BURST, begin.elapsed()));
            }
        });
        Some(median(rates))
    }

    fn argument(&mut self, bytes: &[u8]) -> Option<Duration> {
        self.way.drive(async {
            let begin = Instant::now();
            let pages = W::settle(self.pool.run(count_pages.with(bytes))).await.expect("it counts");
            let time = begin.elapsed();
            check(pages, bytes.len());
            Some(time)
        })
    }

    fn result(&mut self, length: usize) -> Option<Duration> {
        self.way.drive(async {
            let begin = Instant::now();
            let bytes = W::settle(self.pool.run(make_bytes.with(length))).await.expect("it makes");
            let pages = pages(&bytes);
            let time = begin.elapsed();
            check(pages, length);
            Some(time)
        })
    }

    fn rows(&mut self, count: u64) -> Option<Duration> {
        (W::NAME == WAIT).then(|| there_and_back(&self.pool, count))
    }

    fn life(&mut self) -> Option<Life> {
        let begin = Instant::now();
        let pool = ProcessPool::builder().max_workers(1).build().expect("a pool");
        let life = life(begin, |limit| {
            let handle = pool.run(process_id.with()).timeout(limit);
            self.way.drive(W::settle(handle)).map_err(|error| error.to_string())
        });
        // Waits until the worker has ended, so that it does not disturb the next contender.
        pool.shutdown(Duration::from_secs(1)).wait().expect("a report");
        Some(life)
    }
}

/// Bytes that the caller or the task makes in shared memory, and that are not copied.
pub(crate) struct Blobs(ProcessPool);

impl Blobs {
    pub(crate) fn start() -> Self {
        Self(ProcessPool::builder().max_workers(WORKERS).build().expect("a pool"))
    }
}

impl Contender for Blobs {
    fn name(&self) -> &'static str {
        BLOB
    }

    /// The blob is filled before the measured time begins, like one that was read or computed in place.
    fn argument(&mut self, bytes: &[u8]) -> Option<Duration> {
        let mut blob = self.0.blob(bytes.len());
        blob.extend_from_slice(bytes);
        let blob = blob.freeze();
        let begin = Instant::now();
        let pages = self.0.run(count_pages_of_blob.with(blob)).wait().expect("it counts");
        let time = begin.elapsed();
        check(pages, bytes.len());
        Some(time)
    }

    fn result(&mut self, length: usize) -> Option<Duration> {
        let begin = Instant::now();
        let blob = self.0.run(make_blob.with(length)).wait().expect("it makes");
        let pages = pages(&blob);
        let time = begin.elapsed();
        check(pages, length);
        Some(time)
    }
}

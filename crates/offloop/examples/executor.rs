//! An executor of your own: it passes each job to a pool and records how long the job took.
//!
//! `cargo run --example executor`

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use offloop::{Executor, Job, Rejected, ThreadPool};

#[derive(Clone)]
struct Recorder<E> {
    inner: E,
    times: Arc<Mutex<Vec<(String, Duration)>>>,
}

impl<E: Executor> Executor for Recorder<E> {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        let (name, times) = (job.name().to_owned(), Arc::clone(&self.times));
        self.inner.execute(job.around(move |run| {
            let began = Instant::now();
            run();
            times.lock().unwrap().push((name, began.elapsed()));
        }))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = ThreadPool::builder().max_workers(2).build()?;
    let recorder = Recorder { inner: threads.clone(), times: Arc::default() };
    for milliseconds in [5, 1, 3] {
        let nap = move || std::thread::sleep(Duration::from_millis(milliseconds));
        let work = offloop::prepare(nap).name(format!("a nap of {milliseconds} ms"));
        offloop::run_in_executor(&recorder, work).wait()?;
    }
    // The hook around a job returns after the job has ended. So wait until the pool has ended: then all records are
    // there.
    threads.shutdown(Duration::from_secs(1)).wait()?;
    for (name, time) in recorder.times.lock().unwrap().iter() {
        println!("{name:<16}{:>8.2} ms", time.as_secs_f64() * 1e3);
    }
    Ok(())
}

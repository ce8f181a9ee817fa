//! Promises of a thread pool's metrics: each end is counted once, times are those that passed, states are true.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Gate, comes_back, end, eventually, occupy, single};
use offloop::metrics::{self, Activity, Metrics, Outcome};
use offloop::{Executor, Job, JobState, OnFull, Rejected, ThreadPool, prepare};

/// The outcomes that were seen, with their counts.
fn seen(metrics: &Metrics) -> Vec<(Outcome, u64)> {
    metrics.outcomes.iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_job_is_counted_before_anybody_can_know_that_it_has_ended() {
    let pool = single();
    for job in 1..=2000 {
        end(pool.run(|| ())).unwrap();
        let metrics = pool.metrics();
        assert_eq!(metrics.outcomes[Outcome::Completed], job);
        assert_eq!((metrics.queue_wait.count(), metrics.run_time.count()), (job, job));
    }
    assert_eq!(seen(&pool.metrics()), [(Outcome::Completed, 2000)]);
}

#[test]
fn a_job_that_its_deadline_ends_is_counted_before_its_state_says_so() {
    let pool = single();
    let (gate, busy) = occupy(&pool);
    for job in 1..=1000 {
        let handle = pool.run(prepare(|| ()).queue_timeout(Duration::from_micros(50)));
        // Not by a wait, which the timer's thread would wake only after it has done everything else.
        while handle.state() != JobState::Ended {
            std::hint::spin_loop();
        }
        assert_eq!(pool.metrics().outcomes[Outcome::QueueTimeout], job);
    }
    gate.open();
    end(busy).unwrap();
}

#[test]
fn a_job_that_exceeds_its_run_timeout_on_the_submitting_thread_is_counted() {
    let pool =
        ThreadPool::builder().max_workers(1).queue_capacity(1).on_full(OnFull::CallerRuns).build().unwrap();
    let (gate, busy) = occupy(&pool);
    let queued = pool.run(|| ());
    let slow = || while !offloop::job::is_cancelled() {};
    end(pool.run(prepare(slow).run_timeout(Duration::from_millis(1)))).unwrap_err();
    assert_eq!(seen(&pool.metrics()), [(Outcome::RunTimeout, 1)]);
    gate.open();
    end(busy).unwrap();
    end(queued).unwrap();
}

#[test]
fn each_way_to_end_is_counted_as_what_it_was_and_once() {
    let pool =
        ThreadPool::builder().max_workers(1).queue_capacity(4).on_full(OnFull::Reject).build().unwrap();
    end(pool.run(|| panic!("on purpose"))).unwrap_err();
    end(pool.run(offloop::embed::mark_failed)).unwrap();

    let (gate, busy) = occupy(&pool);
    let cancelled = pool.run(|| ());
    cancelled.cancel();
    drop(pool.run(|| ()));
    end(pool.run(prepare(|| ()).queue_timeout(Duration::from_millis(1)))).unwrap_err();
    let queued: Vec<_> = (0..4).map(|_| pool.run(|| ())).collect();
    end(pool.run(|| ())).unwrap_err();
    assert!(pool.try_run(|| ()).is_err());
    assert_eq!(pool.cancel_queued(), 4);
    drop(queued);
    gate.open();
    end(busy).unwrap();

    let slow =
        pool.run(prepare(|| while !offloop::job::is_cancelled() {}).run_timeout(Duration::from_millis(1)));
    end(slow).unwrap_err();
    comes_back("the shutdown", {
        let pool = pool.clone();
        move || pool.shutdown(Duration::from_secs(30)).wait().unwrap()
    });
    end(pool.run(|| ())).unwrap_err();
    let metrics = pool.metrics();
    assert_eq!(
        seen(&metrics),
        [
            (Outcome::Completed, 1),
            (Outcome::Failed, 1),
            (Outcome::Panicked, 1),
            (Outcome::Cancelled, 6),
            (Outcome::QueueTimeout, 1),
            (Outcome::RunTimeout, 1),
            (Outcome::Rejected, 3),
        ]
    );
    // Jobs that ran, the one whose run timeout passed meanwhile included.
    assert_eq!(metrics.run_time.count(), 4);
}

#[test]
fn jobs_that_are_shed_or_run_by_their_caller_are_counted_too() {
    let pool =
        ThreadPool::builder().max_workers(1).queue_capacity(1).on_full(OnFull::ShedOldest).build().unwrap();
    let (gate, busy) = occupy(&pool);
    let shed = pool.run(|| ());
    let kept = pool.run(|| ());
    end(shed).unwrap_err();
    gate.open();
    end(busy).unwrap();
    end(kept).unwrap();
    assert_eq!(seen(&pool.metrics()), [(Outcome::Completed, 2), (Outcome::Shed, 1)]);

    let pool =
        ThreadPool::builder().max_workers(1).queue_capacity(1).on_full(OnFull::CallerRuns).build().unwrap();
    let (gate, busy) = occupy(&pool);
    let queued = pool.run(|| ());
    end(pool.run(|| ())).unwrap();
    assert_eq!(pool.metrics().outcomes[Outcome::Completed], 1);
    gate.open();
    end(busy).unwrap();
    end(queued).unwrap();
}

#[test]
fn a_job_cancelled_while_it_runs_is_counted_at_once_and_its_time_when_it_returns() {
    let pool = single();
    let (gate, busy) = occupy(&pool);
    busy.cancel();
    let metrics = pool.metrics();
    assert_eq!(seen(&metrics), [(Outcome::Cancelled, 1)]);
    assert_eq!(metrics.run_time.count(), 0);
    gate.open();
    eventually("its time is known", || pool.metrics().run_time.count() == 1);
    assert_eq!(seen(&pool.metrics()), [(Outcome::Cancelled, 1)]);
}

#[test]
fn the_histograms_hold_the_times_that_passed() {
    let pool = single();
    let nap = || std::thread::sleep(Duration::from_millis(40));
    let (gate, busy) = occupy(&pool);
    std::thread::sleep(Duration::from_millis(40));
    let handles: Vec<_> = (0..3).map(|_| pool.run(nap)).collect();
    // None begins before all are there: the third waits for two others.
    gate.open();
    end(busy).unwrap();
    for handle in handles {
        end(handle).unwrap();
    }
    let Metrics { run_time, queue_wait, .. } = pool.metrics();
    assert!(run_time.sum() >= Duration::from_millis(120), "{:?}", run_time.sum());
    assert!(queue_wait.sum() >= Duration::from_millis(120), "{:?}", queue_wait.sum());
    assert!(run_time.quantile(0.0).unwrap() >= Duration::from_millis(30));
    assert!(queue_wait.quantile(1.0).unwrap() >= Duration::from_millis(70));
}

#[test]
fn the_states_of_workers_and_queue_are_reported() {
    let pool = ThreadPool::builder().max_workers(2).build().unwrap();
    let (gate, busy) = occupy(&pool);
    let waits = pool.run({
        let pool = pool.clone();
        move || pool.run(|| ()).wait()
    });
    end(waits).unwrap().unwrap();
    let (second, other) = occupy(&pool);
    let queued = pool.run(|| ());
    let metrics = pool.metrics();
    assert_eq!((metrics.running, metrics.queued), (2, 1));
    assert_eq!((metrics.workers.busy, metrics.workers.blocked), (2, 0));
    gate.open();
    second.open();
    for handle in [busy, other, queued] {
        end(handle).unwrap();
    }
    eventually("they are idle", || {
        let metrics = pool.metrics();
        metrics.workers.busy == 0 && metrics.workers.idle >= 2 && metrics.running == 0
    });
}

#[test]
fn a_job_that_waits_for_another_is_counted_as_blocked() {
    let pool = single();
    let gate = Gate::new();
    let waits = pool.run({
        let (pool, gate) = (pool.clone(), gate.clone());
        move || pool.run(move || gate.pass()).wait()
    });
    eventually("one is blocked, its stand-in is busy", || {
        let workers = pool.metrics().workers;
        (workers.blocked, workers.busy) == (1, 1)
    });
    gate.open();
    end(waits).unwrap().unwrap();
}

#[test]
fn counts_of_threads_stay_when_they_leave() {
    let pool = ThreadPool::builder().max_workers(4).idle_timeout(Duration::from_millis(1)).build().unwrap();
    for _ in 0..20 {
        let handles: Vec<_> =
            (0..4).map(|_| pool.run(|| std::thread::sleep(Duration::from_millis(1)))).collect();
        for handle in handles {
            end(handle).unwrap();
        }
        eventually("they leave", || pool.worker_count() == 0);
    }
    let metrics = pool.metrics();
    assert_eq!((metrics.outcomes[Outcome::Completed], metrics.run_time.count()), (80, 80));
}

#[test]
fn a_wrapped_job_is_counted_by_the_pool_that_runs_it() {
    struct Wraps(ThreadPool);
    impl Executor for Wraps {
        fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
            self.0.execute(job.around(|run| run()))
        }
    }
    let executor = Wraps(single());
    end(offloop::run_in_executor(&executor, || ())).unwrap();
    end(offloop::run_in_executor(&executor, || panic!("on purpose"))).unwrap_err();
    assert_eq!(seen(&executor.0.metrics()), [(Outcome::Completed, 1), (Outcome::Panicked, 1)]);
}

#[test]
fn all_pools_are_listed_until_they_end() {
    let named = |name: &str| metrics::all().iter().filter(|metrics| &*metrics.pool == name).count();
    let pool = ThreadPool::builder().name("for-a-while").build().unwrap();
    assert_eq!(named("for-a-while"), 1);
    end(pool.run(|| ())).unwrap();
    drop(pool);
    eventually("it is gone", || named("for-a-while") == 0);
    end(offloop::run(|| ())).unwrap();
    assert_eq!(named("offloop-io"), 1);
}

fn burn(time: Duration) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn there_is_advice_once_about_a_task_that_computes_on_a_pool_for_waiting() {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reported);
    let pool = ThreadPool::builder()
        .name("io")
        .max_workers(1)
        .activity(Activity::Waits)
        .on_advice(move |advice| sink.lock().unwrap().push(advice.to_string()))
        .build()
        .unwrap();
    // Other programs take the cores too, so it may need more jobs than the minimum.
    for _ in 0..100 {
        end(pool.run(prepare(|| burn(Duration::from_millis(20))).name("parse"))).unwrap();
        end(pool.run(prepare(|| std::thread::sleep(Duration::from_millis(3))).name("query"))).unwrap();
        end(pool.run(|| ())).unwrap();
        if reported.lock().unwrap().len() == 1 {
            break;
        }
    }
    end(pool.run(prepare(|| burn(Duration::from_millis(20))).name("parse"))).unwrap();
    let reported = reported.lock().unwrap();
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(reported[0].starts_with("`parse` on the pool `io` was on a core for "), "{reported:?}");
    assert!(reported[0].contains("run_cpu"));
    let advice = pool.metrics().advice;
    assert_eq!((advice.len(), advice[0].task.as_str(), advice[0].activity), (1, "parse", Activity::Computes));
}

/// Runs jobs that only wait until there is advice about them. Returns their number.
///
/// The time in which a job had no core does not count, so on a busy machine it takes more of them.
fn nap_until_there_is_advice(pool: &ThreadPool) -> u64 {
    for naps in 1..100 {
        end(pool.run(prepare(|| std::thread::sleep(Duration::from_millis(210))).name("nap"))).unwrap();
        if !pool.metrics().advice.is_empty() {
            assert!(naps >= 5, "advice after {naps} jobs");
            return naps;
        }
    }
    panic!("no advice after 100 jobs");
}

#[test]
fn there_is_advice_about_a_task_that_only_waits_on_a_pool_for_computing() {
    let pool = ThreadPool::builder().activity(Activity::Computes).build().unwrap();
    nap_until_there_is_advice(&pool);
    let advice = pool.metrics().advice;
    assert_eq!((advice.len(), advice[0].activity), (1, Activity::Waits));
    assert!(advice[0].to_string().contains("threads (`run`) are the place"));
}

#[test]
fn a_panic_in_the_advice_hook_does_not_harm_the_pool() {
    let pool = ThreadPool::builder()
        .max_workers(1)
        .activity(Activity::Computes)
        .on_advice(|_| panic!("on purpose"))
        .build()
        .unwrap();
    let naps = nap_until_there_is_advice(&pool);
    end(pool.run(|| ())).unwrap();
    assert_eq!((pool.metrics().advice.len(), pool.metrics().outcomes[Outcome::Completed]), (1, naps + 1));
}

#[test]
fn a_prometheus_parser_reads_the_page() {
    let pool = ThreadPool::builder().name("odd \"name\"\\\n").max_workers(1).build().unwrap();
    let twin = ThreadPool::builder().name("odd \"name\"\\\n").max_workers(1).build().unwrap();
    for pool in [&pool, &twin] {
        end(pool.run(|| std::thread::sleep(Duration::from_millis(5)))).unwrap();
    }
    let page = metrics::prometheus(&[pool.metrics(), twin.metrics()]);
    let scrape = prometheus_parse::Scrape::parse(page.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let completed: Vec<_> = scrape
        .samples
        .iter()
        .filter(|sample| {
            sample.metric == "offloop_jobs_total" && sample.labels.get("outcome") == Some("completed")
        })
        .collect();
    assert_eq!(completed.len(), 1, "pools of one name are added up");
    assert!(
        matches!(completed[0].value, prometheus_parse::Value::Counter(count) if (count - 2.0).abs() < 0.1)
    );
    let run = scrape.samples.iter().find(|sample| sample.metric == "offloop_run_seconds").unwrap();
    let prometheus_parse::Value::Histogram(buckets) = &run.value else { panic!("{run:?}") };
    assert!(
        buckets
            .windows(2)
            .all(|pair| pair[0].count <= pair[1].count && pair[0].less_than < pair[1].less_than)
    );
    assert_eq!(buckets.last().map(|bucket| (bucket.less_than, bucket.count)), Some((f64::INFINITY, 2.0)));
    let below_4_ms =
        buckets.iter().filter(|bucket| bucket.less_than < 0.004).all(|bucket| bucket.count < 0.5);
    assert!(below_4_ms, "{buckets:?}");
    assert!(page.contains(r#"pool="odd \"name\"\\\n""#), "{page}");
}

#[cfg(feature = "metrics")]
#[test]
fn the_publisher_sends_counts_as_they_are_and_each_new_time_once() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let pool = ThreadPool::builder().name("published").max_workers(1).build().unwrap();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let mut publisher = metrics::Publisher::new();
    let mut publish = || {
        ::metrics::with_local_recorder(&recorder, || publisher.publish(&[pool.metrics()]));
        let mut counts = (0, 0);
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let is_completed = key.key().labels().any(|label| label.value() == "completed");
            match (key.key().name(), value) {
                ("offloop_jobs_total", DebugValue::Counter(count)) if is_completed => counts.0 = count,
                ("offloop_run_seconds", DebugValue::Histogram(times)) => counts.1 = times.len(),
                _ => {}
            }
        }
        counts
    };
    end(pool.run(|| ())).unwrap();
    end(pool.run(|| ())).unwrap();
    assert_eq!(publish(), (2, 2));
    end(pool.run(|| ())).unwrap();
    assert_eq!(publish(), (3, 1));
    assert_eq!(publish().1, 0);
}

//! `offloop::remote`: what carriers and the far side can rely on, beside the contract that all executors keep.

#![cfg(all(feature = "process", target_os = "linux"))]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{GIVE_UP, end, eventually};
use offloop::metrics::PoolKind;
use offloop::remote::{
    Answer, Carrier, Encoded, Ender, Instructions, NamedCall, Outbound, Remote, pack_error, perform, tasks,
    unpack_error,
};
use offloop::{
    Blob, ErrorKind, Handle, JobId, JobState, Prepared, ProcessPool, Rejected, Retry, Signature, WorkerDied,
    prepare,
};
use serde::{Deserialize, Deserializer, Serialize};

offloop::init_tests!();

#[track_caller]
fn error<T: std::fmt::Debug + Send + 'static>(handle: Handle<T>) -> ErrorKind {
    end(handle).expect_err("the job has a result").into_kind()
}

#[offloop::task(name = "remote:double")]
fn double(number: u64) -> u64 {
    2 * number
}

#[offloop::task(name = "remote:join")]
fn join(blobs: Vec<Blob>) -> Blob {
    blobs.iter().flat_map(|blob| blob.iter().copied()).collect::<Vec<u8>>().into()
}

#[offloop::task(name = "remote:forever")]
fn forever() -> u64 {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[offloop::task(name = "remote:crash")]
fn crash() -> u64 {
    std::process::abort()
}

#[offloop::task(name = "remote:fails")]
fn fails() -> u64 {
    offloop::embed::mark_failed();
    5
}

/// Counts how often it is decoded, and takes as long as the test says.
#[derive(Debug, Serialize)]
struct Slow(u64);

static DECODED: AtomicUsize = AtomicUsize::new(0);
static HOLD: AtomicBool = AtomicBool::new(false);

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::SeqCst);
        while HOLD.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        u64::deserialize(deserializer).map(Self)
    }
}

#[offloop::task(name = "remote:slow")]
fn slow(value: Slow) -> Slow {
    value
}

/// A carrier that keeps what it is given until the test ends it.
#[derive(Default, Clone)]
struct Kept(Arc<KeptState>);

#[derive(Default)]
struct KeptState {
    jobs: Mutex<HashMap<JobId, (Outbound, Ender)>>,
    cancelled: Mutex<Vec<JobId>>,
}

impl Kept {
    fn take(&self, id: JobId) -> (Outbound, Ender) {
        self.0.jobs.lock().unwrap().remove(&id).expect("the carrier has the job")
    }

    fn cancelled(&self) -> Vec<JobId> {
        self.0.cancelled.lock().unwrap().clone()
    }
}

impl Carrier for Kept {
    fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
        assert_eq!(outbound.id(), ender.id());
        self.0.jobs.lock().unwrap().insert(outbound.id(), (outbound, ender));
        Ok(())
    }

    fn cancel(&self, job: JobId) {
        self.0.cancelled.lock().unwrap().push(job);
    }
}

fn kept() -> (Remote<Kept>, Kept) {
    let carrier = Kept::default();
    (Remote::new("kept", carrier.clone()), carrier)
}

fn answer(number: u64) -> Answer {
    Answer::new(rmp_serde::to_vec_named(&number).unwrap())
}

fn pool() -> ProcessPool {
    ProcessPool::builder().max_workers(1).build().unwrap()
}

fn signature_of(name: &str) -> Signature {
    tasks().into_iter().find(|task| task.name == name).unwrap().signature
}

fn received(task: &str, arguments: &[u8]) -> Outbound {
    let arguments = arguments.to_vec();
    Outbound::received(task, signature_of(task), arguments, Instructions::default()).unwrap()
}

#[test]
fn a_call_leaves_with_all_that_its_caller_has_asked_for() {
    let (remote, carrier) = kept();
    let captured = offloop::Captured::new(77);
    let work =
        prepare(double.with(300)).name("mine").priority(-3).queue_timeout(GIVE_UP).run_timeout(GIVE_UP * 2);
    let work = work.retry(Retry::times(4).backoff(Duration::from_secs(2))).capture(&captured).carry(*b"ctx");
    let handle = remote.run(work.request("7f"));
    let (outbound, ender) = carrier.take(handle.id());
    let Instructions { name, priority, queue_timeout, run_timeout, retry, capture, carried, request, .. } =
        outbound.instructions().clone();
    assert_eq!(
        (&*name, priority, queue_timeout, run_timeout),
        ("mine", -3, Some(GIVE_UP), Some(GIVE_UP * 2))
    );
    let retry = retry.unwrap();
    assert_eq!((retry.max_retries(), retry.first_pause()), (4, Duration::from_secs(2)));
    assert_eq!((capture, carried.as_deref(), request.as_deref()), (Some(77), Some(&b"ctx"[..]), Some("7f")));
    assert_eq!((outbound.task(), outbound.signature()), ("remote:double", signature_of("remote:double")));
    // Readable without this crate: MessagePack, one argument after the other.
    assert_eq!(rmp_serde::from_slice::<u64>(outbound.arguments()).unwrap(), 300);
    ender.end(Ok(answer(600)));
    assert_eq!(end(handle).unwrap(), 600);
}

#[test]
fn a_handle_shows_how_far_its_job_is() {
    let (remote, carrier) = kept();
    let mut handle = remote.run(double.with(1));
    let (_, ender) = carrier.take(handle.id());
    assert_eq!((handle.state(), remote.queued(), remote.running()), (JobState::Waiting, 1, 0));
    ender.accept();
    handle.wait_accepted();
    assert_eq!(handle.state(), JobState::Queued);
    assert!(ender.start());
    assert_eq!((handle.state(), remote.queued(), remote.running()), (JobState::Running, 0, 1));
    assert!(ender.release());
    assert_eq!(handle.state(), JobState::Queued);
    assert!(ender.start());
    ender.end(Ok(answer(2)));
    assert_eq!(end(handle).unwrap(), 2);
    let metrics = remote.metrics();
    assert_eq!((metrics.outcomes.total(), metrics.retried, metrics.queued + metrics.running), (1, 1, 0));
    assert_eq!((metrics.queue_wait.count(), metrics.run_time.count()), (2, 1));
}

#[test]
fn a_dropped_ender_is_an_error_that_says_so() {
    let (remote, carrier) = kept();
    let handle = remote.run(double.with(1));
    drop(carrier.take(handle.id()));
    let kind = error(handle);
    assert!(matches!(&kind, ErrorKind::Unreachable(text) if text.contains("dropped")), "{kind:?}");
    assert!(carrier.cancelled().is_empty());
    assert_eq!(remote.metrics().outcomes.total(), 1);
}

#[test]
fn an_ender_has_no_effect_after_the_end() {
    let (remote, carrier) = kept();
    let handle = remote.run(double.with(1));
    let id = handle.id();
    assert!(handle.cancel());
    assert_eq!(carrier.cancelled(), [id]);
    let (_, ender) = carrier.take(id);
    ender.accept();
    assert!(ender.is_over() && !ender.start() && !ender.release());
    ender.end(Ok(answer(2)));
    assert!(matches!(error(handle), ErrorKind::Cancelled));
    assert_eq!(carrier.cancelled(), [id], "a carrier is told once");
    assert_eq!(remote.metrics().outcomes.total(), 1);
}

#[test]
fn an_executor_elsewhere_is_among_all_metrics_until_it_has_ended() {
    let carrier = Kept::default();
    let remote = Remote::new("among all", carrier.clone());
    let find = || offloop::metrics::all().into_iter().find(|metrics| &*metrics.pool == "among all");
    let handle = remote.run(double.with(4));
    let metrics = find().unwrap();
    assert_eq!((metrics.kind, metrics.queued, metrics.running), (PoolKind::Remote, 1, 0));
    let page = offloop::metrics::prometheus(&[metrics]);
    assert!(page.contains("pool=\"among all\",kind=\"remote\""), "{page}");
    remote.close();
    assert!(find().is_some(), "it has a job");
    carrier.take(handle.id()).1.end(Ok(answer(8)));
    assert!(find().is_none());
}

#[cfg(feature = "observe")]
#[test]
fn the_live_view_shows_what_runs_elsewhere_and_cancels_it() {
    use offloop::observe::{Handler, Peer, Reply, Request};

    let carrier = Kept::default();
    let remote = Remote::new("in view", carrier.clone());
    let runs = remote.run(prepare(double.with(4)).request("r-7"));
    let waits = remote.run(double.with(5));
    let (_outbound, ender) = carrier.take(runs.id());
    assert!(ender.start());
    let snapshot = offloop::observe::snapshot();
    let shown = snapshot.pools.iter().find(|pool| pool.name == "in view").unwrap();
    assert_eq!((shown.kind.as_str(), shown.capacity, shown.max_workers), ("remote", None, 0));
    assert_eq!((shown.queued, shown.running), (1, 1));
    assert!(shown.oldest_queued.is_some() && shown.workers.is_empty());
    let [job] = &shown.jobs[..] else { panic!("{:?}", shown.jobs) };
    assert_eq!((job.id, job.request.as_deref()), (runs.id().as_u64(), Some("r-7")));

    let handler = Handler::builder().allow_cancel(true).build();
    let cancel = |job: JobId| {
        let path = &format!("/jobs/{}/{job}/cancel", std::process::id());
        let headers: &[(&str, &[u8])] = &[("X-Offloop", b"1")];
        let request = Request { method: "POST", path, query: "", headers, peer: Peer::Socket };
        match handler.handle(&request) {
            Reply::Response(response) => response.status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((cancel(waits.id()), cancel(runs.id())), (404, 202), "only one runs");
    assert!(matches!(error(runs), ErrorKind::Cancelled));
    assert_eq!(carrier.cancelled().len(), 1);
}

#[test]
fn a_carrier_is_not_told_of_an_end_before_it_has_the_call() {
    /// Keeps the calls, but gives the job time to pass its limit first.
    struct Late(Kept);

    impl Carrier for Late {
        fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
            eventually("the job's limit has passed", || ender.is_over());
            assert!(self.0.cancelled().is_empty());
            self.0.carry(outbound, ender)
        }

        fn cancel(&self, job: JobId) {
            self.0.cancel(job);
        }
    }

    let kept = Kept::default();
    let remote = Remote::new("late", Late(kept.clone()));
    let handle = remote.run(prepare(double.with(1)).queue_timeout(Duration::from_millis(5)));
    assert_eq!(kept.cancelled(), [handle.id()]);
    assert!(matches!(error(handle), ErrorKind::QueueTimeout(_)));
    assert_eq!((remote.queued(), remote.metrics().outcomes.total()), (0, 1));
}

#[test]
fn what_a_carrier_refuses_comes_back() {
    struct Full;

    impl Carrier for Full {
        fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
            assert!(outbound.instructions().never_wait || outbound.arguments() == [7]);
            Err(Rejected::new(ender, ErrorKind::QueueFull { capacity: 3 }))
        }

        fn cancel(&self, _: JobId) {
            panic!("the carrier has nothing");
        }
    }

    let remote = Remote::new("full", Full);
    assert!(matches!(error(remote.run(double.with(7))), ErrorKind::QueueFull { capacity: 3 }));
    let rejected = remote.try_run(double.with(21)).unwrap_err();
    assert!(matches!(rejected.kind(), ErrorKind::QueueFull { capacity: 3 }));
    assert_eq!(offloop::run(rejected.into_work()).wait().unwrap(), 42);
    assert_eq!((remote.queued(), remote.metrics().outcomes.total()), (0, 2));
}

#[test]
fn a_slow_deserialize_holds_up_neither_the_carrier_nor_the_far_side() {
    let (remote, carrier) = kept();
    let handle = remote.run(slow.with(Slow(9)));
    let (outbound, ender) = carrier.take(handle.id());
    let before = DECODED.load(Ordering::SeqCst);
    let performed = perform(&pool(), outbound).unwrap().wait();
    assert_eq!(DECODED.load(Ordering::SeqCst), before, "the far side decodes nothing");
    HOLD.store(true, Ordering::SeqCst);
    let carrier = std::thread::spawn(|| ender.end(performed.result));
    eventually("it is decoded", || DECODED.load(Ordering::SeqCst) > before);
    eventually("the carrier's thread goes on", || carrier.is_finished());
    assert_ne!(handle.state(), JobState::Ended, "it is still being decoded");
    HOLD.store(false, Ordering::SeqCst);
    assert_eq!(end(handle).unwrap().0, 9);
}

#[test]
fn blobs_travel_within_the_bytes() {
    let (remote, carrier) = kept();
    let large: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let blobs = vec![Blob::from(large.clone()), Blob::from(vec![1, 2, 3]), Blob::from(large.clone())];
    let handle = remote.run(join.with(blobs));
    let (outbound, ender) = carrier.take(handle.id());
    let arguments = outbound.into_arguments();
    assert!(arguments.len() > 400_000);
    let performed = perform(&pool(), received("remote:join", &arguments)).unwrap().wait();
    ender.end(performed.result);
    let joined = end(handle).unwrap();
    assert_eq!(*joined, [&large[..], &[1, 2, 3], &large[..]].concat());
}

#[test]
fn a_job_that_declares_itself_failed_counts_as_failed_on_the_near_side() {
    let (remote, carrier) = kept();
    let handle = remote.run(fails.with());
    let (outbound, ender) = carrier.take(handle.id());
    let answer = perform(&pool(), outbound).unwrap().wait().result.unwrap();
    assert!(answer.has_failed);
    ender.end(Ok(answer));
    assert_eq!(end(handle).unwrap(), 5);
    assert_eq!(remote.metrics().outcomes[offloop::metrics::Outcome::Failed], 1);
}

#[test]
fn a_call_of_an_unknown_task_or_of_another_signature_does_not_run() {
    let pool = pool();
    let refused = |task: &str, signature| {
        let outbound = Outbound::received(task, signature, vec![1], Instructions::default()).unwrap();
        match perform(&pool, outbound).unwrap_err() {
            ErrorKind::NoSuchTask { task: named, wanted, offered, .. } => {
                assert_eq!((&*named, wanted), (task, signature));
                offered
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused("remote:none", Signature::from_u64(1)), []);
    let own = signature_of("remote:double");
    assert_eq!(refused("remote:double", Signature::from_u64(own.as_u64() ^ 1)), [own]);
    assert_eq!(pool.metrics().outcomes.total(), 0);
}

/// The near side needs no function for it, only the type of the result.
#[test]
fn a_task_of_another_program_is_called_by_its_name() {
    let (remote, carrier) = kept();
    let call: NamedCall<u64> = NamedCall::new("remote:double", &(21_u64,));
    let handle = remote.run(prepare(call).priority(3));
    assert_eq!(handle.name(), "remote:double");
    let (outbound, ender) = carrier.take(handle.id());
    assert_eq!((outbound.task(), outbound.signature()), ("remote:double", NamedCall::<u64>::ANY));
    assert_eq!(outbound.instructions().priority, 3);
    let performed = perform(&pool(), outbound).unwrap().wait();
    ender.end(performed.result);
    assert_eq!(end(handle).unwrap(), 42);

    let raw = remote.run(NamedCall::<Encoded>::encoded("elsewhere", vec![0xc1, 1]));
    let (outbound, ender) = carrier.take(raw.id());
    assert_eq!(outbound.arguments(), [0xc1, 1]);
    // A result that is no MessagePack, for one who asks for it as it is.
    ender.end(Ok(Answer::new(vec![0xc1, 2])));
    assert_eq!(end(raw).unwrap(), Encoded(vec![0xc1, 2]));

    let wrong = remote.run(NamedCall::<String>::new("remote:double", &(1_u64,)));
    carrier.take(wrong.id()).1.end(Ok(answer(7)));
    assert!(matches!(error(wrong), ErrorKind::Decode(text) if text.contains("`remote:double`")));

    // Nobody can run it here.
    let here = remote.run(NamedCall::<u64>::new("elsewhere", &(1_u64,)));
    let (outbound, ender) = carrier.take(here.id());
    ender.run_here(outbound);
    assert!(
        matches!(error(here), ErrorKind::Decode(text) if text.contains("`elsewhere`") && text.contains("only another"))
    );
}

fn words<R>() -> Prepared<NamedCall<R>> {
    prepare(NamedCall::new("other:words", &("so it goes",))).priority(3)
}

#[test]
fn items_of_a_task_of_another_program_come_whatever_its_language_calls_their_types() {
    let (remote, carrier) = kept();
    let encoded =
        |of_type: &str, item: &dyn Fn() -> Vec<u8>| [rmp_serde::to_vec(of_type).unwrap(), item()].concat();
    let (word, number) = (|| rmp_serde::to_vec("so").unwrap(), || rmp_serde::to_vec(&7).unwrap());

    let (handle, mut items) = remote.stream::<String, u64>(words(), 5);
    let (outbound, ender) = carrier.take(handle.id());
    assert_eq!((outbound.task(), outbound.signature()), ("other:words", NamedCall::<()>::ANY));
    assert_eq!((outbound.instructions().stream, outbound.instructions().priority), (Some(5), 3));
    assert!(ender.start());
    for of_type in ["", "&str", ""] {
        ender.item(encoded(of_type, &word)).unwrap();
    }
    for of_type in ["", "u64"] {
        ender.item(encoded(of_type, &number)).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(items.wait_next().unwrap().unwrap(), "so");
    }
    for reason in ["an item of `other:words`", "the task sends a `u64`"] {
        let error = items.wait_next().unwrap().unwrap_err().into_kind();
        assert!(matches!(&error, ErrorKind::Decode(text) if text.contains(reason)), "{error:?}");
    }
    ender.end(Ok(answer(4)));
    assert!(items.wait_next().is_none());
    assert_eq!(end(handle).unwrap(), 4);

    // As they came, for a binding.
    let (handle, mut items) = remote.stream::<Encoded, Encoded>(words(), 4);
    let (_, ender) = carrier.take(handle.id());
    ender.item(encoded("", &word)).unwrap();
    ender.item(encoded("u64", &number)).unwrap();
    ender.end(Ok(answer(4)));
    let all: Vec<_> = std::iter::from_fn(|| items.wait_next()).map(|item| item.unwrap().0).collect();
    assert_eq!(all, [word(), number()]);
    assert_eq!(end(handle).unwrap().0, answer(4).bytes);
}

#[test]
fn hostile_parts_are_errors() {
    let signature = signature_of("remote:double");
    let make = |task: &str, arguments: Vec<u8>, instructions| {
        Outbound::received(task, signature, arguments, instructions)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let plain = Instructions::default;
    assert_eq!(make("remote:double", vec![1], plain()), Ok(()));
    for arguments in [
        vec![0xc1],                               // no marker
        vec![0xdd, 0xff, 0xff, 0xff, 0xff, 1],    // a list that is longer than what has come
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],       // a table, too
        vec![0xc6, 0xff, 0xff, 0xff, 0xff, 1, 2], // bytes, too
        vec![0xcf, 1, 2],                         // half a number
        vec![0xd6, 2, 0, 0, 0, 0],                // a part that has not come along
        vec![0xd4, 1, 0],                         // a `Some` of nothing
        vec![0x91; 100_000],                      // 100,000 levels
        [vec![0x91; 129], vec![1]].concat(),      // one level too many
    ] {
        let error = make("remote:double", arguments.clone(), plain()).unwrap_err();
        assert!(error.contains("the arguments"), "{error} {arguments:?}");
    }
    assert_eq!(make("remote:double", [vec![0x91; 128], vec![1]].concat(), plain()), Ok(()));
    assert!(make(&"x".repeat(2000), vec![1], plain()).unwrap_err().contains("the task's name"));
    let with = |change: &dyn Fn(&mut Instructions)| {
        let mut instructions = plain();
        change(&mut instructions);
        make("remote:double", vec![1], instructions).unwrap_err()
    };
    assert!(with(&|it| it.name = "x".repeat(5000)).contains("the job's name"));
    assert!(with(&|it| it.request = Some("x".repeat(5000))).contains("request"));
    assert!(with(&|it| it.carried = Some(vec![0; 70_000].into())).contains("carries"));
    assert!(with(&|it| it.capture = Some(usize::MAX)).contains("captured"));
    assert!(with(&|it| it.stream = Some(usize::MAX)).contains("stream"));
}

/// Wrong bytes end the job, in the worker; the pool and what performs the call go on.
#[test]
fn arguments_of_another_type_are_the_error_of_their_job() {
    let pool = pool();
    for arguments in [&b"\xa3abc"[..], b"", b"\x01\x02", b"\xc0"] {
        let result = perform(&pool, received("remote:double", arguments)).unwrap().wait().result;
        assert!(
            matches!(&result, Err(ErrorKind::Decode(text)) if text.contains("remote:double")),
            "{result:?}"
        );
    }
    assert_eq!(perform(&pool, received("remote:double", &[4])).unwrap().wait().result.unwrap().bytes, [8]);
}

#[test]
fn arguments_above_the_pools_limit_are_refused() {
    let pool = ProcessPool::builder().max_workers(1).max_payload(1000).build().unwrap();
    let arguments = [&[0xc5, 0x07, 0xd0][..], &[0; 2000]].concat();
    let refused = perform(&pool, received("remote:join", &[&[0x91][..], &arguments].concat())).unwrap_err();
    assert!(matches!(&refused, ErrorKind::Encode(text) if text.contains("max_payload")), "{refused:?}");
}

#[test]
fn wrong_results_are_errors_of_the_near_side() {
    let (remote, carrier) = kept();
    for bytes in [vec![0xc1], vec![0xa1, b'x'], vec![1, 2], vec![0x91; 1000]] {
        let handle = remote.run(double.with(1));
        carrier.take(handle.id()).1.end(Ok(Answer::new(bytes)));
        assert!(matches!(error(handle), ErrorKind::Decode(_)));
    }
}

#[test]
fn a_performance_that_is_cancelled_or_dropped_kills_its_job() {
    let pool = pool();
    for is_dropped in [false, true] {
        // One that its worker has not begun with would be taken back, without a kill.
        let mut call = received(begins_and_goes_on.with().task_name(), &[]);
        call.instructions_mut().stream = Some(1);
        let mut performance = perform(&pool, call).unwrap();
        assert!(performance.wait_next_item().is_some());
        let before = pool.metrics().restarts.job_ended;
        if is_dropped {
            drop(performance);
        } else {
            let canceller = performance.canceller();
            let waits = std::thread::spawn(|| performance.wait().result);
            assert!(canceller.cancel());
            assert!(matches!(waits.join().unwrap(), Err(ErrorKind::Cancelled)));
            assert!(!canceller.cancel());
        }
        eventually("its worker was killed", || pool.metrics().restarts.job_ended > before);
    }
}

#[offloop::task(name = "remote:begins_and_goes_on")]
fn begins_and_goes_on() -> u64 {
    offloop::job::emit(&()).unwrap();
    forever()
}

#[offloop::task(name = "remote:stubborn")]
fn stubborn() -> u64 {
    // SAFETY: the signal is ignored, so no handler runs.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    offloop::job::emit(&()).unwrap();
    forever()
}

#[test]
fn the_process_of_a_cancelled_job_can_be_waited_for_and_hurried() {
    for is_hurried in [false, true] {
        let grace = Duration::from_millis(if is_hurried { 3_600_000 } else { 50 });
        let pool = ProcessPool::builder().max_workers(1).grace(grace).build().unwrap();
        let mut call = received(stubborn.with().task_name(), &[]);
        call.instructions_mut().stream = Some(1);
        let mut performance = perform(&pool, call).unwrap();
        let canceller = performance.canceller();
        assert!(performance.wait_next_item().is_some());
        let pids = pool.worker_pids();
        assert!(canceller.cancel());
        drop(performance);
        if is_hurried {
            assert!(!canceller.kill(), "the job has ended before");
        }
        canceller.wait_gone();
        assert!(!std::path::Path::new(&format!("/proc/{}/root", pids[0])).exists());
    }
}

#[test]
fn a_performance_is_a_future_as_well() {
    let pool = pool();
    let result = futures_lite::future::block_on(async {
        let mut performance = perform(&pool, received("remote:double", &[21])).unwrap();
        assert_eq!(performance.next_item().await, None);
        performance.finish().await.result
    });
    assert_eq!(result.unwrap().bytes, [42]);
}

/// Runs `child` in a forked child, which reports through its exit status. An alarm ends it if it hangs.
fn survives_fork(child: impl FnOnce()) {
    // SAFETY: the child runs nothing but `child`, which is a test of what may be done there, and `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: `alarm` and `_exit` may be called after `fork` in a program with threads.
            unsafe {
                libc::alarm(20);
                let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
                libc::_exit(i32::from(!ok));
            }
        }
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        pid => {
            let mut status = 0;
            // SAFETY: `status` outlives the call, and `pid` is a child of this process that no other thread waits for.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0, "{} means that it hung", libc::SIGALRM);
        }
    }
}

#[test]
fn in_a_forked_child_the_executor_accepts_nothing_and_jobs_are_the_parents() {
    let (remote, carrier) = kept();
    let handle = remote.run(double.with(1));
    let (_, ender) = carrier.take(handle.id());
    let (mut handle, mut ender) = (Some(handle), Some(ender));
    survives_fork(|| {
        let refused = remote.run(double.with(2)).wait().unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Forked));
        assert_eq!((remote.queued(), remote.cancel_queued()), (0, 0));
        drop(ender.take());
        let handle = handle.take().unwrap();
        assert!(!handle.cancel());
        assert!(matches!(handle.wait().unwrap_err().kind(), ErrorKind::Forked));
        drop(remote.clone());
        assert!(carrier.cancelled().is_empty());
    });
    ender.take().unwrap().end(Ok(answer(2)));
    assert_eq!(end(handle.take().unwrap()).unwrap(), 2);
}

#[test]
fn an_error_travels_as_it_is() {
    let died = match perform(&pool(), received(crash.with().task_name(), &[])).unwrap().wait().result {
        Err(ErrorKind::WorkerDied(died)) => died,
        other => panic!("{other:?}"),
    };
    let WorkerDied { workers_lost, pid, .. } = died.clone();
    assert_eq!(workers_lost, 1);
    let packed_death = pack_error(&ErrorKind::WorkerDied(died.clone()));
    let limit = Duration::from_millis(1500);
    for kind in [
        ErrorKind::WorkerDied(died),
        ErrorKind::Cancelled,
        ErrorKind::QueueTimeout(limit),
        ErrorKind::RunTimeout(limit),
        ErrorKind::LoadTimeout(limit),
        ErrorKind::QueueFull { capacity: 5 },
        ErrorKind::Shed,
        ErrorKind::Broken("why".into()),
        ErrorKind::Closed,
        ErrorKind::Forked,
        ErrorKind::Rejected("why".into()),
        ErrorKind::WorkerStart("why".into()),
        ErrorKind::WorkerState("why".into()),
        ErrorKind::Encode("why".into()),
        ErrorKind::Decode("why".into()),
        ErrorKind::Lost { worker: "w1".into(), host: "h1".into(), attempt: 2, silent_for: limit },
        ErrorKind::NoSuchTask {
            task: "t".into(),
            wanted: Signature::from_u64(1),
            offered: vec![Signature::from_u64(2)],
            workers: vec!["w1".into()],
        },
        ErrorKind::Unreachable("why".into()),
        ErrorKind::NotTrusted("why".into()),
        error(offloop::run(|| -> u8 { panic!("so it goes") })),
    ] {
        let packed = pack_error(&kind);
        let unpacked = unpack_error(&packed).unwrap();
        assert_eq!((unpacked.to_string(), format!("{unpacked:?}")), (kind.to_string(), format!("{kind:?}")));
    }
    // Any reader of MessagePack can tell the reasons apart.
    let read: HashMap<String, serde_json::Value> = rmp_serde::from_slice(&packed_death).unwrap();
    assert_eq!((&read["kind"], &read["pid"]), (&"worker_died".into(), &pid.into()));
    assert_eq!(read["exit"], serde_json::json!({ "signal": 6 }));
    let packed = pack_error(&ErrorKind::QueueFull { capacity: 5 });
    let read: HashMap<String, serde_json::Value> = rmp_serde::from_slice(&packed).unwrap();
    assert_eq!((&read["kind"], &read["capacity"]), (&"queue_full".into(), &5.into()));
    for wrong in [&b""[..], b"\xc1", b"\x81\xa4kind\xa6future", b"\x80"] {
        assert!(unpack_error(wrong).is_err());
    }
}

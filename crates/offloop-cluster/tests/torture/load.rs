//! The load: threads that submit jobs of all kinds, and wait for them, cancel them or drop them.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use offloop::{Blob, Error, Handle, Retry, prepare};
use offloop_cluster::{Cluster, ClusterHandle, Connection, StoredEnd};

use crate::faults::Faults;
use crate::harness::agents::{Agent, Instructions};
use crate::harness::books::Books;
use crate::harness::proxy::Proxy;
use crate::harness::servers::Servers;
use crate::harness::tasks::{beat, crash, echo, fail, nap, numbers, poison};
use crate::harness::{eventually, settings};
use crate::oracle::{Ended, Fate, Kind, Oracle};

/// The number of threads that submit.
const CLIENTS: usize = 12;

/// The wait after which a job hangs.
const HANG: Duration = Duration::from_secs(300);

/// The number of agents.
pub(crate) const AGENTS: usize = 3;

/// All that the threads share.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) books: Books,
    pub(crate) oracle: Oracle,
    pub(crate) servers: Mutex<Servers>,
    pub(crate) agents: Mutex<Vec<Agent>>,
    pub(crate) instructions: Vec<Instructions>,
    /// The ways of the agents to the servers, and that of the submitter.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) is_over: AtomicBool,
    pub(crate) seed: u64,
    submitted: AtomicU64,
}

impl World {
    /// Starts servers and agents. `None` where no server is installed.
    pub(crate) fn start(count: usize, seed: u64) -> Option<Arc<Self>> {
        let servers = Servers::start(count)?;
        // Each party has its own way, to one of the servers first.
        let proxies: Vec<Proxy> = (0..=AGENTS).map(|at| Proxy::to(servers.address(at % count))).collect();
        let url = |at: usize| {
            if count == 1 { proxies[at].url() } else { format!("{},{}", proxies[at].url(), servers.url()) }
        };
        let skews = [-3000, 0, 3000].into_iter().enumerate();
        let instructions: Vec<_> =
            skews.map(|(at, skew)| Instructions::of(&servers).url(url(at)).skew(skew).slots(3)).collect();
        let replicas = u32::try_from(count).unwrap();
        let connection = Connection::to(url(AGENTS)).settings(settings()).replicas(replicas);
        let cluster = Cluster::builder(connection).unreachable_after(HANG * 2).build().unwrap();
        let agents: Vec<_> = instructions.iter().map(Instructions::start).collect();
        let books = Books::new(servers.directory());
        eventually("the agents are there", || cluster.workers().is_ok_and(|it| it.len() == AGENTS));
        Some(Arc::new(Self {
            cluster,
            books,
            oracle: Oracle::default(),
            servers: Mutex::new(servers),
            agents: Mutex::new(agents),
            instructions,
            proxies,
            is_over: AtomicBool::new(false),
            seed,
            submitted: AtomicU64::new(0),
        }))
    }

    /// Runs the load, then lets all come to rest and checks the books.
    pub(crate) fn run(self: Arc<Self>, duration: Duration) -> ExitCode {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| {
                let world = Arc::clone(&self);
                std::thread::spawn(move || world.submit_until_the_end(at as u64))
            })
            .collect();
        // The agents die with the thread that starts them, so that is this one.
        let began = Instant::now();
        let mut faults = Faults::new(Arc::clone(&self));
        let mut reported = 0;
        while began.elapsed() < duration {
            faults.inject();
            if began.elapsed().as_secs() / 60 > reported {
                reported += 1;
                println!("after {reported} min: {} jobs", self.submitted.load(SeqCst));
            }
        }
        self.is_over.store(true, SeqCst);
        while !clients.iter().all(std::thread::JoinHandle::is_finished) {
            faults.heal();
            std::thread::sleep(Duration::from_millis(50));
        }
        for client in clients {
            if client.join().is_err() {
                self.oracle.wrong("a submitting thread has panicked".to_owned());
            }
        }
        self.check_what_is_left(&mut faults);
        faults.print();
        let wrong = self.oracle.audit(&self.books);
        println!("{} jobs, {wrong} discrepancies", self.submitted.load(SeqCst));
        if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Checks that the cluster holds nothing of jobs that have ended, and that agents end in order.
    fn check_what_is_left(&self, faults: &mut Faults) {
        let began = Instant::now();
        let left =
            |stream: &str| self.servers.lock().unwrap().messages(&format!("OFFLOOP1_default_{stream}"));
        while left("JOBS") != Some(0) && began.elapsed() < HANG {
            // A job whose handle was dropped may be poison.
            faults.heal();
            std::thread::sleep(Duration::from_millis(200));
        }
        match left("JOBS") {
            Some(0) => {}
            left => self.oracle.wrong(format!("{left:?} messages are left in the queue")),
        }
        let chunks = left("ARGS").unwrap_or(0) + left("BLOBS").unwrap_or(0);
        println!("{chunks} chunks are left to their time");
        for agent in self.agents.lock().unwrap().drain(..) {
            let (status, _) = agent.finish();
            if !status.success() {
                self.oracle.wrong(format!("an agent has ended with {status}"));
            }
        }
    }

    fn submit_until_the_end(&self, client: u64) {
        let mut rng = Rng::with_seed(self.seed.wrapping_mul(1000) + client);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        while !self.is_over.load(SeqCst) {
            let count = if rng.u32(..10) == 0 { 30 } else { 1 };
            let jobs: Vec<_> = (0..count).map(|_| self.submit(&mut rng)).collect();
            for (token, kind, retries, job) in jobs {
                self.submitted.fetch_add(1, SeqCst);
                let fate = settle(&runtime, &mut rng, (token, kind, retries), job);
                self.oracle.ended(Ended { token, kind, retries, fate });
            }
        }
    }

    /// Submits a job of a random kind.
    fn submit(&self, rng: &mut Rng) -> (u64, Kind, u32, Job) {
        use Kind::{Attached, Crash, Echo, Exclusive, Fail, Impatient, Keyed, Nap, Poison, Stream, TooLong};
        let (path, token) = (self.books.path(), self.books.token());
        let kinds =
            [Nap, Nap, Nap, Nap, Keyed, Attached, Exclusive, Crash, Fail, Echo, Stream, TooLong, Impatient];
        let kind = if rng.u32(..300) == 0 { Poison } else { kinds[rng.usize(..kinds.len())] };
        let retries = rng.u32(..4);
        let retry = Retry::times(retries).backoff(Duration::from_millis(rng.u64(10..500)));
        let priority = rng.i8(-1..2);
        let millis = if rng.u32(..20) == 0 { rng.u64(..6000) } else { rng.u64(..100) };
        let short = prepare(nap.with(path.clone(), token, millis)).retry(retry).priority(priority);
        let cluster = &self.cluster;
        let job = match kind {
            Nap => Job::Number(cluster.submit(short).send()),
            Keyed => {
                let key = format!("{}-{token}", self.seed);
                Job::Number(cluster.submit(short).key(key).send())
            }
            Attached => {
                let handle = cluster.submit(short).send();
                match handle.remote_id() {
                    Some(id) => {
                        let attached = cluster.attach(id);
                        handle.into_handle().detach();
                        Job::Number(attached)
                    }
                    None => Job::Number(handle),
                }
            }
            Exclusive => {
                let call = prepare(beat.with(path, token, rng.u64(..50))).retry(retry);
                Job::Number(cluster.submit(call).exclusive(true).send())
            }
            Crash => Job::Number(cluster.submit(prepare(crash.with(path, token)).retry(retry)).send()),
            Fail => Job::Number(cluster.submit(prepare(fail.with(path, token)).retry(retry)).send()),
            Poison => Job::Number(cluster.submit(prepare(poison.with(path, token)).retry(retry)).send()),
            Echo => {
                let size = if rng.bool() { 2 << 20 } else { 1000 };
                let bytes = Blob::from(vec![u8::try_from(token % 251).unwrap_or(0); size]);
                let call = prepare(echo.with(path, token, bytes.clone())).retry(retry);
                Job::Bytes(cluster.submit(call).send(), bytes)
            }
            Stream => {
                let call = prepare(numbers.with(path, token, 20)).retry(retry);
                let (handle, items) = cluster.stream::<u64, u64>(call, 1 + rng.usize(..8));
                Job::Stream(handle, items)
            }
            TooLong => {
                let limit = Duration::from_millis(rng.u64(20..200));
                let call = prepare(nap.with(path, token, 60_000)).retry(retry);
                Job::Number(cluster.submit(call.run_timeout(limit)).send())
            }
            Impatient => Job::Number(
                cluster.submit(short.queue_timeout(Duration::from_millis(rng.u64(1..200)))).send(),
            ),
        };
        (token, kind, retries, job)
    }
}

/// Waits for a job, or cancels it, or drops its handle.
fn settle(
    runtime: &tokio::runtime::Runtime,
    rng: &mut Rng,
    (token, kind, retries): (u64, Kind, u32),
    job: Job,
) -> Fate {
    let disturbs = rng.u32(..4) == 0;
    if disturbs {
        std::thread::sleep(Duration::from_millis(rng.u64(..30)));
    }
    let stored = |end: Option<StoredEnd>| match end {
        Some(end) => Fate::of_stored(end),
        None => Fate::Other("the cluster has not told the end of a cancelled job".to_owned()),
    };
    let within = |cancels: std::pin::Pin<Box<dyn Future<Output = StoredEnd>>>| {
        runtime.block_on(async { tokio::time::timeout(HANG, cancels).await.ok() })
    };
    match job {
        // One that attaches knows nothing of a job that waits.
        Job::Number(handle) if disturbs && kind != Kind::Attached => match rng.u32(..3) {
            0 => Fate::Dropped,
            _ => stored(within(Box::pin(handle.cancel_stored()))),
        },
        Job::Bytes(handle, _) if disturbs => stored(within(Box::pin(handle.cancel_stored()))),
        Job::Stream(..) if disturbs => Fate::Dropped,
        Job::Number(handle) => fate(handle.into_handle(), |value| *value == token),
        Job::Bytes(handle, bytes) => fate(handle.into_handle(), |value| *value == bytes),
        Job::Stream(handle, items) => {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let (mut all, mut items) = (Vec::new(), items);
                while let Some(Ok(item)) = items.wait_next() {
                    all.push(item);
                }
                let _ = sender.send(all);
            });
            let fate = fate(handle, |value| *value == 20);
            let items = receiver.recv_timeout(HANG).unwrap_or_default();
            // After another start they begin anew.
            let is_right = items.last() == Some(&19);
            if fate == Fate::Ok && !is_right {
                println!("job {token} of {retries} retries has sent {items:?}");
            }
            if fate == Fate::Ok && !is_right { Fate::Wrong } else { fate }
        }
    }
}

/// Waits for a job's end.
fn fate<R: Send + 'static>(handle: Handle<R>, is_right: impl Fn(&R) -> bool) -> Fate {
    let (sender, receiver) = std::sync::mpsc::channel::<Result<R, Error>>();
    std::thread::spawn(move || sender.send(handle.wait()));
    match receiver.recv_timeout(HANG) {
        Ok(Ok(value)) if is_right(&value) => Fate::Ok,
        Ok(Ok(_)) => Fate::Wrong,
        Ok(Err(error)) => Fate::of(error.kind()),
        Err(_) => Fate::Other("it hangs".to_owned()),
    }
}

/// A job that was submitted.
enum Job {
    Number(ClusterHandle<u64>),
    Bytes(ClusterHandle<Blob>, Blob),
    Stream(Handle<u64>, offloop::ItemStream<u64>),
}

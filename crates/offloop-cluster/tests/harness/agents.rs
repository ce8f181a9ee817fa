//! Agents as processes of their own: this program, started again.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use offloop::{ErrorKind, ProcessPool};
use offloop_cluster::Connection;
use offloop_cluster::records::Job;
use offloop_cluster::worker::{Clock, Offer, Performer, PoolPerformer, Run, Running, Worker};
use rustix::process::Signal;

use super::servers::Servers;
use super::{append_to, die_with_parent, settings, signal, tasks};

/// The variable with the instructions for an agent.
const INSTRUCTIONS: &str = "OFFLOOP_TEST_AGENT";

/// The arguments by which this program becomes an agent: a test that is run alone.
const AS_TEST: [&str; 5] = ["agent", "--exact", "--ignored", "--nocapture", "--test-threads=1"];

/// The instructions for an agent.
#[derive(Debug, Clone)]
pub struct Instructions {
    pub url: String,
    pub slots: usize,
    pub replicas: u32,
    pub name: String,
    /// The lead of its clock, in seconds.
    pub skew: i64,
    /// It has no task with this name.
    pub lacks: String,
    /// The file for its standard error.
    log: PathBuf,
}

impl Instructions {
    pub fn of(servers: &Servers) -> Self {
        Self {
            url: servers.url(),
            slots: 2,
            replicas: u32::try_from(servers.count()).unwrap(),
            name: "agent".to_owned(),
            skew: 0,
            lacks: String::new(),
            log: servers.directory().join("agents.log"),
        }
    }

    pub fn url(self, url: impl Into<String>) -> Self {
        Self { url: url.into(), ..self }
    }

    pub fn slots(self, slots: usize) -> Self {
        Self { slots, ..self }
    }

    pub fn skew(self, skew: i64) -> Self {
        Self { skew, ..self }
    }

    pub fn lacks(self, task: &str) -> Self {
        Self { lacks: task.to_owned(), ..self }
    }

    pub fn start(&self) -> Agent {
        let Self { url, slots, replicas, name, skew, lacks, log } = self;
        let text = format!("{url} {slots} {replicas} {name} {skew} {lacks}");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(AS_TEST).env(INSTRUCTIONS, text).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(append_to(log));
        Agent { process: Some(die_with_parent(&mut command).spawn().unwrap()) }
    }
}

/// An agent. It is killed when this is dropped.
pub struct Agent {
    process: Option<Child>,
}

impl Agent {
    fn child(&self) -> &Child {
        self.process.as_ref().expect("it was not collected")
    }

    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Kills it without a word, and waits until it is dead.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn pause(&self) {
        signal(self.child(), Signal::STOP);
    }

    pub fn resume(&self) {
        signal(self.child(), Signal::CONT);
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        signal(self.child(), Signal::TERM);
    }

    pub fn is_dead(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    /// Tells it to end and waits for that. Returns its status, and the number of its ends that were refused.
    pub fn finish(mut self) -> (ExitStatus, u64) {
        self.terminate();
        let output = self.process.take().expect("it was not collected").wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let refused = text.lines().find_map(|line| line.split_once("refused=")?.1.trim().parse().ok());
        (output.status, refused.unwrap_or(0))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Skewed(i64);

impl Clock for Skewed {
    fn now(&self) -> SystemTime {
        let by = Duration::from_secs(self.0.unsigned_abs());
        if self.0 < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }
}

/// A build without one of the tasks.
struct Lacking(PoolPerformer, String);

impl Performer for Lacking {
    fn offers(&self) -> Vec<Offer> {
        self.0.offers().into_iter().filter(|offer| offer.task != self.1).collect()
    }

    fn has(&self, job: &Job) -> bool {
        job.task != self.1 && self.0.has(job)
    }

    fn perform(&self, job: &Job, arguments: Vec<u8>, run: Run) -> Result<Box<dyn Running>, ErrorKind> {
        self.0.perform(job, arguments, run)
    }
}

/// Serves as an agent, if this process was started as one.
pub fn serve() {
    let Ok(text) = std::env::var(INSTRUCTIONS) else { return };
    let words: Vec<&str> = text.split(' ').collect();
    let [url, slots, replicas, name, skew, lacks] = words[..] else { panic!("{text}") };
    let slots = slots.parse().unwrap();
    let pool = ProcessPool::builder()
        .max_workers(slots)
        .grace(Duration::from_millis(200))
        .env(tasks::AGENT_PID, std::process::id().to_string())
        .env_remove(INSTRUCTIONS)
        .build()
        .unwrap();
    let connection = Connection::to(url).settings(settings()).replicas(replicas.parse().unwrap());
    let worker = Worker::builder(connection)
        .slots(slots)
        .name(name)
        .drain(Duration::from_secs(5))
        .clock(Skewed(skew.parse().unwrap()))
        .performer(Lacking(PoolPerformer::new(pool), lacks.to_owned()))
        .build()
        .unwrap();
    let handle = worker.handle();
    let report = worker.serve().unwrap();
    println!("refused={}", handle.metrics().refused);
    std::process::exit(i32::from(!report.left.is_empty()));
}

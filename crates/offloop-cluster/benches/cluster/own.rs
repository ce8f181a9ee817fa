//! offloop itself: a `Cluster`, and an agent that is this program again, with a process for each of its two slots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use offloop::{Handle, Retry, prepare};
use offloop_cluster::Cluster;
use offloop_cluster::embedded::{Embedded, USER};

use crate::support::{Killed, Servers, memory, wait_for};
use crate::{BURST, Effort, Results, bursts, round_trips, timed};

const PAYLOAD: usize = 64 << 20;

#[offloop::task(name = "bench:noop")]
fn noop() {}

#[offloop::task(name = "bench:echo")]
fn echo(data: serde_bytes::ByteBuf) -> serde_bytes::ByteBuf {
    data
}

/// Adds the id of its process to a file, and stays.
#[offloop::task(name = "bench:stay")]
fn stay(file: String) {
    use std::io::Write;
    let file = fs::OpenOptions::new().create(true).append(true).open(file);
    writeln!(file.expect("the file"), "{}", std::process::id()).expect("a line");
    std::thread::sleep(Duration::from_secs(120));
}

pub(crate) fn measure(effort: Effort) -> Results {
    let mut results = Results::new();
    results.insert("first", timed(first).as_secs_f64());
    let mut servers = Servers::start(1);
    let agent = Agent::start(&servers.url());
    let cluster = Cluster::builder(servers.url()).build().expect("a cluster");
    let run = || cluster.run(noop.with()).wait().expect("a result");
    run();
    if effort.is_full {
        // What the first job has left to do is done.
        std::thread::sleep(Duration::from_secs(2));
        let pids: Vec<u32> = servers.pids().into_iter().chain(agent.pids()).collect();
        results.insert("memory", memory(&pids));
    }
    results.insert("trip", round_trips(effort, run));
    let burst = || {
        let handles: Vec<Handle<()>> = (0..BURST).map(|_| cluster.run(noop.with())).collect();
        for handle in handles {
            handle.wait().expect("a result");
        }
    };
    results.insert("burst", bursts(effort, burst));
    let size = if effort.is_full { PAYLOAD } else { PAYLOAD / 64 };
    let data = serde_bytes::ByteBuf::from(vec![0xa5; size]);
    let payload = || {
        let back = cluster.run(echo.with(data.clone())).wait().expect("a result");
        assert_eq!(back.len(), data.len());
    };
    let times = (0..3).map(|_| timed(payload).as_secs_f64()).collect();
    results.insert("payload", crate::median(times));

    let starts = Starts::new();
    let handle = cluster.run(stay.with(starts.path()));
    let pid = starts.wait(1)[0];
    let begun = Instant::now();
    drop(handle);
    wait_for("the end of a cancelled job", || (!is_alive(pid)).then_some(()));
    results.insert("cancel", begun.elapsed().as_secs_f64());
    if effort.is_full {
        results.insert("restart", restart(&mut servers, &cluster));
        results.insert("lost", lost(&cluster, agent, &servers.url()));
    }
    results
}

/// Starts a server, an agent and a cluster, and runs a job.
fn first() {
    let server = Embedded::builder().start().expect("the server");
    let url = format!("nats://{USER}:{}@{}", server.password(), server.address());
    let _agent = Agent::start(&url);
    let cluster = Cluster::builder(&url).build().expect("a cluster");
    cluster.run(noop.with()).wait().expect("a result");
}

/// Kills the server, submits a job and starts the server again. Returns the time until the job's result.
fn restart(servers: &mut Servers, cluster: &Cluster) -> f64 {
    let started = servers.restart();
    cluster.run(noop.with()).wait().expect("a result");
    started.elapsed().as_secs_f64()
}

/// Kills the agent that runs a job. Returns the time until it is started again.
fn lost(cluster: &Cluster, agent: Agent, url: &str) -> f64 {
    let starts = Starts::new();
    let handle = cluster.run(prepare(stay.with(starts.path())).retry(Retry::times(1)));
    starts.wait(1);
    let _other = Agent::start(url);
    // It is ready for the job when the first one is killed.
    wait_for("another agent", || (cluster.workers().ok()?.len() == 2).then_some(()));
    let begun = Instant::now();
    drop(agent);
    starts.wait(2);
    let took = begun.elapsed().as_secs_f64();
    drop(handle);
    took
}

/// This program as a worker, with two slots.
struct Agent(Killed);

impl Agent {
    fn start(url: &str) -> Self {
        let own = std::env::current_exe().expect("the path of this program");
        let mut command = Command::new(own);
        command.args(["offloop-worker", "--slots", "2", "--url", url]).stdin(Stdio::null());
        let child: Child = command.spawn().expect("the agent");
        Self(Killed(child))
    }

    /// Returns the ids of its process and of those that it has started, which run the jobs.
    fn pids(&self) -> Vec<u32> {
        let mut found = vec![self.0.0.id()];
        let mut at = 0;
        while let Some(pid) = found.get(at) {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let children = threads.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
            let children: Vec<u32> = children
                .flat_map(|it| it.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .filter_map(|pid| pid.parse().ok())
                .collect();
            found.extend(children);
            at += 1;
        }
        found
    }
}

/// A file with the processes in which a job has been started.
struct Starts(PathBuf);

impl Starts {
    fn new() -> Self {
        let name = format!("offloop-bench-starts-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // There is none yet, or it is an old one.
        let _ = fs::remove_file(&path);
        Self(path)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Waits until the job has been started this often.
    fn wait(&self, count: usize) -> Vec<u32> {
        wait_for("the start of a job", || {
            let text = fs::read_to_string(&self.0).ok()?;
            let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            (pids.len() >= count).then_some(pids)
        })
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        // It is below the system's directory for temporary files.
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns whether a process lives. One that has ended and was not waited for does not.
fn is_alive(pid: u32) -> bool {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    text.is_ok_and(|text| text.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

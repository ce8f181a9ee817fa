//! `offloop cluster`: what an operator of a cluster sees and does.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use offloop_cluster::admin::{Admin, AdminError, DeadEntry, Status};
use offloop_cluster::security::{Role, SigningKey};
use offloop_cluster::{Credentials, Ulid};

use crate::{FAILED, Failure, USAGE, print, text};

/// The variable with the URL of the cluster, if there is no `--url`.
const URL: &str = "OFFLOOP_CLUSTER_URL";

/// The widest column of a table.
const WIDEST: usize = 60;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Start a NATS server on this machine for trying things out, until Ctrl-C
    ///
    /// It listens on loopback only, with a random password, and forgets everything when it ends.
    #[cfg(target_os = "linux")]
    Server {
        /// The server's program
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// Show queues, workers and the number of dead jobs
    Status {
        #[command(flatten)]
        to: ClusterAddress,
        /// Print one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at dead jobs, or put them into their queues again
    Dead {
        #[command(subcommand)]
        command: DeadCommand,
    },
    /// Tell a worker to take no more jobs, and to end when those that run have ended
    Drain {
        #[command(flatten)]
        to: ClusterAddress,
        /// The worker's id or name
        worker: String,
    },
    /// Make a key for one party, and print the server's configuration for it
    Keys {
        /// The part that the owner of the key has
        #[arg(long, value_enum)]
        role: Option<RoleName>,
        /// The namespace
        #[arg(long, default_value = "default")]
        namespace: String,
        /// The queue that the owner of the key may reach; again for each. Default: all
        #[arg(long = "queue", value_name = "NAME")]
        queues: Vec<String>,
        /// The file to write the secret key to, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Show the dead jobs, the oldest first
    List {
        #[command(flatten)]
        to: ClusterAddress,
        /// Print one line of JSON for each
        #[arg(long)]
        json: bool,
    },
    /// Put dead jobs into their queues again, as new jobs
    Retry {
        #[command(flatten)]
        to: ClusterAddress,
        /// The ids of the jobs
        #[arg(required_unless_present = "all")]
        ids: Vec<Ulid>,
        /// All dead jobs
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleName {
    Submitter,
    Worker,
    Operator,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Submitter => Self::Submitter,
            RoleName::Worker => Self::Worker,
            RoleName::Operator => Self::Operator,
        }
    }
}

/// The way to a cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterAddress {
    /// The cluster's URL. Default: that in the variable `OFFLOOP_CLUSTER_URL`, else nats://127.0.0.1:4222
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The namespace
    #[arg(long, default_value = "default")]
    namespace: String,
    /// A file with NATS credentials: a JWT and its seed
    #[arg(long, value_name = "FILE", conflicts_with = "nkey")]
    creds: Option<PathBuf>,
    /// A file with a secret key, to log in with
    #[arg(long, value_name = "FILE")]
    nkey: Option<PathBuf>,
    /// A file with a secret key, to sign jobs with that are put into their queues again
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl ClusterAddress {
    /// Returns the way to the cluster at this URL, or at that of the environment.
    pub(crate) fn at(url: Option<String>) -> Self {
        Self { url, namespace: "default".to_owned(), creds: None, nkey: None, key: None }
    }

    fn connect(&self) -> Result<Admin, Failure> {
        let url = self.url.clone().or_else(|| std::env::var(URL).ok());
        let mut builder = Admin::builder(url.as_deref().unwrap_or("nats://127.0.0.1:4222"));
        builder = builder.namespace(&*self.namespace);
        if let Some(file) = &self.creds {
            builder = builder.credentials(Credentials::Creds(read(file)?));
        } else if let Some(file) = &self.nkey {
            builder = builder.credentials(Credentials::Nkey(read(file)?.trim().to_owned()));
        }
        if let Some(file) = &self.key {
            let key: Result<SigningKey, _> = read(file)?.parse();
            builder = builder
                .key(key.map_err(|error| Failure::new(USAGE, format!("{}: {error}", file.display())))?);
        }
        builder.connect().map_err(failed)
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::new(FAILED, format!("{} could not be read: {error}", file.display())))
}

#[expect(clippy::needless_pass_by_value, reason = "it is the function for `map_err`")]
fn failed(error: AdminError) -> Failure {
    Failure::new(FAILED, text::clean(&error.to_string(), 1000))
}

pub(crate) fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        #[cfg(target_os = "linux")]
        ClusterCommand::Server { program } => server(program),
        ClusterCommand::Status { to, json } => {
            let status = to.connect()?.status().map_err(failed)?;
            if json { print_json(&status) } else { print(report(&status).as_bytes()) }
        }
        ClusterCommand::Dead { command: DeadCommand::List { to, json } } => {
            let dead = to.connect()?.dead().map_err(failed)?;
            if json { dead.iter().try_for_each(print_json) } else { print(dead_table(&dead).as_bytes()) }
        }
        ClusterCommand::Dead { command: DeadCommand::Retry { to, ids, all } } => {
            let admin = to.connect()?;
            let ids = if all {
                let dead = admin.dead().map_err(failed)?;
                dead.iter().filter_map(|dead| dead.id.parse().ok()).collect()
            } else {
                ids
            };
            for id in ids {
                let new = admin.retry(id).map_err(failed)?;
                print(format!("{id} is in its queue again, as {new}\n").as_bytes())?;
            }
            Ok(())
        }
        ClusterCommand::Drain { to, worker } => {
            let id = to.connect()?.drain(&worker).map_err(failed)?;
            print(format!("{id} takes no more jobs, and ends when those that run have ended\n").as_bytes())
        }
        ClusterCommand::Keys { role, namespace, queues, out } => {
            keys(role, &namespace, &queues, out.as_deref())
        }
    }
}

/// Shows a cluster until Ctrl-C, or once if that is wanted or there is no terminal.
pub(crate) fn top(to: &ClusterAddress, interval: Duration, once: bool, json: bool) -> Result<(), Failure> {
    let admin = to.connect()?;
    if once || json || !io::stdout().is_terminal() {
        let status = admin.status().map_err(failed)?;
        return if json { print_json(&status) } else { print(report(&status).as_bytes()) };
    }
    loop {
        let shown = match admin.status() {
            Ok(status) => report(&status),
            Err(error) => format!("{}\n", text::clean(&error.to_string(), 1000)),
        };
        // To the top left; what was there is cleared line by line, so that nothing flickers.
        let lines: String = shown.lines().fold(String::new(), |mut all, line| {
            let _ = write!(all, "{line}\x1b[K\r\n");
            all
        });
        print(format!("\x1b[H{lines}\x1b[J").as_bytes())?;
        sleep(interval);
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).map_err(io::Error::from)?;
    line.push('\n');
    print(line.as_bytes())
}

/// Starts a server and keeps it until a signal ends this program.
#[cfg(target_os = "linux")]
fn server(program: Option<PathBuf>) -> Result<(), Failure> {
    use offloop_cluster::embedded::{Embedded, USER};

    let mut builder = Embedded::builder();
    if let Some(program) = program {
        builder = builder.program(program);
    }
    let mut signals = signal_hook::iterator::Signals::new(signal_hook::consts::TERM_SIGNALS)?;
    let server = builder.start().map_err(|error| Failure::new(FAILED, error.to_string()))?;
    let (address, password) = (server.address(), server.password());
    print(format!("nats://{USER}:{password}@{address}\n").as_bytes())?;
    let _ = writeln!(
        io::stderr(),
        "It listens on loopback, and forgets everything when it ends. Ctrl-C ends it."
    );
    signals.forever().next();
    server.stop(Duration::from_secs(5));
    Ok(())
}

/// Makes a key, and prints what its owner and the others need.
fn keys(
    role: Option<RoleName>,
    namespace: &str,
    queues: &[String],
    out: Option<&Path>,
) -> Result<(), Failure> {
    let allowed = |it: u8| it.is_ascii_alphanumeric() || it == b'_' || it == b'-';
    for name in queues.iter().map(String::as_str).chain([namespace]) {
        if !(1..=64).contains(&name.len()) || !name.bytes().all(allowed) {
            let message = format!(
                "{name:?} is no name of a namespace or of a queue: use 1 to 64 letters, digits, `_` and `-`"
            );
            return Err(Failure::new(USAGE, message));
        }
    }
    let key = SigningKey::generate();
    let public = key.public();
    let mut report = String::new();
    if let Some(file) = out {
        write_secret(file, &key)?;
        let _ = writeln!(report, "# The secret key is in {}. Only its owner may read it.", file.display());
    } else {
        let _ = writeln!(
            report,
            "# The secret key, for a file that only its owner may read:\n{}",
            key.to_secret()
        );
    }
    let _ = writeln!(report, "\n# The public key, for those who are to trust it:\n{public}");
    if let Some(role) = role.map(Role::from) {
        let name = role.as_str();
        let permissions = role.permissions(namespace, queues);
        let _ = writeln!(
            report,
            "\n# The {name} in the list `authorization {{ users = [ … ] }}` of the server's configuration:\n\
             {{ nkey: {public}\n  {permissions} }}"
        );
    }
    print(report.as_bytes())
}

/// Writes the secret key to a new file that only this user may read.
fn write_secret(file: &Path, key: &SigningKey) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;

    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    open.and_then(|mut opened| writeln!(opened, "{}", key.to_secret()))
        .map_err(|error| Failure::new(FAILED, format!("{} could not be written: {error}", file.display())))
}

/// Returns a cluster as a text.
fn report(status: &Status) -> String {
    let workers = &status.workers;
    let running: usize = workers.iter().map(|worker| worker.running.len()).sum();
    let mut report = format!(
        "namespace {}   {} workers   {running} running   {} dead\n\nQUEUES\n",
        text::clean(&status.namespace, WIDEST),
        workers.len(),
        status.dead
    );
    let rows = status.queues.iter().map(|queue| {
        let oldest = queue.oldest.map_or_else(String::new, age);
        let numbers =
            [queue.high, queue.normal, queue.low, queue.running, queue.slots].map(|it| it.to_string());
        [queue.name.clone()].into_iter().chain(numbers).chain([oldest]).collect()
    });
    table(&mut report, &["queue", "high", "normal", "low", "running", "slots", "oldest"], rows);
    report.push_str("\nWORKERS\n");
    let rows = workers.iter().map(|worker| {
        let queues: Vec<_> = worker.queues.iter().map(|(queue, _)| queue.as_str()).collect();
        let tasks: Vec<_> = worker.running.iter().map(|job| job.task.as_str()).collect();
        vec![
            worker.name.clone(),
            worker.host.clone(),
            worker.pid.to_string(),
            queues.join(","),
            format!("{}/{}", worker.running.len(), worker.slots),
            if worker.draining { "draining" } else { "serving" }.to_owned(),
            worker.id.clone(),
            tasks.join(" "),
        ]
    });
    table(&mut report, &["worker", "host", "pid", "queues", "slots", "state", "id", "runs"], rows);
    report
}

fn dead_table(dead: &[DeadEntry]) -> String {
    let mut text = String::new();
    let rows = dead.iter().map(|dead| {
        vec![dead.id.clone(), dead.reason.clone(), age(dead.age), dead.queue.clone(), dead.task.clone()]
    });
    table(&mut text, &["id", "reason", "age", "queue", "task"], rows);
    text
}

/// Returns a time in seconds, with the unit that fits.
fn age(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.1} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86400.0),
    }
}

/// Appends a table. What others have sent is made fit to be printed.
fn table(text: &mut String, titles: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut lines: Vec<Vec<String>> = vec![titles.iter().map(|title| (*title).to_owned()).collect()];
    lines.extend(rows.map(|row| row.iter().map(|cell| text::clean(cell, WIDEST)).collect()));
    if lines.len() == 1 {
        text.push_str("none\n");
        return;
    }
    let widest = |column: usize| lines.iter().map(|line| text::width(&line[column])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(widest).collect();
    for line in &lines {
        let mut shown = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            shown.push_str(cell);
            shown.push_str(&" ".repeat(width - text::width(cell) + 2));
        }
        let _ = writeln!(text, "{}", shown.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_steers_no_terminal() {
        let mut text = String::new();
        let rows = vec![
            vec!["a\x1b[2J".to_owned(), "é".to_owned()],
            vec!["long name".to_owned(), "x\ny".to_owned()],
        ];
        table(&mut text, &["one", "two"], rows.into_iter());
        assert_eq!(text, "one        two\na[2J       é\nlong name  x y\n");
    }

    #[test]
    fn an_age_has_a_unit() {
        assert_eq!([0.5, 130.0, 7300.0, 200_000.0].map(age), ["0.5 s", "2 min", "2 h", "2 d"]);
    }
}

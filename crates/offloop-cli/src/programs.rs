//! The programs that can be watched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use offloop::observe::document::Snapshot;
use rustix::process::{Pid, geteuid, test_kill_process};
use tokio::task::JoinSet;

use crate::http::{Endpoint, RequestError};
use crate::{FAILED, Failure, NOTHING, USAGE, clean, text};

/// The time that a program has to answer when all are asked.
const ANSWER: Duration = Duration::from_secs(2);
/// The most sockets that are asked at once.
const MOST_SOCKETS: usize = 1000;

/// The programs that the command line names.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    /// Empty for all of this user.
    targets: Vec<Target>,
    token: Option<String>,
}

#[derive(Debug, Clone)]
enum Target {
    /// A socket or an address.
    Endpoint(Endpoint),
    /// A process id.
    Process(u32),
    /// The name of a service.
    Service(String),
}

/// A program: the processes of one service.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The name of the service. Empty if the program has not answered.
    pub(crate) service: String,
    /// The process that is asked for all of them.
    pub(crate) endpoint: Endpoint,
    /// The processes that have answered.
    pub(crate) processes: Vec<Snapshot>,
    /// The reason why there are none.
    pub(crate) trouble: Option<RequestError>,
}

/// The answers of all that were asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) programs: Vec<Program>,
    /// Sentences about what could not be asked.
    pub(crate) warnings: Vec<String>,
}

impl Found {
    /// Returns the error of a lookup whose programs have not answered.
    pub(crate) fn troubles(&self) -> Failure {
        let troubles = self.programs.iter().filter_map(|program| {
            program.trouble.as_ref().map(|error| format!("{}: {error}", program.endpoint))
        });
        Failure::new(FAILED, troubles.chain(self.warnings.iter().cloned()).collect::<Vec<_>>().join("\n"))
    }
}

impl Lookup {
    /// Reads the words of the command line.
    pub(crate) fn new(words: &[String], token: Option<String>) -> Result<Self, Failure> {
        let targets = words.iter().map(|word| target(word, token.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { targets, token })
    }

    /// Asks the programs, side by side.
    pub(crate) async fn find(&self) -> Found {
        let (sockets, mut warnings) = sockets(&directories());
        let wants_all = self.targets.is_empty();
        let wants_service = self.targets.iter().any(|target| matches!(target, Target::Service(_)));
        let mut endpoints = Vec::new();
        for target in &self.targets {
            match target {
                Target::Endpoint(endpoint) => endpoints.push((endpoint.clone(), true)),
                Target::Process(pid) => match sockets.get(pid).cloned().or_else(|| socket_elsewhere(*pid)) {
                    Some(path) => endpoints.push((Endpoint::unix(path, self.token.clone()), true)),
                    None => warnings.push(cannot_be_watched(*pid)),
                },
                Target::Service(_) => {}
            }
        }
        if wants_all || wants_service {
            let all = sockets.values().map(|path| (Endpoint::unix(path.clone(), self.token.clone()), false));
            endpoints.extend(all);
        }
        let is_wanted = |snapshot: &Snapshot| {
            wants_all
                || self.targets.iter().any(
                    |target| matches!(target, Target::Service(name) if *name == snapshot.process.service),
                )
        };
        let mut programs: Vec<Program> = Vec::new();
        for (endpoint, is_named, answer) in ask_all(endpoints).await {
            match answer {
                Ok(snapshot) if is_named || is_wanted(&snapshot) => add(&mut programs, endpoint, snapshot),
                Err(error) if is_named => programs.push(Program {
                    service: String::new(),
                    endpoint,
                    processes: Vec::new(),
                    trouble: Some(error),
                }),
                Err(RequestError::NobodyListens) => remove_stale(&endpoint),
                Err(error) if wants_all => warnings.push(format!("{endpoint}: {error}")),
                Ok(_) | Err(_) => {}
            }
        }
        for target in &self.targets {
            if let Target::Service(name) = target
                && !programs.iter().any(|program| program.service == *name)
            {
                warnings.push(format!("no program of the service `{name}` can be watched"));
            }
        }
        Found { programs, warnings }
    }

    /// Returns the error of a lookup that has found nothing.
    pub(crate) fn nothing(&self, found: &Found) -> Failure {
        if self.targets.is_empty() {
            let mut message =
                "no program of this user can be watched: start one with OFFLOOP_OBSERVE=1".to_owned();
            let elsewhere = PathBuf::from(format!("/tmp/offloop-{}", geteuid().as_raw()));
            if !directories().contains(&elsewhere) && !sockets(&[elsewhere]).0.is_empty() {
                message.push_str(". Others run without XDG_RUNTIME_DIR: XDG_RUNTIME_DIR= offloop top");
            }
            for warning in &found.warnings {
                message.push_str("\n  ");
                message.push_str(warning);
            }
            Failure::new(NOTHING, message)
        } else {
            Failure::new(NOTHING, found.warnings.join("\n"))
        }
    }

    /// Returns an endpoint of the same service, if a process of it can be watched.
    pub(crate) async fn find_again(&self, service: &str) -> Option<Endpoint> {
        let lookup = Self { targets: vec![Target::Service(service.to_owned())], token: self.token.clone() };
        lookup.find().await.programs.into_iter().next().map(|program| program.endpoint)
    }
}

/// Adds a process to its service. One of two processes that answer at both a socket and an address is left out.
fn add(programs: &mut Vec<Program>, endpoint: Endpoint, snapshot: Snapshot) {
    let service = snapshot.process.service.clone();
    match programs.iter_mut().find(|program| program.service == service && program.trouble.is_none()) {
        Some(program) => {
            if program.processes.iter().all(|other| other.process.pid != snapshot.process.pid) {
                program.processes.push(snapshot);
            }
        }
        None => programs.push(Program { service, endpoint, processes: vec![snapshot], trouble: None }),
    }
}

/// Asks all of them side by side, and returns the answers in the order of the questions.
async fn ask_all(endpoints: Vec<(Endpoint, bool)>) -> Vec<(Endpoint, bool, Result<Snapshot, RequestError>)> {
    let mut asked = JoinSet::new();
    for (place, (endpoint, is_named)) in endpoints.into_iter().take(MOST_SOCKETS).enumerate() {
        asked.spawn(async move {
            let answer = endpoint.ask(Method::GET, "snapshot", ANSWER).await.map(|mut snapshot| {
                clean::snapshot(&mut snapshot);
                snapshot
            });
            (place, endpoint, is_named, answer)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(place, ..)| *place);
    answers.into_iter().map(|(_, endpoint, is_named, answer)| (endpoint, is_named, answer)).collect()
}

/// Removes the socket of a process that has ended. A process that has made its socket, and does not listen yet, is left
/// alone.
fn remove_stale(endpoint: &Endpoint) {
    if let Some(path) = endpoint.path()
        && let Some(pid) = pid_of(path).and_then(|pid| Pid::from_raw(pid.cast_signed()))
        && test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
    {
        // Another viewer may have been faster.
        let _ = fs::remove_file(path);
    }
}

fn target(word: &str, token: Option<&String>) -> Result<Target, Failure> {
    if let Ok(pid) = word.parse() {
        Ok(Target::Process(pid))
    } else if word.contains("://") || is_host_and_port(word) {
        let endpoint =
            Endpoint::parse(word, token.cloned()).map_err(|message| Failure::new(USAGE, message))?;
        Ok(Target::Endpoint(endpoint))
    } else if word.contains('/') || Path::new(word).extension().is_some_and(|extension| extension == "sock") {
        Ok(Target::Endpoint(Endpoint::unix(word.into(), token.cloned())))
    } else {
        Ok(Target::Service(word.to_owned()))
    }
}

fn is_host_and_port(word: &str) -> bool {
    word.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn cannot_be_watched(pid: u32) -> String {
    if Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{pid}")).exists() {
        format!("there is no process {pid}")
    } else {
        format!("process {pid} cannot be watched by this user: start it with OFFLOOP_OBSERVE=1")
    }
}

/// Returns the socket of a process with another environment, such as one that the system has started, or of another user,
/// which only root can use.
fn socket_elsewhere(pid: u32) -> Option<PathBuf> {
    let user = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    if user != geteuid().as_raw() && !geteuid().is_root() {
        return None;
    }
    let places = [format!("/run/user/{user}/offloop"), format!("/tmp/offloop-{user}")];
    let is_private = |directory: &&String| is_private(Path::new(directory), user);
    places
        .iter()
        .filter(is_private)
        .map(|it| Path::new(it).join(format!("{pid}.sock")))
        .find(|path| path.exists())
}

/// Returns whether a directory is that of a user, and nobody else can enter it.
fn is_private(directory: &Path, user: u32) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        let is_open = found.mode() & 0o077 != 0;
        found.is_dir() && found.uid() == user && !is_open
    })
}

/// Returns the directory that holds the sockets of programs with this environment, by the rule of the engine.
fn directories() -> Vec<PathBuf> {
    let user = geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let is_ours =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == user);
    let directory = runtime.filter(is_ours).map(|runtime| runtime.join("offloop"));
    vec![directory.unwrap_or_else(|| PathBuf::from(format!("/tmp/offloop-{user}")))]
}

/// Returns the sockets in the directories, by process id, without that of this process. A directory that others can
/// write is not read: they could show anything under the name of a program.
fn sockets(directories: &[PathBuf]) -> (BTreeMap<u32, PathBuf>, Vec<String>) {
    let mut found = BTreeMap::new();
    let mut warnings = Vec::new();
    for directory in directories {
        if fs::symlink_metadata(directory).is_err() {
            continue;
        }
        if !is_private(directory, geteuid().as_raw()) {
            let shown = text::clean(&directory.display().to_string(), 500);
            warnings
                .push(format!("{shown} is left out: it is not a directory of this user alone (mode 0700)"));
            continue;
        }
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
            if let Some(pid) = pid_of(&path).filter(|pid| is_socket && *pid != std::process::id()) {
                found.entry(pid).or_insert(path);
            }
        }
    }
    (found, warnings)
}

fn pid_of(path: &Path) -> Option<u32> {
    let is_socket = path.extension().is_some_and(|extension| extension == "sock");
    path.file_stem().filter(|_| is_socket)?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_process_a_socket_an_address_or_a_service() {
        let read = |word: &str| target(word, None).unwrap();
        assert!(matches!(read("17"), Target::Process(17)));
        assert!(matches!(read("./17"), Target::Endpoint(endpoint) if endpoint.path().is_some()));
        assert!(matches!(read("17.sock"), Target::Endpoint(endpoint) if endpoint.path().is_some()));
        assert!(matches!(read("localhost:80"), Target::Endpoint(endpoint) if endpoint.path().is_none()));
        assert!(matches!(read("http://h/x"), Target::Endpoint(endpoint) if endpoint.path().is_none()));
        assert!(matches!(read("mercuriy"), Target::Service(name) if name == "mercuriy"));
        assert_eq!(target("https://h", None).unwrap_err().code, USAGE);
    }

    #[test]
    fn a_directory_that_others_can_enter_is_left_out() {
        use std::os::unix::fs::PermissionsExt;
        use std::os::unix::net::UnixListener;

        let directory = std::env::temp_dir().join(format!("offloop-cli-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let _listener = UnixListener::bind(directory.join("1.sock")).unwrap();
        fs::write(directory.join("2.sock"), "no socket").unwrap();
        let read = |mode| {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            sockets(std::slice::from_ref(&directory))
        };
        let (open, private) = (read(0o755), read(0o700));
        fs::remove_dir_all(&directory).unwrap();
        assert!(open.0.is_empty() && open.1[0].contains("0700"), "{open:?}");
        assert_eq!(private.0.keys().copied().collect::<Vec<_>>(), [1]);
        assert!(private.1.is_empty());
    }
}

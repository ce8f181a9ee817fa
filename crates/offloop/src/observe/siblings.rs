//! The other processes of the service, asked through their sockets: all of them side by side, by one thread.

use super::document::{Missing, Snapshot};
use super::message::{Action, Response};

#[cfg(target_os = "linux")]
pub(super) use linux::{pass_on, snapshots};

/// Returns the snapshots of the other processes of this service, and those that have not answered.
#[cfg(not(target_os = "linux"))]
pub(super) fn snapshots(_service: &str) -> (Vec<Snapshot>, Vec<Missing>) {
    (Vec::new(), Vec::new())
}

/// Has another process do something with a job of its own.
#[cfg(not(target_os = "linux"))]
pub(super) fn pass_on(_pid: u32, _job: u64, _action: Action) -> Response {
    Response::error(404, "there is no such process")
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

    use super::{Action, Missing, Response, Snapshot};
    use crate::observe::{directory, http, settings};

    /// The time that the others have for their snapshots.
    const SNAPSHOT_TIMEOUT: Duration = Duration::from_millis(500);

    /// The time that another process has for the stack of a job, or to cancel it.
    const ACTION_TIMEOUT: Duration = Duration::from_secs(10);

    /// The longest answer, in bytes.
    const MAX_ANSWER: usize = 16 << 20;

    /// Returns the snapshots of the other processes of this service, and those that have not answered.
    pub(in crate::observe) fn snapshots(service: &str) -> (Vec<Snapshot>, Vec<Missing>) {
        let Ok(Some(directory)) = directory::existing() else { return (Vec::new(), Vec::new()) };
        let own = std::process::id();
        let target = format!("/snapshot?service={}", encoded(service));
        let mut questions: Vec<Question> = directory::sockets(&directory)
            .into_iter()
            .filter(|(pid, _)| *pid != own)
            .filter_map(|(pid, path)| Question::ask(pid, &path, "GET", &target))
            .collect();
        wait(&mut questions, SNAPSHOT_TIMEOUT);
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for question in questions {
            let pid = question.pid;
            match question.into_answer() {
                Ok((200, body)) => match serde_json::from_slice::<Snapshot>(&body) {
                    Ok(snapshot) => found.push(snapshot),
                    Err(error) => {
                        missing.push(Missing { pid, reason: format!("its answer is unclear: {error}") });
                    }
                },
                // It belongs to another service.
                Ok((404, _)) => {}
                Ok((status, _)) => {
                    missing.push(Missing { pid, reason: format!("it answers with the status {status}") });
                }
                Err(reason) => missing.push(Missing { pid, reason }),
            }
        }
        (found, missing)
    }

    /// Has another process of this service do something with a job of its own.
    pub(in crate::observe) fn pass_on(pid: u32, job: u64, action: Action) -> Response {
        let none =
            || Response::error(404, "there is no such process of this service: look at a new snapshot");
        let Ok(Some(directory)) = directory::existing() else { return none() };
        let path = directory::socket_of(&directory, pid);
        // The process itself may belong to another service, which this one shows nothing of.
        let target = format!("/snapshot?service={}", encoded(&settings::service()));
        let Some(question) = Question::ask(pid, &path, "GET", &target) else { return none() };
        let mut questions = [question];
        wait(&mut questions, SNAPSHOT_TIMEOUT);
        let [question] = questions;
        if !question.into_answer().is_ok_and(|(status, _)| status == 200) {
            return none();
        }
        let (method, what) = match action {
            Action::Stack => ("GET", "stack"),
            Action::Cancel => ("POST", "cancel"),
        };
        let target = format!("/jobs/{pid}/{job}/{what}");
        let Some(question) = Question::ask(pid, &path, method, &target) else { return none() };
        let mut questions = [question];
        wait(&mut questions, ACTION_TIMEOUT);
        let [question] = questions;
        match question.into_answer() {
            Ok((status, body)) => Response::passed_on(status, body),
            Err(reason) => {
                Response::error(502, &format!("process {pid} does not answer: {reason}; try again"))
            }
        }
    }

    /// Encodes what is not a plain letter or digit.
    fn encoded(text: &str) -> String {
        let encode = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            other => format!("%{other:02x}"),
        };
        text.bytes().map(encode).collect()
    }

    /// A request that another process has been sent, and what has come of its answer.
    struct Question {
        pid: u32,
        stream: UnixStream,
        answer: Vec<u8>,
        state: State,
    }

    enum State {
        Waits,
        Ended,
        Failed(io::Error),
    }

    impl Question {
        /// Sends a request. Returns `None` if nobody listens: then the socket is what is left of a process, and goes.
        fn ask(pid: u32, path: &Path, method: &str, target: &str) -> Option<Self> {
            let stream = match connect_now(path) {
                Ok(stream) => stream,
                Err(rustix::io::Errno::CONNREFUSED) => {
                    let _ = std::fs::remove_file(path);
                    return None;
                }
                Err(rustix::io::Errno::NOENT) => return None,
                Err(error) => return Self::failed(pid, error.into()),
            };
            let request = format!("{method} {target} HTTP/1.1\r\nHost: offloop\r\nX-Offloop: 1\r\n\r\n");
            // It is short, so it goes into the empty buffer at once.
            let sent = (&stream).write_all(request.as_bytes());
            let state = sent.map_or_else(State::Failed, |()| State::Waits);
            Some(Self { pid, stream, answer: Vec::new(), state })
        }

        fn failed(pid: u32, error: io::Error) -> Option<Self> {
            let (stream, _) = UnixStream::pair().ok()?;
            Some(Self { pid, stream, answer: Vec::new(), state: State::Failed(error) })
        }

        fn waits(&self) -> bool {
            matches!(self.state, State::Waits)
        }

        /// Takes what has come.
        fn read(&mut self) {
            let mut buffer = [0; 16 * 1024];
            while self.waits() {
                match self.stream.read(&mut buffer) {
                    Ok(0) => self.state = State::Ended,
                    Ok(_) if self.answer.len() > MAX_ANSWER => {
                        self.state = State::Failed(io::Error::other("its answer is too long"));
                    }
                    Ok(length) => self.answer.extend_from_slice(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => self.state = State::Failed(error),
                }
            }
        }

        /// Returns the status and the body, or the reason why there is none.
        fn into_answer(self) -> Result<(u16, Vec<u8>), String> {
            match self.state {
                State::Waits => Err("it has not answered in time".to_owned()),
                State::Failed(error) => Err(error.to_string()),
                State::Ended => match http::response(&self.answer) {
                    Some((status, body)) => Ok((status, body.to_vec())),
                    None => Err("it has ended the connection before its answer was whole".to_owned()),
                },
            }
        }
    }

    /// Connects without waiting: if too many others wait for that process, it is busy.
    fn connect_now(path: &Path) -> rustix::io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket.into())
    }

    /// Waits for the answers, for at most `limit`.
    fn wait(questions: &mut [Question], limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut open: Vec<&mut Question> =
                questions.iter_mut().filter(|question| question.waits()).collect();
            if open.is_empty() || left.is_zero() {
                return;
            }
            let mut polled: Vec<PollFd<'_>> = open
                .iter()
                .map(|question| PollFd::from_borrowed_fd(question.stream.as_fd(), PollFlags::IN))
                .collect();
            let limit = Timespec::try_from(left).ok();
            // After a signal it is asked again. For lack of memory nothing can be done.
            let _ = poll(&mut polled, limit.as_ref());
            let ready: Vec<bool> = polled.iter().map(|entry| !entry.revents().is_empty()).collect();
            for (question, _) in open.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
                question.read();
            }
        }
    }
}

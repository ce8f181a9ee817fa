//! The end of what a command prints, kept while it is passed on or logged, so that the reason of a failure can be told
//! beside it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The number of bytes that are kept.
const KEPT: usize = 12 * 1024;

/// The time that output may still come in after a command has ended. A process that the command left behind may keep
/// its output open for much longer.
const REMAINDER: Duration = Duration::from_secs(2);

/// The destination of what commands print.
#[derive(Clone, Copy)]
pub(crate) enum Output<'a> {
    /// It goes where that of this process goes.
    PassedOn,
    /// It goes into a file, since other commands run at the same time.
    Logged(&'a File),
}

/// Runs a command and returns how it ended with the end of its output. If that is passed on to a terminal, the command has
/// the terminal to itself, and nothing is kept.
pub(crate) fn run(mut command: Command, output: Output<'_>) -> io::Result<(ExitStatus, String)> {
    let (to, errors_to): (Box<dyn Write + Send>, Box<dyn Write + Send>) = match output {
        Output::PassedOn if io::stdout().is_terminal() => return Ok((command.status()?, String::new())),
        Output::PassedOn => (Box::new(io::stdout()), Box::new(io::stderr())),
        Output::Logged(file) => {
            command.stdin(Stdio::null());
            (Box::new(file.try_clone()?), Box::new(file.try_clone()?))
        }
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let (ended, all_ended) = mpsc::channel::<()>();
    pass_on(child.stdout.take(), to, &kept, &ended);
    pass_on(child.stderr.take(), errors_to, &kept, &ended);
    drop(ended);
    let status = child.wait()?;
    // Nothing is ever sent: the channel closes when both threads have read to the end.
    let _ = all_ended.recv_timeout(REMAINDER);
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes: Vec<u8> = kept.iter().copied().collect();
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Starts a thread that copies `from` to `to` and into `kept`, and drops `ended` at the end.
fn pass_on(
    from: Option<impl Read + Send + 'static>,
    mut to: impl Write + Send + 'static,
    kept: &Arc<Mutex<VecDeque<u8>>>,
    ended: &mpsc::Sender<()>,
) {
    let (kept, ended) = (Arc::clone(kept), ended.clone());
    thread::spawn(move || {
        let _ended = ended;
        let mut buffer = [0; 8192];
        let Some(mut from) = from else { return };
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let _ = to.write_all(&buffer[..count]).and_then(|()| to.flush());
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&buffer[..count]);
            let excess = kept.len().saturating_sub(KEPT);
            kept.drain(..excess);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Seek, SeekFrom};

    use super::*;

    /// Tests run with piped output, so this is the way that a log takes.
    fn run_shell(script: &str) -> (ExitStatus, String) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, Output::PassedOn).expect("a shell")
    }

    #[test]
    fn the_end_of_the_output_is_kept_with_the_status() {
        let (status, tail) =
            run_shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 3");
        if io::stdout().is_terminal() {
            return;
        }
        assert_eq!(status.code(), Some(3));
        assert!(tail.len() <= KEPT && tail.ends_with("line 2999\n"), "{tail}");
    }

    #[test]
    fn a_log_has_all_that_a_command_prints() {
        let mut log = tempfile();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; cat; exit 4"]);
        let (status, tail) = run(command, Output::Logged(&log)).expect("a shell");
        assert_eq!(status.code(), Some(4));
        let mut logged = String::new();
        log.seek(SeekFrom::Start(0)).and_then(|_| log.read_to_string(&mut logged)).expect("the log");
        for text in [tail, logged] {
            assert!(text.contains("out\n") && text.contains("err\n"), "{text}");
        }
    }

    /// Returns a file that has no name.
    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("offloop-xtask-{}", std::process::id()));
        let file = File::options().read(true).append(true).create_new(true).open(&path).expect("a new file");
        fs::remove_file(path).expect("the file's name");
        file
    }

    #[test]
    fn a_process_left_behind_does_not_hold_up_the_end() {
        let (status, tail) = run_shell("sleep 30 & echo $!; exit 0");
        assert!(status.success());
        if let Ok(pid) = tail.trim().parse::<u32>() {
            let _ = Command::new("kill").arg(pid.to_string()).status();
        }
    }
}

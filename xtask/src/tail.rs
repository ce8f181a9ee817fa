//! The end of what a command prints, kept while it is passed on. A summary repeats it for a step that failed, so that
//! the reason stands at the end of a long log too.

use std::collections::VecDeque;
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

/// Runs a command and returns how it ended with the end of its output. On a terminal the command has the terminal to
/// itself, and nothing is kept.
pub(crate) fn run(mut command: Command) -> io::Result<(ExitStatus, String)> {
    if io::stdout().is_terminal() {
        return Ok((command.status()?, String::new()));
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let (ended, all_ended) = mpsc::channel::<()>();
    pass_on(child.stdout.take(), io::stdout(), &kept, &ended);
    pass_on(child.stderr.take(), io::stderr(), &kept, &ended);
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
    use super::*;

    /// Tests run with piped output, so this is the way that a log takes.
    fn run_shell(script: &str) -> (ExitStatus, String) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command).expect("a shell")
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
    fn a_process_left_behind_does_not_hold_up_the_end() {
        let (status, tail) = run_shell("sleep 30 & echo $!; exit 0");
        assert!(status.success());
        if let Ok(pid) = tail.trim().parse::<u32>() {
            let _ = Command::new("kill").arg(pid.to_string()).status();
        }
    }
}

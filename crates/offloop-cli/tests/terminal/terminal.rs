//! The view in a real terminal: that of tmux.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Runtime, text, wait_until};

/// A terminal with a shell in it. Each has a tmux server of its own, which is ended with it.
struct Terminal {
    server: String,
}

impl Terminal {
    /// Starts a shell that sees the programs of a runtime directory.
    fn start(runtime: &Runtime, width: u16, height: u16, environment: &[&str]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { server: format!("offloop-cli-{}-{number}", std::process::id()) };
        let directory = format!("XDG_RUNTIME_DIR={}", runtime.path().display());
        let command = format!("OFFLOOP={}", env!("CARGO_BIN_EXE_offloop"));
        let mut arguments =
            ["-f", "/dev/null", "new-session", "-d", "-x", &width.to_string(), "-y", &height.to_string()]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(["env", "LC_ALL=C.UTF-8", "PS1=ready> ", &directory, &command].map(str::to_owned));
        arguments.extend(environment.iter().map(|it| (*it).to_owned()));
        arguments.extend(["bash", "--norc", "--noprofile"].map(str::to_owned));
        terminal.tmux(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        terminal.wait_for("ready>");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let output = Command::new("tmux").args(["-L", &self.server]).args(arguments).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {}", text(&output.stderr));
        output
    }

    /// Presses keys, with the names that tmux gives them.
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a command and Enter.
    fn command(&self, command: &str) {
        self.tmux(&["send-keys", "-l", command]);
        self.press(&["Enter"]);
    }

    fn screen(&self) -> String {
        text(&self.tmux(&["capture-pane", "-p"]).stdout)
    }

    /// Waits until the screen is as expected, and returns it.
    fn wait(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let mut seen = || {
            screen = self.screen();
            condition(&screen)
        };
        let is_seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_until(&mut seen, what)));
        assert!(is_seen.is_ok(), "{what} is not on the screen:\n{}", self.screen());
        screen
    }

    fn wait_for(&self, expected: &str) -> String {
        self.wait(expected, |screen| screen.contains(expected))
    }

    fn wait_for_none_of(&self, unexpected: &str) -> String {
        self.wait(&format!("a screen without {unexpected}"), |screen| !screen.contains(unexpected))
    }

    /// Returns what a program can leave behind in a terminal: the other screen, no cursor, and its modes.
    fn modes(&self) -> String {
        text(
            &self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"]).stdout,
        )
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn programs_are_listed_and_one_is_chosen() {
    let runtime = Runtime::new();
    let (_one, _other) = (runtime.program("billing"), runtime.program("reports"));
    let terminal = Terminal::start(&runtime, 100, 24, &[]);
    terminal.command("$OFFLOOP top");
    let list = terminal.wait_for("2 programs can be watched");
    assert!(list.contains("billing") && list.contains("reports"), "{list}");
    terminal.press(&["F3"]);
    terminal.press(&["-l", "reports"]);
    terminal.press(&["Enter"]);
    terminal.press(&["Enter"]);
    let overview = terminal.wait_for("long_job");
    assert!(overview.starts_with("reports  1 process"), "{overview}");
    terminal.press(&["F2"]);
    terminal.wait_for("2 programs can be watched");
    terminal.press(&["q"]);
    terminal.wait_for("ready>");
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn a_wrong_name_is_an_error_and_not_looked_for() {
    let runtime = Runtime::new();
    let terminal = Terminal::start(&runtime, 100, 24, &[]);
    terminal.command("$OFFLOOP top /nowhere.sock; echo code-$?-");
    let screen = terminal.wait_for("code-1-");
    assert!(screen.contains("/nowhere.sock: nobody listens there"), "{screen}");
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn jobs_are_filtered_sorted_looked_at_and_cancelled() {
    let runtime = Runtime::new();
    let _program = runtime.program("reports");
    let terminal = Terminal::start(&runtime, 100, 24, &[]);
    terminal.command("$OFFLOOP top --interval 0.2");
    terminal.wait_for("long_job");
    terminal.press(&["4"]);
    terminal.press(&["F4"]);
    terminal.press(&["-l", "LONG"]);
    terminal.press(&["Enter"]);
    let filtered = terminal.wait_for_none_of("other_job");
    assert!(filtered.contains("long_job"), "{filtered}");
    terminal.press(&["F6"]);
    terminal.wait_for("Sort by");
    terminal.press(&["Enter"]);
    terminal.press(&["F4", "BSpace", "BSpace", "BSpace", "BSpace", "Enter"]);
    terminal.wait_for("other_job");
    // The first sort was by the time, of which the selected column stays the first choice; now by name, downward.
    terminal.press(&["s", "Home", "Enter"]);
    terminal.wait("the jobs by name", |screen| {
        let place = |name| screen.find(name).unwrap_or(usize::MAX);
        place("long_job ") < place("other_job ") && place("other_job ") < usize::MAX
    });
    terminal.press(&["I"]);
    terminal.wait("the jobs by name, from the end", |screen| {
        let place = |name| screen.find(name).unwrap_or(usize::MAX);
        place("other_job ") < place("long_job ") && place("long_job ") < usize::MAX
    });

    terminal.press(&["Home", "Enter"]);
    terminal.wait_for("Stack");
    terminal.press(&["Escape"]);
    terminal.wait_for_none_of("Stack ");
    terminal.press(&["F9"]);
    terminal.wait_for("Cancel this job?");
    terminal.press(&["n"]);
    let kept = terminal.wait_for("nothing was cancelled");
    assert!(kept.contains("other_job"));
    terminal.press(&["k", "y"]);
    let cancelled = terminal.wait_for_none_of("other_job ");
    assert!(cancelled.contains("long_job"), "{cancelled}");
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn a_program_that_is_killed_and_restarted_is_found_again() {
    let runtime = Runtime::new();
    let mut killed = runtime.program("reports");
    let terminal = Terminal::start(&runtime, 100, 24, &[]);
    terminal.command("$OFFLOOP top --interval 0.2");
    terminal.wait_for("long_job");
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    let lost = terminal.wait_for("NO ANSWER for");
    assert!(lost.contains("long_job") && lost.contains("nobody listens"), "{lost}");
    let again = runtime.program("reports");
    terminal.wait_for_none_of("NO ANSWER");
    terminal.press(&["2"]);
    terminal.wait_for(&again.pid().to_string());
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn each_panel_fits_into_a_small_terminal_and_a_large_one() {
    let runtime = Runtime::new();
    let _program = runtime.program("reports");
    let terminal = Terminal::start(&runtime, 120, 40, &[]);
    terminal.command("$OFFLOOP top");
    terminal.wait_for("long_job");
    for (width, height) in [("60", "15"), ("200", "50"), ("30", "8"), ("60", "15")] {
        terminal.tmux(&["resize-window", "-x", width, "-y", height]);
        for (key, shown) in
            [("2", "PID"), ("3", "work"), ("6", "LOOP"), ("8", "no worker has died"), ("1", "long_job")]
        {
            terminal.press(&[key]);
            if width != "30" {
                terminal.wait(&format!("{shown}, and the keys below it"), |screen| {
                    let last = screen.trim_end().lines().last();
                    screen.contains(shown) && last.is_some_and(|line| line.starts_with("F1Help"))
                });
            }
        }
    }
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn the_terminal_is_left_as_it_was_found_however_the_view_ends() {
    let runtime = Runtime::new();
    let _program = runtime.program("reports");
    let terminal = Terminal::start(&runtime, 100, 24, &[]);
    terminal.command("stty -g > $XDG_RUNTIME_DIR/before; echo $?-set");
    terminal.wait_for("0-set");
    let before = terminal.modes();
    let signal = |name| format!("kill -{name} $(cat $XDG_RUNTIME_DIR/pid)");
    let ends: [(&str, Result<&str, String>, u8); 7] = [
        ("q", Ok("q"), 0),
        ("F10", Ok("F10"), 0),
        ("Ctrl-C", Ok("C-c"), 0),
        ("SIGINT", Err(signal("INT")), 130),
        ("SIGTERM", Err(signal("TERM")), 143),
        ("SIGHUP", Err(signal("HUP")), 129),
        ("SIGQUIT", Err(signal("QUIT")), 131),
    ];
    for (number, (name, end, code)) in ends.into_iter().enumerate() {
        terminal.command(
            "clear; (ulimit -c 0; sh -c 'echo $$ > $XDG_RUNTIME_DIR/pid; exec $OFFLOOP top'; exit $?)",
        );
        terminal.wait_for("long_job");
        assert_ne!(terminal.modes(), before);
        match end {
            Ok(key) => terminal.press(&[key]),
            Err(command) => {
                let mut kill = Command::new("sh");
                assert!(
                    kill.args(["-c", &command])
                        .env("XDG_RUNTIME_DIR", runtime.path())
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
        terminal.wait_for("ready>");
        let file = format!("$XDG_RUNTIME_DIR/after{number}");
        terminal.command(&format!(
            "echo code-$?-; stty -g > {file}; cmp $XDG_RUNTIME_DIR/before {file}; echo end-$?-"
        ));
        let screen = terminal.wait_for("end-0-");
        assert!(screen.contains(&format!("code-{code}-")), "{name}: {screen}");
        assert_eq!(terminal.modes(), before, "{name}");
    }
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn ctrl_z_goes_to_the_shell_and_fg_comes_back() {
    let runtime = Runtime::new();
    let _program = runtime.program("reports");
    let terminal = Terminal::start(&runtime, 100, 24, &[]);
    let before = terminal.modes();
    terminal.command("$OFFLOOP top");
    for _ in 0..2 {
        terminal.wait_for("long_job");
        terminal.press(&["C-z"]);
        terminal.wait_for("Stopped");
        assert_eq!(terminal.modes(), before);
        terminal.command("clear; echo shell-$((20 + 1))");
        terminal.wait_for("shell-21");
        terminal.command("fg");
    }
    terminal.wait_for("long_job");
    terminal.press(&["q"]);
    terminal.wait_for("ready>");
    assert_eq!(terminal.modes(), before);
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn without_colors_and_unicode_nothing_else_is_drawn() {
    let runtime = Runtime::new();
    let _program = runtime.program("reports");
    let terminal = Terminal::start(&runtime, 100, 24, &["LC_ALL=C", "NO_COLOR=1"]);
    terminal.command("$OFFLOOP top");
    terminal.wait_for("long_job");
    terminal.press(&["h"]);
    let screen = terminal.wait_for("+ Help");
    assert!(screen.is_ascii(), "{screen}");
    let drawn = text(&terminal.tmux(&["capture-pane", "-p", "-e"]).stdout);
    let is_color = |code: &str| matches!(code.parse(), Ok(30..=37 | 40..=47 | 90..=107));
    let codes =
        drawn.split("\x1b[").filter_map(|part| part.split_once('m')).flat_map(|(codes, _)| codes.split(';'));
    assert_eq!(codes.filter(|code| is_color(code)).count(), 0, "{drawn:?}");
}

#[test]
#[ignore = "needs tmux: cargo xtask test --only terminal"]
fn pause_stops_the_questions_and_goes_on() {
    let runtime = Runtime::new();
    let mut program = runtime.program("reports");
    let terminal = Terminal::start(&runtime, 100, 24, &[]);
    terminal.command("$OFFLOOP top --interval 0.2");
    terminal.wait_for("long_job");
    terminal.press(&["p"]);
    terminal.wait_for("PAUSED");
    program.0.kill().unwrap();
    program.0.wait().unwrap();
    terminal.press(&["4"]);
    let screen = terminal.wait_for("PAUSED");
    assert!(!screen.contains("NO ANSWER"), "{screen}");
    terminal.press(&["p"]);
    terminal.wait_for("NO ANSWER");
}

//! The terminal, which is left as it was found, whatever ends the program.

use std::io::{self, Stdout, Write};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::process::{Signal, getpgrp, getsid, kill_current_process_group};

use super::app::App;

/// Set while the terminal is ours.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

/// The terminal while it is drawn on. It is restored when this is dropped, and before a panic is reported.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                leave();
                report(info);
            }));
        });
        enter()?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()));
        if terminal.is_err() {
            leave();
        }
        Ok(Self { terminal: terminal? })
    }

    pub(super) fn draw(&mut self, app: &mut App) -> io::Result<()> {
        self.terminal.draw(|frame| app.draw(frame))?;
        Ok(())
    }

    /// Stops the process, as Ctrl-Z does, until the shell lets it go on.
    ///
    /// Does nothing where there is no shell that could: there the process belongs to the group of its session's leader.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        if getsid(None)? == getpgrp() {
            return Ok(());
        }
        leave();
        kill_current_process_group(Signal::STOP)?;
        self.renew()
    }

    /// Draws all anew, after something else has used the terminal.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        // A shell may have changed the mode meanwhile, which is only set if it is not known to be set.
        disable_raw_mode()?;
        enter()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    IS_ENTERED.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste, Hide)
}

/// Restores the terminal, unless that has been done. If it is gone there is nothing to restore.
fn leave() {
    if IS_ENTERED.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), DisableBracketedPaste, LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

//! The view in the terminal.
//!
//! One thread draws. Keys, signals and answers of programs reach it through one channel, each from a thread of its own.

mod app;
mod draw;
mod terminal;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event as TerminalEvent};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::network::{self, News};
use crate::programs::Lookup;
use crate::{FAILED, Failure};
use app::{App, Effect};
use draw::Theme;
use terminal::Screen;

/// The longest time between two looks at the clock, for what is shown as time that passes.
const TICK: Duration = Duration::from_secs(1);
/// The most events that are handled before the screen is drawn again.
const BATCH: usize = 100;

enum Event {
    Terminal(TerminalEvent),
    Signal(i32),
    News(News),
    /// The terminal cannot be read any more.
    NoInput(io::Error),
}

impl From<News> for Event {
    fn from(news: News) -> Self {
        Self::News(news)
    }
}

/// Shows the programs that the lookup finds, until the user quits.
pub(crate) fn run(lookup: Lookup, interval: Duration) -> Result<(), Failure> {
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        let message = "this terminal cannot be drawn on (its TERM is empty or dumb): use --once";
        return Err(Failure::new(FAILED, message));
    }
    // Without a program nothing is drawn, and the exit code says so.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(lookup.find());
    drop(runtime);
    if found.programs.is_empty() {
        return Err(lookup.nothing(&found));
    }
    // A wrong name would otherwise be looked for forever.
    if found.programs.iter().all(|program| program.trouble.is_some()) {
        return Err(found.troubles());
    }
    let (sender, events) = mpsc::channel();
    let commands = network::start(lookup, interval, sender.clone())?;
    let mut app = App::new(Theme::of_environment(), commands);
    app.receive(News::Programs(found));

    let signals = watch_signals(sender.clone())?;
    let mut screen = Screen::enter()?;
    let is_over = Arc::new(AtomicBool::new(false));
    read_keys(sender, is_over.clone());
    let ended = show(&mut app, &mut screen, &events);
    drop(screen);
    is_over.store(true, Ordering::Relaxed);
    signals.close();
    match ended? {
        Some(signal) => Ok(emulate_default_handler(signal)?),
        None => Ok(()),
    }
}

/// Draws and handles events until the user quits, or until a signal arrives that ends the program, and returns it.
fn show(app: &mut App, screen: &mut Screen, events: &Receiver<Event>) -> Result<Option<i32>, Failure> {
    loop {
        screen.draw(app)?;
        let first = match events.recv_timeout(TICK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        };
        for event in std::iter::once(first).chain(events.try_iter().take(BATCH)) {
            let effect = match event {
                Event::Terminal(event) => app.handle(&event),
                Event::Signal(SIGTSTP) => Some(Effect::Suspend),
                Event::Signal(SIGCONT) => Some(Effect::Redraw),
                Event::Signal(signal) => return Ok(Some(signal)),
                Event::News(News::Broken) => {
                    return Err(Failure::new(
                        FAILED,
                        "an error in this program; please report the message above",
                    ));
                }
                Event::News(news) => {
                    app.receive(news);
                    None
                }
                Event::NoInput(error) => {
                    return Err(Failure::new(FAILED, format!("the terminal cannot be read: {error}")));
                }
            };
            match effect {
                Some(Effect::Quit) => return Ok(None),
                Some(Effect::Suspend) => screen.suspend()?,
                Some(Effect::Redraw) => screen.renew()?,
                None => {}
            }
        }
    }
}

fn watch_signals(events: Sender<Event>) -> io::Result<Handle> {
    let mut signals = Signals::new([SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP])?;
    let handle = signals.handle();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(handle)
}

/// Reads the keyboard on a thread of its own, which ends soon after the flag is set.
fn read_keys(events: Sender<Event>, is_over: Arc<AtomicBool>) {
    thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let event = match event::poll(Duration::from_millis(100)) {
                Ok(false) => continue,
                Ok(true) => event::read().map_or_else(Event::NoInput, Event::Terminal),
                Err(error) => Event::NoInput(error),
            };
            let is_last = matches!(event, Event::NoInput(_));
            if events.send(event).is_err() || is_last {
                return;
            }
        }
    });
}

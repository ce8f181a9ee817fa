//! The thread that asks programs while the screen is shown.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use hyper::Method;
use offloop::observe::document::{Service, Stack};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, timeout};

use crate::clean;
use crate::http::{ANSWER, Endpoint};
use crate::programs::{Found, Lookup};

/// The time between two searches for programs.
const SEARCH: Duration = Duration::from_secs(2);

/// A request of the screen.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look for programs to choose from.
    Choose,
    /// Look at a service. The name is empty if it is not known.
    Watch { endpoint: Endpoint, service: String },
    /// Stop looking, or go on.
    Pause(bool),
    /// Ask something about a job of the service.
    Job { pid: u32, id: u64, question: Question },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Question {
    /// Asks for its live stack.
    Stack,
    /// Asks the program to cancel it.
    Cancel,
}

/// An answer to the screen.
#[derive(Debug)]
pub(crate) enum News {
    /// The programs to choose from.
    Programs(Found),
    /// The state of the service that is watched.
    Document(Service),
    /// The service does not answer, for this reason.
    Lost(String),
    /// The service is asked at another process from now on.
    Found(Endpoint),
    Stack {
        pid: u32,
        id: u64,
        stack: Result<Stack, String>,
    },
    Cancelled {
        pid: u32,
        id: u64,
        result: Result<(), String>,
    },
    /// The thread has ended because of an error in it.
    Broken,
}

/// An order of the screen, or the answer to one.
enum Event {
    Command(Command),
    /// A question is answered that was asked in this round.
    Answered {
        round: u64,
        news: Vec<News>,
    },
}

/// Starts the thread. It ends when the sender of commands is dropped.
pub(crate) fn start<T: From<News> + Send + 'static>(
    lookup: Lookup,
    interval: Duration,
    screen: Sender<T>,
) -> io::Result<UnboundedSender<Command>> {
    let (commands, received) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("network".to_owned()).spawn(move || {
        let report = screen.clone();
        let serve = || runtime.block_on(serve(lookup, interval, received, screen));
        if catch_unwind(AssertUnwindSafe(serve)).is_err() {
            let _ = report.send(News::Broken.into());
        }
    })?;
    Ok(commands)
}

/// The subject of the questions.
#[derive(Clone)]
enum Subject {
    Programs,
    Service { endpoint: Endpoint, service: String },
}

async fn serve<T: From<News> + Send + 'static>(
    lookup: Lookup,
    interval: Duration,
    mut commands: UnboundedReceiver<Command>,
    screen: Sender<T>,
) {
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut subject = Subject::Programs;
    let mut is_paused = false;
    // Answers to what was asked about another subject are dropped.
    let mut round = 0;
    let mut is_asking = false;
    let mut next = Instant::now();
    loop {
        if !is_asking && !is_paused && Instant::now() >= next {
            is_asking = true;
            next = Instant::now() + if matches!(subject, Subject::Programs) { SEARCH } else { interval };
            let (lookup, subject, answers) = (lookup.clone(), subject.clone(), answers.clone());
            tokio::spawn(async move {
                let news = ask(&lookup, subject).await;
                let _ = answers.send(Event::Answered { round, news });
            });
        }
        let sleeps = if is_asking || is_paused { Duration::from_secs(3600) } else { next - Instant::now() };
        let Some(event) = next_event(&mut commands, &mut answered, sleeps).await else { return };
        match event {
            Some(Event::Answered { round: of, news }) if of == round => {
                is_asking = false;
                for news in news {
                    if let (News::Found(found), Subject::Service { endpoint, .. }) = (&news, &mut subject) {
                        endpoint.clone_from(found);
                        next = Instant::now();
                    }
                    if let (News::Document(document), Subject::Service { service, .. }) =
                        (&news, &mut subject)
                        && let Some(first) = document.processes.first()
                    {
                        service.clone_from(&first.process.service);
                    }
                    if screen.send(news.into()).is_err() {
                        return;
                    }
                }
            }
            None | Some(Event::Answered { .. }) => {}
            Some(Event::Command(command)) => match command {
                Command::Pause(paused) => is_paused = paused,
                Command::Choose | Command::Watch { .. } => {
                    subject = match command {
                        Command::Watch { endpoint, service } => Subject::Service { endpoint, service },
                        _ => Subject::Programs,
                    };
                    (round, is_asking, is_paused, next) = (round + 1, false, false, Instant::now());
                }
                Command::Job { pid, id, question } => {
                    if let Subject::Service { endpoint, .. } = &subject {
                        let (endpoint, screen) = (endpoint.clone(), screen.clone());
                        tokio::spawn(async move {
                            let _ = screen.send(about_job(&endpoint, pid, id, question).await.into());
                        });
                    }
                }
            },
        }
    }
}

/// Returns the next event, an empty one when the time is up, or `None` when the screen has gone.
async fn next_event(
    commands: &mut UnboundedReceiver<Command>,
    answered: &mut UnboundedReceiver<Event>,
    time: Duration,
) -> Option<Option<Event>> {
    let event = std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(command) = commands.poll_recv(context) {
            return std::task::Poll::Ready(command.map(Event::Command));
        }
        answered.poll_recv(context)
    });
    match timeout(time, event).await {
        Ok(event) => event.map(Some),
        Err(_) => Some(None),
    }
}

async fn ask(lookup: &Lookup, subject: Subject) -> Vec<News> {
    let (endpoint, service) = match subject {
        Subject::Programs => return vec![News::Programs(lookup.find().await)],
        Subject::Service { endpoint, service } => (endpoint, service),
    };
    let error = match document(&endpoint).await {
        Ok(document) => return vec![News::Document(document)],
        Err(error) => error,
    };
    // A program that was restarted has another socket. An address stays the same.
    let again = match endpoint.path() {
        Some(_) if !service.is_empty() => {
            lookup.find_again(&service).await.filter(|found| *found != endpoint)
        }
        _ => None,
    };
    vec![again.map_or(News::Lost(error), News::Found)]
}

/// Asks for the state of a service. Fails with a sentence.
pub(crate) async fn document(endpoint: &Endpoint) -> Result<Service, String> {
    let mut document: Service = endpoint.get("service").await.map_err(|error| error.to_string())?;
    clean::service(&mut document);
    Ok(document)
}

async fn about_job(endpoint: &Endpoint, pid: u32, id: u64, question: Question) -> News {
    match question {
        Question::Cancel => {
            let route = format!("jobs/{pid}/{id}/cancel");
            let answer = endpoint.ask::<serde_json::Value>(Method::POST, &route, ANSWER).await;
            News::Cancelled { pid, id, result: answer.map(drop).map_err(|error| error.to_string()) }
        }
        Question::Stack => {
            let answer = endpoint.get::<Stack>(&format!("jobs/{pid}/{id}/stack")).await;
            News::Stack { pid, id, stack: answer.map(clean::stack).map_err(|error| error.to_string()) }
        }
    }
}

//! The program itself as a worker: `my-program offloop-worker --url nats://… --queue default --slots 4`.

use std::time::Duration;

use super::{Worker, WorkerBuilder, WorkerError};
use crate::connection::{Connection, Credentials};
use crate::security::Trust;

/// The word that makes a program a worker.
const WORD: &str = "offloop-worker";

/// The variable with the URL of the cluster, if there is no `--url`.
const URL: &str = "OFFLOOP_CLUSTER_URL";

const USAGE: &str = "usage: offloop-worker [--url URL] [--namespace NAME] [--storage BYTES] [--queue NAME[=WEIGHT]]... \
    [--slots N] [--drain SECONDS] [--name NAME] [--label LABEL]... [--creds FILE] [--nkey FILE] [--key FILE] \
    [--trust KEY[=TASK,...]]...; without --url, OFFLOOP_CLUSTER_URL names the cluster";

/// Makes this program a worker if its first argument is `offloop-worker`. It serves here then, until SIGTERM or SIGINT,
/// and never returns. Otherwise it does nothing.
///
/// Call it in `main`, after [`offloop::init`]. The arguments: `--url URL` (or the variable `OFFLOOP_CLUSTER_URL`),
/// `--namespace NAME`, `--queue NAME` or `--queue NAME=WEIGHT` (again for each queue), `--slots N`, `--drain SECONDS`,
/// `--name NAME`, `--label LABEL`, `--creds FILE` or `--nkey FILE` to log in with, `--key FILE` with the
/// secret key that signs ends, `--trust KEY` with the public key of a submitter, or `--trust KEY=TASK,TASK` if that may
/// call these tasks only. The program ends with status 0 when the worker has let go of all its jobs, and with 1 if it had
/// to leave some.
///
/// # Errors
///
/// The worker cannot serve. If its arguments are wrong, the program says so and ends with status 2.
pub fn init() -> Result<(), WorkerError> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(WORD) {
        return Ok(());
    }
    let builder = read(arguments, std::env::var(URL).ok()).unwrap_or_else(|reason| {
        eprintln!("{WORD}: {reason}\n{USAGE}");
        std::process::exit(2);
    });
    let left = builder.build()?.serve()?.left;
    if !left.is_empty() {
        eprintln!("{WORD}: the server did not answer, so jobs were left to be taken over: {left:?}");
    }
    std::process::exit(i32::from(!left.is_empty()));
}

/// Reads the arguments after the word.
fn read(
    mut arguments: impl Iterator<Item = String>,
    mut url: Option<String>,
) -> Result<WorkerBuilder, String> {
    let mut options: Vec<(String, String)> = Vec::new();
    while let Some(option) = arguments.next() {
        let (option, value) = match option.split_once('=').filter(|_| option.starts_with("--")) {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None => (option, arguments.next()),
        };
        options.push((option.clone(), value.ok_or_else(|| format!("{option} needs a value"))?));
    }
    if let Some((_, given)) = options.iter().find(|(option, _)| option == "--url") {
        url = Some(given.clone());
    }
    let mut connection = Connection::to(url.ok_or("the URL of the cluster is missing")?);
    let mut trust = Trust::none();
    let mut builder = Worker::builder("");
    for (option, value) in options {
        let number = || value.parse().map_err(|_| format!("{option} needs a number, not `{value}`"));
        match &*option {
            "--url" => {}
            "--namespace" => connection = connection.namespace(value),
            "--storage" => connection = connection.storage(number()? as u64),
            "--creds" => connection = connection.credentials(Credentials::Creds(read_file(&value)?)),
            "--nkey" => {
                connection = connection.credentials(Credentials::Nkey(read_file(&value)?.trim().to_owned()));
            }
            "--key" => {
                let key = read_file(&value)?.parse().map_err(|error| format!("{value}: {error}"))?;
                connection = connection.key(key);
            }
            "--trust" => trust = trust.with(&value).map_err(|error| format!("{option}: {error}"))?,
            "--queue" => {
                let (queue, weight) = value.split_once('=').unwrap_or((&value, "1"));
                let weight =
                    weight.parse().map_err(|_| format!("`{value}` has no weight that is a number"))?;
                builder = builder.queue(queue, weight);
            }
            "--slots" => builder = builder.slots(number()?),
            "--drain" => builder = builder.drain(Duration::from_secs(number()? as u64)),
            "--name" => builder = builder.name(value),
            "--label" => builder = builder.label(value),
            _ => return Err(format!("{option} is no option")),
        }
    }
    builder.connection = connection.trust(trust);
    Ok(builder)
}

fn read_file(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &str) -> Result<WorkerBuilder, String> {
        read(words.split_whitespace().map(str::to_owned), None)
    }

    #[test]
    fn the_arguments_are_read() {
        let read = read_words(
            "--queue a=3 --queue b --slots=2 --drain 5 --url nats://h:1 --name w --namespace n \
                        --storage 9",
        );
        let builder = read.unwrap();
        assert_eq!(builder.queues, [("a".to_owned(), 3), ("b".to_owned(), 1)]);
        assert_eq!((builder.slots, builder.drain), (Some(2), Duration::from_secs(5)));
        assert_eq!((&*builder.connection.url, &*builder.connection.namespace), ("nats://h:1", "n"));
        assert_eq!(builder.connection.storage, Some(9));
        for (wrong, reason) in [
            ("", "URL"),
            ("--url", "needs a value"),
            ("--url u --slots x", "needs a number"),
            ("--url u --queue a=x", "weight"),
            ("--url u --colour red", "no option"),
        ] {
            let error = read_words(wrong).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}

//! Makes 200 calls of a stored function that takes 50 ms: directly on the event loop, and with offloop.
//!
//! Run `cargo run -p offloop-example-servers -- cargo run --release -p offloop-example-postgres`, or set
//! `OFFLOOP_POSTGRES_URL` to the URL of a database.

#[path = "../../../crates/offloop/examples/support/mod.rs"]
mod support;

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use offloop_example_postgres::{Database, FUNCTIONS, double};
use postgres::{Client, NoTls};
use support::{Heartbeat, milliseconds};

const CALLS: i64 = 200;

fn main() -> ExitCode {
    let Ok(url) = std::env::var("OFFLOOP_POSTGRES_URL") else {
        eprintln!(
            "OFFLOOP_POSTGRES_URL is not set: set it to the URL of a database, or install PostgreSQL and run \
             `cargo run -p offloop-example-servers -- cargo run --release -p offloop-example-postgres`"
        );
        return ExitCode::FAILURE;
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(measure(&url)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{url}: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn measure(url: &str) -> Result<(), Box<dyn Error>> {
    Database::new(url, 1)?.call("make functions", |client| client.batch_execute(FUNCTIONS)).await??;
    let heart = Heartbeat::start();
    println!("{:<28}{:>12}{:>14}{:>20}", "200 calls of 50 ms", "connections", "took", "loop late at worst");
    let row = |how, connections: usize, took, late| {
        let (took, late) = (milliseconds(took), milliseconds(late));
        println!("{how:<28}{connections:>12}{took:>14}{late:>20}");
    };

    let (result, took, late) = heart.measure(directly(url)).await;
    result?;
    row("directly on the loop", 1, took, late);
    for connections in [1, 4, 20] {
        let database = Database::new(url, connections)?;
        let (result, took, late) = heart.measure(by_offloop(&database)).await;
        result?;
        row("offloop", connections, took, late);
    }

    let database = Database::new(url, 1)?;
    let stall = async {
        let sql = "SELECT offloop_stall('example')";
        let call = database.call("offloop_stall", |client| client.execute(sql, &[]));
        call.timeout(Duration::from_millis(200)).await
    };
    let (error, took, late) = heart.measure(stall).await;
    println!("\na call of ten minutes with a timeout of 200 ms: {}", error.expect_err("it takes longer"));
    println!("it ended after {}, the loop was late by {} at worst", milliseconds(took), milliseconds(late));
    let since = Instant::now();
    // There is one connection, so this call runs after the other one has ended on the server.
    database.call("offloop_double", |client| double(client, 1)).await??;
    println!("the next call, on a new connection, was answered {} later", milliseconds(since.elapsed()));
    Ok(())
}

/// Calls the driver from a task and waits for the answer there.
async fn directly(url: &str) -> Result<(), Box<dyn Error>> {
    // The driver contains a runtime and panics on a thread of tokio. So the task waits for another thread.
    let mut client = thread::scope(|scope| scope.spawn(|| Client::connect(url, NoTls)).join().unwrap())?;
    for value in 0..CALLS {
        let doubled = thread::scope(|scope| scope.spawn(|| double(&mut client, value)).join().unwrap())?;
        assert_eq!(doubled, 2 * value);
        // Lets other tasks run between two calls.
        tokio::task::yield_now().await;
    }
    thread::scope(|scope| scope.spawn(|| drop(client)).join().unwrap());
    Ok(())
}

async fn by_offloop(database: &Database) -> Result<(), Box<dyn Error>> {
    let call = |value| database.call("offloop_double", move |client| double(client, value));
    let calls: Vec<_> = (0..CALLS).map(|value| (value, call(value))).collect();
    for (value, call) in calls {
        assert_eq!(call.await??, 2 * value);
    }
    Ok(())
}

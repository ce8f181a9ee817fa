//! Makes 200 calls of a remote function that takes 50 ms: directly on the event loop, and with offloop.
//!
//! `cargo run --release -p offloop-example-blocking-protocol`

#[path = "../../../crates/offloop/examples/support/mod.rs"]
mod support;

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use offloop_example_blocking_protocol::{Client, Connector, Parameters, Server, parameters};
use support::{Heartbeat, milliseconds};

const CALLS: u32 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(server.address()))
}

async fn measure(server: SocketAddr) -> Result<(), Box<dyn Error>> {
    let heart = Heartbeat::start();
    println!("{:<28}{:>12}{:>14}{:>20}", "200 calls of 50 ms", "connections", "took", "loop late at worst");
    let row = |how, connections: usize, took, late| {
        let (took, late) = (milliseconds(took), milliseconds(late));
        println!("{how:<28}{connections:>12}{took:>14}{late:>20}");
    };

    let (result, took, late) = heart.measure(directly(server)).await;
    result?;
    row("directly on the loop", 1, took, late);
    for connections in [1, 4, 20] {
        let connector = Connector::new(server, connections)?;
        let (result, took, late) = heart.measure(by_offloop(&connector)).await;
        result?;
        row("offloop", connections, took, late);
    }

    let connector = Connector::new(server, 1)?;
    let stall =
        async { connector.call("STALL", Parameters::new()).timeout(Duration::from_millis(200)).await };
    let (error, took, late) = heart.measure(stall).await;
    println!("\na call that never ends, with a timeout of 200 ms: {}", error.expect_err("it never ends"));
    println!("it ended after {}, the loop was late by {} at worst", milliseconds(took), milliseconds(late));
    let since = Instant::now();
    connector.call("ECHO", Parameters::new()).await??;
    println!("the next call of the same worker was answered {} later", milliseconds(since.elapsed()));
    Ok(())
}

fn order(quantity: u32) -> Parameters {
    parameters([("QUANTITY", &quantity.to_string()), ("PRICE", "3")])
}

/// Calls the connector from a task, as a program without offloop would.
async fn directly(server: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut client = Client::connect(server)?;
    for quantity in 0..CALLS {
        let results = client.call("ORDER_TOTAL", &order(quantity))?;
        assert_eq!(results["TOTAL"], (3 * quantity).to_string());
        // Lets other tasks run between two calls.
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn by_offloop(connector: &Connector) -> Result<(), Box<dyn Error>> {
    let call = |quantity| (quantity, connector.call("ORDER_TOTAL", order(quantity)));
    let calls: Vec<_> = (0..CALLS).map(call).collect();
    for (quantity, call) in calls {
        assert_eq!(call.await??["TOTAL"], (3 * quantity).to_string());
    }
    Ok(())
}

//! A program that can be watched while it runs: one line opens the live view.
//!
//! ```text
//! cargo run --release -p offloop --features observe --example observed
//! ```
//!
//! It prints the address of the page. `offloop top` shows the same in a terminal, and `curl` for programs:
//!
//! ```text
//! curl -s http://127.0.0.1:8811/snapshot
//! ```
//!
//! With an argument, a number of seconds, it ends by itself.

use std::error::Error;
use std::time::{Duration, Instant};

use offloop::{ProcessPool, ThreadPool, prepare};

#[offloop::task]
fn count_primes(below: u64) -> usize {
    (2..below).filter(|n| (2..=n.isqrt()).all(|d| n % d != 0)).count()
}

fn main() -> Result<(), Box<dyn Error>> {
    offloop::init();
    // This is the line.
    let view = offloop::observe::Server::builder().http("127.0.0.1:8811").allow_cancel(true).start()?;
    if let Some(address) = view.http_address() {
        println!("look at http://{address}/, or at `offloop top`; Ctrl-C ends it");
    }

    let connections = ThreadPool::builder().name("connections").max_workers(8).build()?;
    let reports = ProcessPool::builder().name("reports").max_workers(2).build()?;
    let seconds = std::env::args().nth(1).map(|seconds| seconds.parse()).transpose()?;
    let end = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let mut number = 0;
    while end.is_none_or(|end| Instant::now() < end) {
        number += 1;
        let request = format!("request-{number}");
        let time = Duration::from_millis(5 + number * 37 % 200);
        let ask = prepare(move || std::thread::sleep(time)).name("ask").request(request.clone());
        connections.run(ask).detach();
        if number % 5 == 0 {
            reports
                .run(prepare(count_primes.with(20_000 + number * 997 % 400_000)).request(request))
                .detach();
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    Ok(())
}

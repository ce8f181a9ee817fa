#![deny(unused_must_use)]

async fn fetch() -> u64 {
    42
}

async fn slip() -> Result<(), offloop::Error> {
    // The body of `fetch` never runs: the job only makes the future.
    offloop::run(|| fetch()).await?;
    Ok(())
}

fn main() {
    let _ = slip();
}

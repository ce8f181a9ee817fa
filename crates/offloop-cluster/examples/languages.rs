//! A program in Rust that calls a function of Python, and has a task that Python calls.
//!
//! ```text
//! offloop worker my_module --url URL                # a worker in Python
//! cargo run --example languages -- offloop-worker --url URL --queue rust      # this program as a worker
//! cargo run --example languages -- URL default my_module:split "so it goes"
//! ```

#[allow(dead_code, reason = "it is called by its name only")]
#[cfg_attr(target_os = "linux", offloop::task(name = "languages::mean"))]
fn mean(numbers: Vec<f64>) -> Result<f64, String> {
    let count = u32::try_from(numbers.len()).map_err(|_| "too many numbers".to_owned())?;
    if count == 0 { Err("no numbers".to_owned()) } else { Ok(numbers.iter().sum::<f64>() / f64::from(count)) }
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use offloop_cluster::Cluster;

    offloop::init();
    offloop_cluster::init()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, queue, task, text] = &words[..] else {
        return Err("usage: languages URL QUEUE TASK TEXT".into());
    };
    let cluster = Cluster::builder(url).queue(queue).build()?;
    let handle = cluster.call::<Vec<String>>(task, (text,));
    match handle.into_handle().wait() {
        Ok(words) => println!("{}", words.join("|")),
        Err(error) => println!("error: {error}"),
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    // Workers need Linux.
    let _ = mean;
}

//! A program in Rust that calls a function of Python and reads the items of a generator, and has tasks that Python calls.
//!
//! ```text
//! offloop worker my_module --url URL                # a worker in Python
//! cargo run --example languages -- offloop-worker --url URL --queue rust      # this program as a worker
//! cargo run --example languages -- URL default my_module:split "so it goes"
//! cargo run --example languages -- URL default stream my_module:words "so it goes"
//! ```

#[allow(dead_code, reason = "it is called by its name only")]
#[cfg_attr(target_os = "linux", offloop::task(name = "languages::mean"))]
fn mean(numbers: Vec<f64>) -> Result<f64, String> {
    let count = u32::try_from(numbers.len()).map_err(|_| "too many numbers".to_owned())?;
    if count == 0 { Err("no numbers".to_owned()) } else { Ok(numbers.iter().sum::<f64>() / f64::from(count)) }
}

#[allow(dead_code, reason = "it is called by its name only")]
#[cfg_attr(target_os = "linux", offloop::task(name = "languages::halves"))]
fn halves(mut number: f64, count: u32) -> Result<u32, String> {
    for _ in 0..count {
        number /= 2.0;
        offloop::job::emit(&number).map_err(|error| error.to_string())?;
    }
    if number > 0.0 { Ok(count) } else { panic!("there is nothing left to halve") }
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use offloop_cluster::Cluster;

    offloop::init();
    offloop_cluster::init()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (url, queue, is_streamed, task, text) = match &words[..] {
        [url, queue, task, text] => (url, queue, false, task, text),
        [url, queue, stream, task, text] if stream == "stream" => (url, queue, true, task, text),
        _ => return Err("usage: languages URL QUEUE [stream] TASK TEXT".into()),
    };
    let cluster = Cluster::builder(url).queue(queue).build()?;
    let ended = if is_streamed {
        let (handle, mut items) = cluster.call_stream::<String, ()>(task, (text,), 4);
        while let Some(item) = items.wait_next() {
            match item {
                Ok(word) => println!("{word}"),
                Err(error) => println!("error: {error}"),
            }
        }
        handle.into_handle().wait()
    } else {
        let handle = cluster.call::<Vec<String>>(task, (text,));
        handle.into_handle().wait().map(|words| println!("{}", words.join("|")))
    };
    if let Err(error) = ended {
        println!("error: {error}");
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    // Workers need Linux.
    let _ = mean;
}

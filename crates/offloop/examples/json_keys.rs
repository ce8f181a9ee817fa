//! Walks every key of a JSON file in another process while the event loop stays free.
//!
//! `cargo run --release --example json_keys -- FILE` (without FILE it makes 8 MB of JSON)

mod support;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use offloop::{Blob, ProcessPool};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use support::{Heartbeat, milliseconds};

/// The result that the worker returns: the answer, not the data.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Summary {
    keys: u64,
    deepest: Vec<String>,
    frequent: Vec<(String, u64)>,
}

/// Walks a JSON text. The bytes are in memory that both processes share, so nothing is copied on either side.
#[offloop::task]
fn walk(json: Blob) -> Result<Summary, String> {
    let text = std::str::from_utf8(&json).map_err(|error| {
        format!("it is not UTF-8: there is a stray byte at offset {}", error.valid_up_to())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut census = Census::default();
    let mut parser = serde_json::Deserializer::from_str(text);
    Walk(&mut census).deserialize(&mut parser).map_err(|error| format!("it is not valid JSON: {error}"))?;
    parser.end().map_err(|error| format!("there is more after the JSON value: {error}"))?;

    let mut frequent: Vec<_> = census.counts.into_iter().collect();
    frequent.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    frequent.truncate(5);
    Ok(Summary { keys: census.keys, deepest: census.deepest, frequent })
}

/// Counts the keys of a JSON value during the walk.
#[derive(Default)]
struct Census {
    keys: u64,
    path: Vec<String>,
    deepest: Vec<String>,
    counts: HashMap<String, u64>,
}

impl Census {
    fn enter(&mut self, key: String) {
        self.keys += 1;
        match self.counts.get_mut(&key) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(key.clone(), 1);
            }
        }
        self.path.push(key);
        if self.path.len() > self.deepest.len() {
            self.deepest.clone_from(&self.path);
        }
    }
}

/// Visits a JSON value without building it.
struct Walk<'a>(&'a mut Census);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.0.enter(key);
            map.next_value_seed(Walk(self.0))?;
            self.0.path.pop();
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Walk(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

fn main() -> ExitCode {
    // A process that was started as a worker of a pool runs its jobs here and never returns.
    offloop::init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(run()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("json_keys: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let pool = ProcessPool::builder().max_workers(1).build().map_err(|error| error.to_string())?;
    let file = std::env::args_os().nth(1);
    // In the pool's memory, so that it is not copied on its way to the worker.
    let mut json = pool.blob(0);
    let name = if let Some(path) = file {
        let name = path.to_string_lossy().into_owned();
        let read = offloop::run(move || json.fill_from(File::open(path)?).map(|_| json));
        let read = read.await.map_err(|error| error.to_string())?;
        json = read.map_err(|error| format!("{name}: {error}"))?;
        name
    } else {
        json.extend_from_slice(&made_up(8_000_000));
        "8 MB made up for the purpose".to_owned()
    };
    let json = json.freeze();
    // The worker starts in the background. A first job waits for it, so that only the walk is measured.
    pool.run(walk.with(b"{}".to_vec().into())).await.map_err(|error| error.to_string())??;

    let heart = Heartbeat::start();
    let (result, took, late) = heart.measure(pool.run(walk.with(json.clone()))).await;
    let summary = result.map_err(|error| error.to_string())?.map_err(|error| format!("{name}: {error}"))?;
    let (direct, direct_took, direct_late) = heart.measure(async { walk(json.clone()) }).await;
    assert_eq!(direct.as_ref(), Ok(&summary), "the same function gave two answers");

    report(&name, json.len(), &summary);
    row("in the process pool", took, late);
    row("directly on the loop", direct_took, direct_late);
    Ok(())
}

fn report(name: &str, length: usize, summary: &Summary) {
    let frequent: Vec<_> = summary.frequent.iter().map(|(key, count)| format!("{key} ({count})")).collect();
    println!("{name}: {:.1} MB", f64::from(u32::try_from(length).unwrap_or(u32::MAX)) / 1e6);
    println!("  keys           {}", summary.keys);
    println!("  deepest path   {} levels: {}", summary.deepest.len(), summary.deepest.join("."));
    println!("  most frequent  {}", frequent.join(", "));
    println!("{:<22}{:>12}{:>20}", "walked", "took", "loop late at worst");
}

fn row(place: &str, took: Duration, late: Duration) {
    println!("{place:<22}{:>12}{:>20}", milliseconds(took), milliseconds(late));
}

/// Returns a list of records, such as a service could return.
fn made_up(length: usize) -> Vec<u8> {
    let mut json = String::with_capacity(length + 200);
    json.push('[');
    let mut id = 0_u32;
    while json.len() < length {
        if id > 0 {
            json.push(',');
        }
        let (town, latitude, longitude) = (id % 97, id % 90, id % 180);
        let place = format!(r#"{{"city":"town {town}","geo":{{"lat":{latitude},"lon":{longitude}}}}}"#);
        let record = format!(r#"{{"id":{id},"name":"customer {id}","address":{place},"tags":["a","b"]}}"#);
        json.push_str(&record);
        id += 1;
    }
    json.push(']');
    json.into_bytes()
}

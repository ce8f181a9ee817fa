//! Documents that programs have sent, made fit to be shown.
//!
//! A program is not trusted: its document may be much larger than any that offloop writes, and its texts may hold anything.
//! After [`service`] each text is short and printable, and each list has a limit.

use std::collections::BTreeMap;

use offloop::observe::document::{Service, Snapshot, Stack, Times};

use crate::text::clean;

/// The most characters of a name.
const NAME: usize = 200;
/// The most characters of a sentence, and of the last words of a worker.
const SENTENCE: usize = 2000;

/// Limits and cleans a document.
pub(crate) fn service(document: &mut Service) {
    document.processes.truncate(256);
    document.missing.truncate(256);
    for process in &mut document.processes {
        snapshot(process);
    }
    for missing in &mut document.missing {
        shorten(&mut missing.reason, SENTENCE);
    }
}

/// Limits and cleans the document of one process.
pub(crate) fn snapshot(snapshot: &mut Snapshot) {
    let process = &mut snapshot.process;
    process.command.truncate(100);
    for text in
        process.command.iter_mut().chain([&mut process.service, &mut process.language, &mut process.offloop])
    {
        shorten(text, NAME);
    }
    snapshot.pools.truncate(256);
    for pool in &mut snapshot.pools {
        shorten(&mut pool.name, NAME);
        shorten(&mut pool.kind, NAME);
        keys(&mut pool.workers_by_state);
        keys(&mut pool.outcomes);
        keys(&mut pool.outcomes_per_second);
        keys(&mut pool.restarts);
        pool.workers.truncate(1024);
        for worker in &mut pool.workers {
            shorten(&mut worker.state, NAME);
        }
        pool.jobs.truncate(1024);
        for job in &mut pool.jobs {
            for text in job.name.iter_mut().chain(&mut job.request) {
                shorten(text, NAME);
            }
        }
        times(&mut pool.queue_wait);
        times(&mut pool.run_time);
    }
    snapshot.loops.truncate(256);
    for watched in &mut snapshot.loops {
        shorten(&mut watched.name, NAME);
        shorten(&mut watched.kind, NAME);
        times(&mut watched.lateness);
        watched.places.truncate(100);
        for place in &mut watched.places {
            shorten(&mut place.function, NAME);
            for text in place.file.iter_mut().chain(&mut place.activity).chain(&mut place.advice) {
                shorten(text, SENTENCE);
            }
        }
    }
    snapshot.deaths.truncate(100);
    for death in &mut snapshot.deaths {
        for text in [&mut death.pool, &mut death.how].into_iter().chain(&mut death.task) {
            shorten(text, NAME);
        }
        if let Some(words) = &mut death.last_words {
            *words = crate::text::clean_lines(words, 100, NAME).join("\n");
        }
    }
    snapshot.advice.truncate(100);
    for advice in &mut snapshot.advice {
        for text in [&mut advice.pool, &mut advice.task, &mut advice.activity] {
            shorten(text, NAME);
        }
        shorten(&mut advice.text, SENTENCE);
    }
}

/// Limits and cleans the stack of a job.
pub(crate) fn stack(mut stack: Stack) -> Stack {
    stack.frames.truncate(1000);
    shorten(&mut stack.thread, SENTENCE);
    if let Some(note) = &mut stack.note {
        shorten(note, SENTENCE);
    }
    for frame in &mut stack.frames {
        shorten(&mut frame.function, NAME);
        if let Some(file) = &mut frame.file {
            shorten(file, SENTENCE);
        }
    }
    stack
}

fn shorten(text: &mut String, most: usize) {
    *text = clean(text, most);
}

fn keys<V: Copy>(map: &mut BTreeMap<String, V>) {
    *map = map.iter().take(50).map(|(key, value)| (clean(key, NAME), *value)).collect();
}

fn times(times: &mut Times) {
    times.buckets.truncate(4096);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_document_keeps_what_steers_a_terminal() {
        let evil = "\x1b]0;owned\x07\u{202e}";
        let text = include_str!("../tests/documents/service.json");
        // Each text of the sample has the letters in front.
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        prefix(&mut value, evil);
        let mut document: Service = serde_json::from_value(value).unwrap();
        service(&mut document);
        let cleaned = serde_json::to_string(&document).unwrap();
        assert!(cleaned.matches("]0;owned").count() > 50);
        assert!(!cleaned.contains("\\u001b") && !cleaned.contains('\u{202e}'), "{cleaned}");
    }

    fn prefix(value: &mut serde_json::Value, with: &str) {
        match value {
            serde_json::Value::String(text) => text.insert_str(0, with),
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| prefix(item, with)),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| prefix(field, with)),
            _ => {}
        }
    }
}

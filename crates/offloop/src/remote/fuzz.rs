//! The entries for a fuzzer of what comes from another place: a call, and the reason why a job has no result.

use std::time::Duration;

use super::errors::{pack_error, unpack_error};
use super::outbound::{Instructions, Outbound};
use crate::core::signature::Signature;
use crate::wire::msgpack;

/// Takes bytes from the front of an input, as far as there are any.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Returns a text whose length the next two bytes say, up to somewhat more than the limits allow.
    fn text(&mut self) -> String {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()])).min(5000);
        // A short input stands for a long text, too.
        let letter = char::from(self.byte());
        letter.to_string().repeat(length)
    }
}

/// Takes the first bytes for a call's task and instructions, and the rest for its arguments.
pub fn received(bytes: &[u8]) {
    examine_received(bytes);
}

/// Returns whether the call is one.
fn examine_received(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let flags = input.byte();
    let has = |bit: u8| flags & (1 << bit) != 0;
    let task = if has(0) { input.text() } else { "task".to_owned() };
    let mut asked =
        Instructions { name: if has(1) { input.text() } else { String::new() }, ..Instructions::default() };
    asked.request = has(2).then(|| input.text());
    asked.carried = has(3).then(|| vec![7; usize::from(input.byte()) << 9].into());
    asked.capture = has(4).then(|| usize::from(input.byte()) << 20);
    asked.stream = has(5).then(|| usize::from(input.byte()) << 10);
    asked.run_timeout = has(6).then(|| Duration::from_nanos(u64::from(input.byte())));
    let arguments = input.0.to_vec();
    let sizes = (task.len(), asked.name.len(), asked.request.as_ref().map(String::len));
    match Outbound::received(task, Signature::from_u64(1), arguments.clone(), asked.clone()) {
        Ok(call) => {
            assert!(sizes.0 <= 1024 && sizes.1 <= 4096 && sizes.2.unwrap_or(0) <= 4096);
            assert!(asked.carried.is_none_or(|it| it.len() <= 64 << 10));
            assert!(
                asked.capture.is_none_or(|it| it <= 64 << 20) && asked.stream.is_none_or(|it| it <= 64 << 10)
            );
            assert_eq!(call.arguments(), arguments);
            msgpack::check(call.arguments()).expect("they were checked");
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000);
            false
        }
    }
}

/// Takes the bytes for the reason why a job has no result.
pub fn error(bytes: &[u8]) {
    examine_error(bytes);
}

/// Returns whether they are one.
fn examine_error(bytes: &[u8]) -> bool {
    let Ok(kind) = unpack_error(bytes) else { return false };
    let again = pack_error(&kind);
    let text = kind.to_string();
    assert!(text.len() <= 16 * bytes.len() + 4096, "a text is no longer than what has come allows");
    let kind = unpack_error(&again).expect("what was read can be written");
    assert_eq!(kind.to_string(), text);
    assert_eq!(pack_error(&kind), again);
    true
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::core::error::{ErrorKind, WorkerDied, WorkerExit};

    type Entry = (&'static str, fn(&[u8]) -> bool);

    const ENTRIES: [Entry; 2] = [("received", examine_received), ("error", examine_error)];

    /// The number of changed inputs of each entry that are tried.
    const INPUTS: usize = 5_000;

    /// Returns the folder of an entry's inputs. It is not part of the published crate.
    fn corpus(name: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus")).join(name)
    }

    /// Returns inputs that each entry takes.
    fn seeds(name: &str) -> Vec<(&'static str, Vec<u8>)> {
        let packed = |kind: ErrorKind| pack_error(&kind);
        match name {
            "received" => vec![
                ("plain", vec![0, 7]),
                ("nothing", vec![0]),
                (
                    "values",
                    [&[0][..], &[0x92, 0xa1, b'a', 0xc3], &[0x81, 0xa1, b'k', 0xcb], &[0; 8]].concat(),
                ),
                ("named", vec![7, 4, 0, b't', 9, 0, b'n', 3, 0, b'r', 1, 2]),
                ("all", vec![0x7f, 4, 0, b't', 9, 0, b'n', 3, 0, b'r', 9, 9, 9, 9, 0x93, 1, 0xc0, 0xc4, 0]),
                ("deep", [vec![0], vec![0x91; 128], vec![1]].concat()),
            ],
            "error" => vec![
                ("cancelled", packed(ErrorKind::Cancelled)),
                ("full", packed(ErrorKind::QueueFull { capacity: 7 })),
                ("late", packed(ErrorKind::RunTimeout(Duration::from_millis(1)))),
                ("died", {
                    let (exit, task, stderr) = (WorkerExit::Lost, "t".to_owned(), "oh".to_owned());
                    packed(ErrorKind::WorkerDied(WorkerDied {
                        pid: 7,
                        exit,
                        task,
                        peak_memory: 1 << 30,
                        out_of_memory: true,
                        max_rss: Some(1 << 20),
                        workers_lost: 1,
                        stderr,
                    }))
                }),
                ("unreachable", packed(ErrorKind::Unreachable("no route".into()))),
                ("lost", {
                    let (worker, host) = ("w".to_owned(), "h".to_owned());
                    packed(ErrorKind::Lost { worker, host, attempt: 2, silent_for: Duration::from_secs(10) })
                }),
                ("missing", {
                    let offered = vec![Signature::from_u64(2)];
                    let workers = vec!["w on h".to_owned()];
                    let wanted = Signature::from_u64(1);
                    packed(ErrorKind::NoSuchTask { task: "t".to_owned(), wanted, offered, workers })
                }),
            ],
            other => unreachable!("{other} is no entry"),
        }
    }

    /// `cargo test -p offloop --lib -- --ignored corpora_of_what_comes`
    #[test]
    #[ignore = "writes to the source tree"]
    fn the_corpora_of_what_comes_from_elsewhere_are_written() {
        for (name, _) in ENTRIES {
            std::fs::create_dir_all(corpus(name)).unwrap();
            for (seed, bytes) in seeds(name) {
                std::fs::write(corpus(name).join(seed), bytes).unwrap();
            }
        }
    }

    #[test]
    fn seeds_are_taken() {
        for (name, entry) in ENTRIES {
            for (seed, bytes) in seeds(name) {
                assert!(entry(&bytes), "{name}/{seed}");
            }
        }
        assert!(!examine_received(&[0, 0xc1]) && !examine_error(b"\xc0") && !examine_error(b""));
    }

    #[test]
    fn nothing_that_comes_from_elsewhere_does_harm() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut roll = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % bound as u64).unwrap()
        };
        for (name, entry) in ENTRIES {
            let mut inputs: Vec<Vec<u8>> = seeds(name).into_iter().map(|(_, bytes)| bytes).collect();
            let files = std::fs::read_dir(corpus(name)).into_iter().flatten();
            inputs.extend(files.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
            for bytes in &inputs {
                entry(bytes);
            }
            for _ in 0..INPUTS {
                let mut bytes = inputs[roll(inputs.len())].clone();
                for _ in 0..=roll(3) {
                    let (end, random) = (bytes.len(), u8::try_from(roll(256)).unwrap());
                    match roll(4) {
                        0 if end > 0 => bytes[roll(end)] ^= 1 << roll(8),
                        1 if end > 0 => bytes[roll(end)] = random,
                        2 => bytes.truncate(roll(end + 1)),
                        _ => bytes.insert(roll(end + 1), random),
                    }
                }
                entry(&bytes);
            }
        }
    }
}

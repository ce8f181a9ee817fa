//! Promises about the values of tasks: they arrive as they were sent or the job fails, and none can hurt its caller.
#![cfg(all(feature = "process", target_os = "linux"))]
#![allow(missing_docs, reason = "this is a test")]
#![allow(clippy::option_option, reason = "the difference must survive")]
#![allow(clippy::unnecessary_wraps, reason = "an initializer that succeeds")]
#![allow(clippy::needless_pass_by_value, reason = "the tasks here own their arguments on purpose")]

mod process_support;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use offloop::{Blob, BlobMut, ErrorKind, ProcessPool, job};
use process_support::{add, eventually, pool, this_test_again};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

offloop::init_tests!();

// ---- Types with attributes ----

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Order {
    id: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    voucher: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<u32>,
    quantity: u32,
    price: u32,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Step {
    Begin,
    #[serde(skip)]
    #[allow(dead_code, reason = "a variant that is never sent changes the numbers of the others")]
    Internal,
    Charge,
    Refund,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(untagged)]
enum Loose {
    Number(u32),
    Text(String),
    At { address: IpAddr, blob: Blob },
    Blob(Blob),
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "type")]
enum Tagged {
    Leaf { value: Option<Option<u8>> },
    Flat(Flat),
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Flat {
    #[serde(flatten)]
    order: Order,
    blob: Blob,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// All of them in one value.
type All = (Order, Vec<Step>, Vec<Loose>, Vec<Tagged>, serde_json::Value, (Option<()>, Option<Option<u8>>));

#[offloop::task]
fn back(all: All, more: u32) -> (All, u32) {
    (all, more)
}

#[offloop::task]
fn shown(all: All, more: u32) -> String {
    format!("{all:?} {more}")
}

fn blob(length: usize, byte: u8) -> Blob {
    let mut blob = BlobMut::zeroed(length);
    blob.fill(byte);
    blob.freeze()
}

fn all() -> All {
    let order = Order { id: 7, voucher: None, tags: vec![], quantity: 1, price: 2 };
    let rest = BTreeMap::from([("more".to_owned(), serde_json::json!({"a": [1, "b", null, -1.5]}))]);
    (
        order.clone(),
        vec![Step::Begin, Step::Charge, Step::Refund],
        vec![
            Loose::Number(3),
            Loose::Text("text".to_owned()),
            Loose::At { address: "::1".parse().unwrap(), blob: blob(5000, 1) },
            Loose::Blob(blob(3000, 2)),
            Loose::Number(0),
        ],
        vec![
            Tagged::Leaf { value: Some(None) },
            Tagged::Leaf { value: Some(Some(1)) },
            Tagged::Leaf { value: None },
            Tagged::Flat(Flat { order, blob: blob(4000, 3), rest }),
        ],
        serde_json::json!([null, true, "x", {"y": 1}]),
        (Some(()), Some(None)),
    )
}

#[test]
fn types_with_attributes_arrive_as_on_a_thread() {
    let pool = pool(1);
    assert_eq!(pool.run(back.with(all(), 9)).wait().unwrap(), (all(), 9));
    assert_eq!(offloop::run(back.with(all(), 9)).wait().unwrap(), (all(), 9));
    let in_a_thread = offloop::run(shown.with(all(), 9)).wait().unwrap();
    assert_eq!(pool.run(shown.with(all(), 9)).wait().unwrap(), in_a_thread);
}

/// Writes two elements and reads one.
#[derive(Debug, PartialEq)]
struct Forgets(u32);

impl Serialize for Forgets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0, self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Forgets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <(u32,)>::deserialize(deserializer).map(|(first,)| Self(first))
    }
}

#[offloop::task]
fn forgets(_it: Forgets) {}

#[offloop::task]
fn forgetful() -> Forgets {
    Forgets(1)
}

#[test]
fn a_value_that_is_not_read_to_its_end_is_an_error() {
    let pool = pool(1);
    let error = pool.run(forgets.with(Forgets(1))).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode(text) if text.contains("left over")), "{error}");
    let error = pool.run(forgetful.with()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode(text) if text.contains("left over")), "{error}");
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
}

// ---- Borrowed arguments ----

fn within(part: &[u8], whole: &[u8]) -> bool {
    whole.as_ptr_range().contains(&part.as_ptr())
}

#[offloop::task]
fn borrows(text: Cow<'_, str>, bytes: Cow<'_, [u8]>, plain: &str, owned: Cow<'static, str>) -> [bool; 3] {
    let is_borrowed = matches!((&text, &bytes), (Cow::Borrowed(_), Cow::Borrowed(_)));
    [is_borrowed, matches!(owned, Cow::Owned(_)), !within(plain.as_bytes(), text.as_bytes())]
}

#[test]
fn a_cow_borrows_what_has_arrived() {
    for length in [3, 100_000] {
        let text = "x".repeat(length);
        let call = borrows.with(text.as_str().into(), Cow::Owned(vec![1; length]), "plain", "owned".into());
        assert_eq!(pool(1).run(call).wait().unwrap(), [true; 3]);
    }
}

#[offloop::task]
fn borrows_within(pair: (&str, Option<&[u8]>)) -> usize {
    pair.0.len() + pair.1.map_or(0, <[u8]>::len)
}

#[test]
fn text_and_bytes_within_other_types_are_borrowed_too() {
    let pool = pool(1);
    let bytes = vec![200; 5000];
    assert_eq!(pool.run(borrows_within.with(("text", Some(&bytes)))).wait().unwrap(), 5004);
    assert_eq!(pool.run(borrows_within.with(("text", None))).wait().unwrap(), 4);
}

// ---- Deep values ----

#[derive(Serialize, Deserialize, Debug)]
struct Node {
    value: u32,
    next: Option<Box<Node>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut node) = next {
            next = node.next.take();
        }
    }
}

fn nodes(count: u32) -> Node {
    let first = Node { value: 0, next: None };
    (1..count).fold(first, |node, value| Node { value, next: Some(Box::new(node)) })
}

#[offloop::task]
fn nested(count: u32) -> Node {
    nodes(count)
}

#[offloop::task]
fn emits_nested(count: u32) -> String {
    job::emit(&nodes(count)).map_or_else(|error| error.to_string(), |()| "sent".to_owned())
}

#[offloop::task]
fn length_of(node: Node) -> u32 {
    node.value
}

#[test]
fn a_deep_value_is_an_error_of_its_job_and_not_the_end_of_the_program() {
    let pool = pool(1);
    let is_too_deep = |error: offloop::Error| {
        assert!(matches!(error.kind(), ErrorKind::Encode(text) if text.contains("128 levels")), "{error}");
    };
    assert_eq!(pool.run(nested.with(60)).wait().unwrap().value, 59);
    for count in [65, 1000, 100_000] {
        is_too_deep(pool.run(nested.with(count)).wait().unwrap_err());
        is_too_deep(pool.run(length_of.with(nodes(count))).wait().unwrap_err());
        let (end, mut items) = pool.stream::<Node, _>(emits_nested.with(count), 1);
        assert!(items.wait_next().is_none());
        assert!(end.wait().unwrap().contains("128 levels"));
    }
    assert_eq!(pool.run(length_of.with(nodes(60))).wait().unwrap(), 59);
    // Neither was the worker lost.
    assert_eq!(pool.metrics().restarts.crashed, 0);
}

// ---- Slow values ----

/// Decoding it waits until the test says so, in the process of the test.
#[derive(Serialize, Debug)]
struct Slow(u32);

static IS_HELD: AtomicBool = AtomicBool::new(false);
static WAITING: AtomicU32 = AtomicU32::new(0);

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        WAITING.fetch_add(1, Ordering::SeqCst);
        while IS_HELD.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        WAITING.fetch_sub(1, Ordering::SeqCst);
        Ok(Self(number))
    }
}

#[offloop::task]
fn slow(number: u32) -> Slow {
    Slow(number)
}

#[offloop::task]
fn emits_slow() {
    job::emit(&Slow(1)).unwrap();
    job::emit(&Slow(2)).unwrap();
}

#[offloop::task]
fn slow_verdict() -> Result<(), SlowReason> {
    Ok(())
}

#[derive(Serialize, Debug)]
struct SlowReason(Slow);

impl<'de> Deserialize<'de> for SlowReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Slow::deserialize(deserializer).map(Self)
    }
}

impl Display for SlowReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

#[test]
fn a_slow_result_or_item_holds_up_nobody_else() {
    let pool = pool(2);
    IS_HELD.store(true, Ordering::SeqCst);
    // Of more results than this machine has cores.
    let held: Vec<_> = (0..6).map(|number| pool.run(slow.with(number))).collect();
    let (end, mut items) = pool.stream::<Slow, _>(emits_slow.with(), 2);
    eventually("all results are being decoded", || WAITING.load(Ordering::SeqCst) == 6);
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
    // An event loop goes on beside one that is awaited, and beside an item.
    futures_lite::future::block_on(async {
        let mut item = Box::pin(items.next());
        assert!(futures_lite::future::poll_once(&mut item).await.is_none());
        let mut one = pool.run(slow.with(7));
        for _ in 0..20 {
            assert!(futures_lite::future::poll_once(&mut one).await.is_none());
            assert_eq!(pool.run(add.with(3, 4)).await.unwrap(), 7);
        }
        IS_HELD.store(false, Ordering::SeqCst);
        assert_eq!(one.await.unwrap().0, 7);
        assert_eq!(item.await.unwrap().unwrap().0, 1);
        assert_eq!(items.next().await.unwrap().unwrap().0, 2);
        assert!(items.next().await.is_none());
    });
    end.wait().unwrap();
    for (number, handle) in (0..).zip(held) {
        assert_eq!(handle.wait().unwrap().0, number);
    }
}

#[offloop::task]
fn slow_of_bytes(bytes: Vec<u8>) -> Slow {
    Slow(u32::from(bytes[0]))
}

#[test]
fn the_memory_of_arguments_goes_back_while_a_slow_result_is_decoded() {
    // In a process of its own, since the memory of all pools is measured.
    assert!(this_test_again("gives_memory_back_beside_a_slow_result", &[]).contains("memory went back"));
}

#[test]
#[ignore = "run by the test above"]
fn gives_memory_back_beside_a_slow_result() {
    let shared = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssShmem:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let pool = pool(1);
    IS_HELD.store(true, Ordering::SeqCst);
    let handle = pool.run(slow_of_bytes.with(vec![7; 32 << 20]));
    assert!(shared() >= 32, "{} MiB", shared());
    eventually("the result is being decoded", || WAITING.load(Ordering::SeqCst) == 1);
    eventually("the memory has gone back", || shared() < 8);
    IS_HELD.store(false, Ordering::SeqCst);
    assert_eq!(handle.wait().unwrap().0, 7);
    println!("memory went back");
}

#[test]
fn an_initializer_may_return_an_error_of_any_type() {
    #[offloop::task]
    fn fails() -> Result<(), SlowReason> {
        Err(SlowReason(Slow(1)))
    }

    let run = |call| {
        let pool = ProcessPool::builder().max_workers(1).initializer(&call).build().unwrap();
        pool.run(add.with(1, 2)).wait()
    };
    assert_eq!(run(slow_verdict.with()).unwrap(), 3);
    let error = run(fails.with()).unwrap_err();
    assert!(error.to_string().contains("slow"), "{error}");
}

// ---- Items of another type ----

#[offloop::task]
fn pairs() {
    (0..3_u32).for_each(|number| job::emit(&(number + 300, number)).unwrap());
}

#[offloop::task]
fn names() {
    job::emit("abc").unwrap();
    job::emit(&String::from("def")).unwrap();
}

fn read<T: DeserializeOwned + Send + Debug + 'static>(call: offloop::Call<'_, ()>) -> Vec<String> {
    let (end, mut items) = pool(1).stream::<T, _>(call, 4);
    let mut got = Vec::new();
    while let Some(item) = items.wait_next() {
        got.push(match item {
            Ok(item) => format!("{item:?}"),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Decode(_)), "{error}");
                assert!(error.to_string().contains("asked for"), "{error}");
                "error".to_owned()
            }
        });
    }
    end.wait().unwrap();
    got
}

#[test]
fn an_item_of_another_type_is_an_error() {
    assert_eq!(read::<(u32, u32)>(pairs.with()), ["(300, 0)", "(301, 1)", "(302, 2)"]);
    assert_eq!(read::<u32>(pairs.with()), ["error"; 3]);
    assert_eq!(read::<u8>(pairs.with()), ["error"; 3]);
    assert_eq!(read::<(u32, u64)>(pairs.with()), ["error"; 3]);
    assert_eq!(read::<String>(names.with()), ["\"abc\"", "\"def\""]);
    assert_eq!(read::<u64>(names.with()), ["error"; 2]);
    assert_eq!(read::<()>(names.with()), ["error"; 2]);
    assert_eq!(read::<[u8; 3]>(names.with()), ["error"; 2]);
}

// ---- Memory that changes ----

/// Returns the place of this worker's own arena.
fn arena() -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("offloop-arena") && line.contains("rw-s"))?;
    usize::from_str_radix(line.split_once('-')?.0, 16).ok()
}

/// Writes to the worker's arena forever: bytes that are not UTF-8, and such that are.
fn write_astray(length: usize) {
    let Some(start) = arena() else { return };
    std::thread::spawn(move || {
        loop {
            for byte in [0xff, b'a'] {
                for at in (0..length).step_by(64) {
                    // SAFETY: it is the purpose of this test to write to memory that another process reads. The range
                    // is within the arena, of which this process has used as much, and nothing here relies on it.
                    unsafe { ((start + 4096 + at) as *mut u8).write_volatile(byte) };
                }
            }
        }
    });
}

#[offloop::task]
fn a_text(length: usize, is_astray: bool) -> String {
    if is_astray {
        write_astray(length / 2);
    }
    "a".repeat(length)
}

#[offloop::task]
fn list_of_text(length: usize) -> Vec<String> {
    vec!["a".repeat(length)]
}

#[test]
fn a_text_stays_utf_8_whatever_its_worker_writes() {
    let pool = pool(1);
    let length = 1 << 20;
    for _ in 0..2 {
        pool.run(a_text.with(length, false)).wait().unwrap();
    }
    let is_valid = |text: &str| std::str::from_utf8(text.as_bytes()).is_ok();
    for turn in 0..150 {
        if let Ok(text) = pool.run(a_text.with(length, turn == 0)).wait() {
            assert!(is_valid(&text), "turn {turn}");
        }
        if let Ok(texts) = pool.run(list_of_text.with(length)).wait() {
            assert!(is_valid(&texts[0]), "turn {turn}");
        }
    }
}

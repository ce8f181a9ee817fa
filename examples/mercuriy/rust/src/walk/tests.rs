use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn walked(document: &[u8]) -> Result<Counts, WalkError> {
    walk(document, None, |_| ControlFlow::Continue(()))
}

fn found(document: &str, path: &str) -> Option<Found> {
    walk(document.as_bytes(), Some(path), |_| ControlFlow::Continue(())).expect("it is JSON").found
}

fn value(json: &str) -> Found {
    Found::Value(json.to_owned())
}

#[track_caller]
fn assert_fails(document: &[u8], kind: WalkErrorKind, at: usize) {
    let error = walked(document).expect_err("it is not JSON");
    assert_eq!((error.kind, error.at), (kind, at), "{}: {error}", String::from_utf8_lossy(document));
}

#[test]
fn keys_values_and_depth_are_counted() {
    let counts = walked(br#" {"a": [1, {"b": null}], "b": "x"} "#).expect("it is JSON");
    assert_eq!((counts.bytes, counts.keys, counts.values), (35, 3, 6));
    assert_eq!(counts.deepest, Deepest { depth: 3, path: "a.1.b".to_owned() });
    let frequent: Vec<_> = counts.frequent.iter().map(|one| (one.key.as_str(), one.count)).collect();
    assert_eq!(frequent, [("b", 2), ("a", 1)]);
}

#[test]
fn the_ten_most_frequent_keys_are_in_order() {
    let document = json!((0..20).map(|n| json!({format!("k{n:02}"): 0, "k19": 1})).collect::<Vec<_>>());
    let counts = walked(document.to_string().as_bytes()).expect("it is JSON");
    let keys: Vec<_> = counts.frequent.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys, ["k19", "k00", "k01", "k02", "k03", "k04", "k05", "k06", "k07", "k08"]);
}

#[test]
fn a_value_is_found_by_its_path() {
    let document = r#"{"a": [{"b": 1}, [true, "\u00e4"], {"": {"x": [ 1 ]}}], "00": 7}"#;
    assert_eq!(found(document, "a.0.b"), Some(value("1")));
    assert_eq!(found(document, "a.1.1"), Some(value(r#""\u00e4""#)));
    assert_eq!(found(document, "a.2..x"), Some(value("[ 1 ]")));
    assert_eq!(found(document, "00"), Some(value("7")));
    assert_eq!(found(document, ""), Some(value(document)));
    for missing in ["a.00.b", "a.+0.b", "a.3", "b", "a.0.b.c", ".", "a."] {
        assert_eq!(found(document, missing), None, "{missing}");
    }
}

#[test]
fn the_last_of_equal_keys_is_found() {
    assert_eq!(found(r#"{"a": 1, "a": {"b": 2}}"#, "a"), Some(value(r#"{"b": 2}"#)));
}

#[test]
fn of_a_long_value_the_beginning_is_found() {
    let whole = format!("\"{}\"", "ä".repeat(511));
    assert_eq!(found(&format!("[{whole}]"), "0"), Some(value(&whole)));
    let long = format!("[\"x{}\"]", "ä".repeat(600));
    let beginning = format!("\"x{}", "ä".repeat(511));
    assert_eq!(found(&long, "0"), Some(Found::Text(beginning)));
}

#[test]
fn a_number_that_no_double_holds_is_found_as_text() {
    assert_eq!(found("[1e999]", "0"), Some(Found::Text("1e999".to_owned())));
    let digits = "1".repeat(300);
    assert_eq!(found(&format!("[{digits}]"), "0"), Some(value(&digits)));
}

#[test]
fn a_number_may_have_any_length() {
    let digits = "9".repeat(100_000);
    assert!(walked(format!("[{digits}, -{digits}.{digits}e{digits}]").as_bytes()).is_ok());
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let counts = walked(b"\xef\xbb\xbf[1]").expect("it is JSON");
    assert_eq!((counts.bytes, counts.values), (6, 2));
    assert_fails(b"\xef\xbb\xbf[1,]", WalkErrorKind::NotJson, 6);
}

#[test]
fn as_deep_as_allowed_is_walked_and_one_deeper_is_not() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let counts = walked(nested(MAX_DEPTH).as_bytes()).expect("it is allowed");
    assert_eq!(counts.deepest.depth, MAX_DEPTH - 1);
    assert_fails(nested(MAX_DEPTH + 1).as_bytes(), WalkErrorKind::TooDeep, MAX_DEPTH);
    // The walk ends there, however deep it is.
    assert_fails("{\"a\":".repeat(1_000_000).as_bytes(), WalkErrorKind::TooDeep, 5 * MAX_DEPTH);
}

#[test]
fn the_first_fault_is_reported_with_its_place() {
    assert_fails(b"[1, 2 3]", WalkErrorKind::NotJson, 6);
    assert_fails(b"[1]x", WalkErrorKind::NotJson, 3);
    assert_fails(b"[1 x \xff]", WalkErrorKind::NotJson, 3);
    assert_fails(b"[\"\xff\"]", WalkErrorKind::NotUtf8, 2);
    assert_fails(b"[1, \xff", WalkErrorKind::NotUtf8, 4);
    assert_fails(b"{1: 2}", WalkErrorKind::NotJson, 1);
}

#[test]
fn a_document_that_ends_early_is_truncated() {
    for whole in [r#"{"key": ["text", 12, true, {"a": null}]}"#, "[\"\u{e4}\u{20ac}\"]"] {
        for length in 0..whole.len() {
            let document = &whole.as_bytes()[..length];
            assert_fails(document, WalkErrorKind::Truncated, length);
        }
    }
    assert_fails(b"", WalkErrorKind::Truncated, 0);
    assert_fails(b"  ", WalkErrorKind::Truncated, 2);
}

#[test]
fn progress_grows_until_it_breaks_the_walk() {
    let document = format!("[{}]", vec![r#"{"key": "value"}"#; 400_000].join(","));
    let mut reports = Vec::new();
    let counts = walk(document.as_bytes(), None, |progress| {
        reports.push(progress);
        ControlFlow::Continue(())
    });
    assert!(reports.len() >= 5);
    assert_eq!(reports.first().map(|first| (first.bytes_done, first.bytes)), Some((0, document.len())));
    assert_eq!(reports.last().map(|last| last.bytes_done), Some(document.len()));
    assert!(
        reports.windows(2).all(|two| two[0].bytes_done < two[1].bytes_done && two[0].keys <= two[1].keys)
    );
    assert_eq!(counts.expect("it is JSON").keys, 400_000);
    let stopped = walk(document.as_bytes(), None, |_| ControlFlow::Break(()));
    assert_eq!(stopped.expect_err("it was stopped").kind, WalkErrorKind::Stopped);
}

/// What serde's tree says of a document.
#[derive(Default)]
struct Tree {
    values: u64,
    keys: HashMap<String, u64>,
    depth: usize,
}

impl Tree {
    fn count(&mut self, value: &Value, depth: usize) {
        self.values += 1;
        self.depth = self.depth.max(depth);
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.count(item, depth + 1)),
            Value::Object(members) => members.iter().for_each(|(key, value)| {
                *self.keys.entry(key.clone()).or_default() += 1;
                self.count(value, depth + 1);
            }),
            _ => {}
        }
    }
}

/// Returns the value at the path of a walk's deepest value.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').filter(|segment| !segment.is_empty()).try_fold(value, |value, segment| match value {
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        Value::Object(members) => members.get(segment),
        _ => None,
    })
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 100, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::hash_map("[a-dä\"\\\\]{1,2}", inner, 0..8)
                .prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn the_walk_counts_what_serdes_tree_has(document in documents(), is_pretty: bool) {
        let text = if is_pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
        let text = text.expect("it is JSON");
        // serde does not read each number as it has written it.
        let document: Value = serde_json::from_str(&text).expect("it is JSON");
        let counts = walked(text.as_bytes()).expect("it is JSON");
        let mut tree = Tree::default();
        tree.count(&document, 0);
        prop_assert_eq!(counts.values, tree.values);
        prop_assert_eq!(counts.keys, tree.keys.values().sum::<u64>());
        prop_assert_eq!(counts.deepest.depth, tree.depth);
        prop_assert_eq!(counts.frequent.len(), tree.keys.len().min(10));
        for Frequent { key, count } in &counts.frequent {
            prop_assert_eq!(tree.keys.get(key), Some(count));
        }
        let deepest = at(&document, &counts.deepest.path);
        prop_assert!(deepest.is_some());
        let found = walk(text.as_bytes(), Some(&counts.deepest.path), |_| ControlFlow::Continue(()));
        match found.expect("it is JSON").found {
            Some(Found::Value(json)) => {
                let found: Value = serde_json::from_str(&json).expect("it is JSON");
                prop_assert_eq!(Some(&found), deepest);
            }
            Some(Found::Text(text)) => prop_assert_eq!(text.len() / 8, 1024 / 8),
            None => prop_assert!(false, "nothing was found at {}", counts.deepest.path),
        }
    }

    #[test]
    fn damaged_documents_are_refused_as_serde_refuses_them(
        document in documents(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = document.to_string().into_bytes();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let serdes = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes);
        match walked(&bytes) {
            Ok(_) => prop_assert!(serdes.is_ok(), "{serdes:?}"),
            Err(error) => {
                prop_assert!(error.at <= bytes.len());
                let is_fault_of_strings = serdes.is_ok() && std::str::from_utf8(&bytes).is_err();
                prop_assert!(serdes.is_err() || is_fault_of_strings, "{error}");
            }
        }
    }

    #[test]
    fn no_bytes_make_the_walk_panic(bytes: Vec<u8>) {
        if let Err(error) = walked(&bytes) {
            prop_assert!(error.at <= bytes.len());
        }
    }

    #[test]
    fn no_json_like_bytes_make_the_walk_panic(text in "[\\[\\]{}:,\"\\\\ute0-9.+-]{0,60}") {
        let serdes = serde_json::from_str::<serde::de::IgnoredAny>(&text);
        prop_assert_eq!(walked(text.as_bytes()).is_ok(), serdes.is_ok());
    }
}

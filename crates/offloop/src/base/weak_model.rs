//! Models of the ground floor under loom, and the test that weakens each ordering which the models of this crate meet.
//!
//! `RUSTFLAGS="--cfg weak_memory" cargo test -p offloop --no-default-features --features process --lib --release -- weak_model`

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::fork::PerProcess;
use super::sync::atomic::{AtomicU32, Ordering};
use super::sync::weak::{RECORD, WEAKEN, check};
use super::sync::{UnsafeCell, thread};

/// Returns whether two threads that each store and then load may both miss the other's store.
fn both_may_miss(store: Ordering, load: Ordering) -> bool {
    static MISSED: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    *MISSED.lock().unwrap() = false;
    check(3, move || {
        let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let there = Arc::clone(&words);
        let other = thread::spawn(move || {
            there[0].store(1, store);
            there[1].load(load)
        });
        words[1].store(1, store);
        let here = words[0].load(load);
        if here + other.join().unwrap() == 0 {
            *MISSED.lock().unwrap() = true;
        }
    });
    let missed = *MISSED.lock().unwrap();
    missed
}

#[test]
fn the_checker_knows_what_is_sequentially_consistent() {
    assert!(!both_may_miss(Ordering::SeqCst, Ordering::SeqCst));
    assert!(both_may_miss(Ordering::Release, Ordering::SeqCst));
    assert!(both_may_miss(Ordering::SeqCst, Ordering::Acquire));
}

struct Value(UnsafeCell<u32>);

// SAFETY: the cell is written by the thread that makes it, and only read by the others. The model checks that.
unsafe impl Sync for Value {}
// SAFETY: as above.
unsafe impl Send for Value {}

#[test]
fn threads_that_make_a_process_wide_value_at_once_share_one() {
    check(3, || {
        let shared: &'static PerProcess<Value> = Box::leak(Box::new(PerProcess::new()));
        shared.begin_model();
        let get = |own: u32| {
            let value = shared.get(|| Value(UnsafeCell::new(own)));
            // SAFETY: the cell is not written any more.
            value.0.with(|value| unsafe { *value })
        };
        let others = [1, 2].map(|own| thread::spawn(move || get(own)));
        let here = get(3);
        for other in others {
            assert_eq!(other.join().unwrap(), here);
        }
    });
}

#[test]
fn a_process_wide_value_that_is_set_is_seen_whole() {
    check(3, || {
        let shared: &'static PerProcess<Value> = Box::leak(Box::new(PerProcess::new()));
        shared.begin_model();
        let other = thread::spawn(|| {
            shared.set(Value(UnsafeCell::new(7)));
        });
        let value = shared.get(|| Value(UnsafeCell::new(3)));
        // SAFETY: the cell is not written any more.
        assert!([3, 7].contains(&value.0.with(|value| unsafe { *value })));
        other.join().unwrap();
    });
}

/// The environment variable with which sequentially consistent accesses are weakened too.
const ALL: &str = "OFFLOOP_MODEL_ALL";

/// Returns the orderings that are the next weaker ones.
fn weaker(part: &str, order: &str) -> &'static [&'static str] {
    match (part, order) {
        (_, "SeqCst") if std::env::var_os(ALL).is_none() => &[],
        ("Load" | "Failure", "SeqCst") => &["Acquire"],
        ("Store", "SeqCst") => &["Release"],
        (_, "SeqCst") => &["AcqRel"],
        (_, "AcqRel") => &["Acquire", "Release"],
        _ => &["Relaxed"],
    }
}

/// Runs one model in a process of its own. Returns whether it passed.
fn passes(model: &str, variable: &str, value: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([model, "--exact"]).env(variable, value).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

/// Weakens each ordering in turn, and runs the models that meet it, until one fails. Prints which.
///
/// Sequentially consistent accesses are the rule for sleepers and wakers, and are weakened on request only. For two of
/// them no model fails, since the checker lets a compare-and-swap read the newest value only, and since a load before
/// them is sequentially consistent too: the one of the listener that fails, and the load of `pool_waits` after it.
#[test]
fn each_ordering_is_needed() {
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let models: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| name.contains("weak_model::") && !name.starts_with("base::weak_model::each_"))
        .filter(|name| !name.contains("the_checker_knows"))
        .collect();
    let directory = std::env::temp_dir().join(format!("offloop-models-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let mut met_by: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for model in models {
        let record = directory.join("record");
        assert!(passes(model, RECORD, record.to_str().unwrap()), "{model} fails as it is");
        for line in std::fs::read_to_string(&record).unwrap_or_default().lines() {
            if !line.contains("weak_model") {
                met_by.entry(line.to_owned()).or_default().push(model);
            }
        }
        let _ = std::fs::remove_file(&record);
    }
    std::fs::remove_dir_all(&directory).unwrap();
    let mut needless = Vec::new();
    for (ordering, models) in &met_by {
        let [place, part, order] = ordering.split(' ').collect::<Vec<_>>()[..] else { panic!("{ordering}") };
        for instead in weaker(part, order) {
            let mutant = format!("{place} {part} {instead}");
            let failing = models.iter().find(|model| !passes(model, WEAKEN, &mutant));
            println!("{place} {part} {order} -> {instead}: {}", failing.unwrap_or(&"NO MODEL FAILS"));
            if failing.is_none() {
                needless.push(format!("{place} {part} {order} -> {instead}"));
            }
        }
    }
    assert!(needless.is_empty(), "no model needs these orderings:\n{}", needless.join("\n"));
}

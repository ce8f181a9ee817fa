//! The atomics of the models under loom: loom's own, with two things added.
//!
//! - **Sequential consistency.** Loom takes a `SeqCst` access for an acquire or a release, so that two threads which each
//!   store and then load might both miss the other's store. Here a `SeqCst` load has a fence before it if this thread has
//!   made a `SeqCst` store since its last fence. So the fence comes only where both accesses ask for it.
//! - **Mutants.** Each ordering in the source can be weakened for one run, by its place. So the test
//!   `each_ordering_is_needed` can show that it is.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::panic::Location;
use std::sync::{Mutex, OnceLock};

use loom::sync::atomic as raw;

pub(crate) use std::sync::atomic::Ordering;

/// The environment variable with the file to which a run appends the orderings that it has met.
pub(crate) const RECORD: &str = "OFFLOOP_MODEL_RECORD";

/// The environment variable with the ordering that is weakened in a run: a [`Place`] and an ordering.
pub(crate) const WEAKEN: &str = "OFFLOOP_MODEL_WEAKEN";

/// The part of an access that has an ordering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Load,
    Store,
    Update,
    /// The load of a compare-and-swap that fails.
    Failure,
}

/// The place of an ordering in the source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    file: &'static str,
    line: u32,
    column: u32,
    part: Part,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{} {:?}", self.file, self.line, self.column, self.part)
    }
}

loom::thread_local! {
    /// True from a `SeqCst` store of this thread until its next fence.
    static HAS_STORED: Cell<bool> = Cell::new(false);
}

thread_local! {
    /// The number of the execution that this thread checks now.
    static EXECUTION: Cell<u64> = const { Cell::new(0) };
}

/// The orderings that this process has met, those that are relaxed excepted.
static MET: Mutex<BTreeSet<(Place, &'static str)>> = Mutex::new(BTreeSet::new());

/// Checks `model` in all its executions with at most `preemptions` preemptions.
pub(crate) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check(move || {
        EXECUTION.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        model();
    });
    if let Some(path) = std::env::var_os(RECORD) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        for (place, order) in &*MET.lock().unwrap() {
            writeln!(file, "{place} {order}").unwrap();
        }
    }
}

fn name(order: Ordering) -> &'static str {
    match order {
        Ordering::Relaxed => "Relaxed",
        Ordering::Acquire => "Acquire",
        Ordering::Release => "Release",
        Ordering::AcqRel => "AcqRel",
        _ => "SeqCst",
    }
}

/// A mutant: one ordering, and what it is weakened to.
struct Mutant {
    file: String,
    line: u32,
    column: u32,
    part: String,
    order: Ordering,
}

impl Mutant {
    /// Returns the mutant of this run, if it is to have one.
    fn of_this_run() -> Option<Self> {
        let text = std::env::var(WEAKEN).ok()?;
        let parse = || {
            let [place, part, order] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
            let (rest, column) = place.rsplit_once(':')?;
            let (file, line) = rest.rsplit_once(':')?;
            let all = [Ordering::Relaxed, Ordering::Acquire, Ordering::Release, Ordering::AcqRel];
            Some(Self {
                file: file.to_owned(),
                line: line.parse().ok()?,
                column: column.parse().ok()?,
                part: part.to_owned(),
                order: all.into_iter().find(|it| name(*it) == order)?,
            })
        };
        Some(parse().expect("a place, a part and an ordering"))
    }

    fn is_at(&self, place: &Place) -> bool {
        (self.line, self.column) == (place.line, place.column)
            && self.file == place.file
            && self.part == format!("{:?}", place.part)
    }
}

/// Returns the ordering that an access has in this run.
fn effective(location: &'static Location<'static>, part: Part, order: Ordering) -> Ordering {
    static MUTANT: OnceLock<Option<Mutant>> = OnceLock::new();
    static RECORDS: OnceLock<bool> = OnceLock::new();
    if order == Ordering::Relaxed {
        return order;
    }
    let place = Place { file: location.file(), line: location.line(), column: location.column(), part };
    if *RECORDS.get_or_init(|| std::env::var_os(RECORD).is_some()) {
        MET.lock().unwrap().insert((place, name(order)));
    }
    match MUTANT.get_or_init(Mutant::of_this_run) {
        Some(mutant) if mutant.is_at(&place) => mutant.order,
        _ => order,
    }
}

/// To be called before a load. Puts a fence between it and the last store, if both are sequentially consistent.
fn before_load(order: Ordering) {
    if order == Ordering::SeqCst && HAS_STORED.with(|stored| stored.replace(false)) {
        raw::fence(Ordering::SeqCst);
    }
}

fn after_store(order: Ordering) {
    if order == Ordering::SeqCst {
        HAS_STORED.with(|stored| stored.set(true));
    }
}

/// Returns the ordering that loom is told for a load.
fn of_load(order: Ordering) -> Ordering {
    if order == Ordering::SeqCst { Ordering::Acquire } else { order }
}

fn of_store(order: Ordering) -> Ordering {
    if order == Ordering::SeqCst { Ordering::Release } else { order }
}

fn of_update(order: Ordering) -> Ordering {
    if order == Ordering::SeqCst { Ordering::AcqRel } else { order }
}

macro_rules! atomics {
    ($($name:ident: $value:ty $(, $add:ident $sub:ident)?;)*) => {$(
        #[derive(Debug, Default)]
        pub(crate) struct $name(raw::$name);

        #[allow(dead_code, reason = "each type has all accesses")]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(raw::$name::new(value))
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                let order = effective(Location::caller(), Part::Load, order);
                before_load(order);
                self.0.load(of_load(order))
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                let order = effective(Location::caller(), Part::Store, order);
                self.0.store(value, of_store(order));
                after_store(order);
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                let order = effective(Location::caller(), Part::Update, order);
                update(order, |order| self.0.swap(value, order))
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let success = effective(Location::caller(), Part::Update, success);
                let failure = effective(Location::caller(), Part::Failure, failure);
                before_load(if failure == Ordering::SeqCst { failure } else { success });
                let result = self.0.compare_exchange(current, new, of_update(success), of_load(failure));
                if result.is_ok() {
                    after_store(success);
                }
                result
            }

            $(
                #[track_caller]
                pub(crate) fn $add(&self, value: $value, order: Ordering) -> $value {
                    let order = effective(Location::caller(), Part::Update, order);
                    update(order, |order| self.0.fetch_add(value, order))
                }

                #[track_caller]
                pub(crate) fn $sub(&self, value: $value, order: Ordering) -> $value {
                    let order = effective(Location::caller(), Part::Update, order);
                    update(order, |order| self.0.fetch_sub(value, order))
                }
            )?
        }
    )*};
}

fn update<T>(order: Ordering, update: impl FnOnce(Ordering) -> T) -> T {
    before_load(order);
    let before = update(of_update(order));
    after_store(order);
    before
}

atomics! {
    AtomicBool: bool;
    AtomicU8: u8, fetch_add fetch_sub;
    AtomicU32: u32, fetch_add fetch_sub;
    AtomicU64: u64, fetch_add fetch_sub;
    AtomicUsize: usize, fetch_add fetch_sub;
}

/// A pointer that may lie in a static. It begins anew in each execution.
#[derive(Debug)]
pub(crate) struct AtomicPtr<T: 'static> {
    first: *mut T,
    /// The pointers of the last executions. Leaked, since references to them may be anywhere.
    in_execution: Mutex<Vec<(u64, &'static raw::AtomicPtr<T>)>>,
}

// SAFETY: the pointer is only handed out, as the atomics of `std` do.
unsafe impl<T> Send for AtomicPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for AtomicPtr<T> {}

impl<T> AtomicPtr<T> {
    pub(crate) const fn new(value: *mut T) -> Self {
        Self { first: value, in_execution: Mutex::new(Vec::new()) }
    }

    fn now(&self) -> &'static raw::AtomicPtr<T> {
        let mut all = self.in_execution.lock().unwrap();
        let now = EXECUTION.get();
        if let Some((_, found)) = all.iter().find(|(execution, _)| *execution == now) {
            return found;
        }
        let new: &'static _ = Box::leak(Box::new(raw::AtomicPtr::new(self.first)));
        // Other threads may check other models.
        if all.len() > 64 {
            all.remove(0);
        }
        all.push((now, new));
        new
    }

    #[track_caller]
    pub(crate) fn load(&self, order: Ordering) -> *mut T {
        let order = effective(Location::caller(), Part::Load, order);
        before_load(order);
        self.now().load(of_load(order))
    }

    #[track_caller]
    pub(crate) fn store(&self, value: *mut T, order: Ordering) {
        let order = effective(Location::caller(), Part::Store, order);
        self.now().store(value, of_store(order));
        after_store(order);
    }

    #[track_caller]
    pub(crate) fn compare_exchange(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        let success = effective(Location::caller(), Part::Update, success);
        let failure = effective(Location::caller(), Part::Failure, failure);
        before_load(if failure == Ordering::SeqCst { failure } else { success });
        let result = self.now().compare_exchange(current, new, of_update(success), of_load(failure));
        if result.is_ok() {
            after_store(success);
        }
        result
    }
}

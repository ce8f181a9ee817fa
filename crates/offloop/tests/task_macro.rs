//! `#[offloop::task]`: the function is what it was without the attribute, and its calls run on threads and in processes.

#![cfg(feature = "process")]

use std::borrow::Cow;

offloop::init_tests!();

/// Runs a call on a thread, and on Linux in a process too. Returns the result, which must be the same.
macro_rules! everywhere {
    ($call:expr) => {{
        let on_a_thread = offloop::run($call).wait().unwrap();
        #[cfg(target_os = "linux")]
        {
            let pool = offloop::ProcessPool::builder().max_workers(1).build().unwrap();
            assert_eq!(pool.run($call).wait().unwrap(), on_a_thread);
        }
        on_a_thread
    }};
}

/// Items with the names that the attribute has used for its own.
mod names_of_the_macro {
    pub(crate) static TASK: &str = "the user's own";
    pub(crate) static BODY: &str = "the user's body";
    pub(crate) struct Sent<'a>(std::marker::PhantomData<&'a ()>);
    pub(crate) type Arguments = u16;
    pub(crate) type Output = u32;

    pub(crate) fn run(x: u32) -> u32 {
        x + 1
    }

    pub(crate) fn decoded(x: u32) -> u32 {
        x + 10
    }

    pub(crate) fn call(x: u32) -> u32 {
        x + 100
    }

    #[offloop::task]
    pub(crate) fn tag() -> String {
        format!("{TASK:?} {BODY:?}")
    }

    #[offloop::task]
    pub(crate) fn size_of_sent(_a: u64, _b: u64) -> usize {
        size_of::<Sent<'static>>()
    }

    #[offloop::task]
    pub(crate) fn next(x: Output, arg0: Arguments) -> Output {
        call(decoded(run(x))) + u32::from(arg0)
    }
}

#[test]
fn the_body_of_a_task_sees_nothing_of_the_macro() {
    use names_of_the_macro::*;
    assert_eq!(everywhere!(tag.with()), "\"the user's own\" \"the user's body\"");
    assert_eq!(everywhere!(size_of_sent.with(1, 2)), 0);
    assert_eq!(everywhere!(next.with(1, 1000)), 1112);
    assert_eq!((tag(), size_of_sent(1, 2), next(1, 1000)), (tag(), 0, 1112));
}

/// The module and the types have the names of tasks, which are functions.
mod same_names {
    pub(crate) mod parse {
        pub(crate) fn digits(text: &str) -> usize {
            text.chars().filter(char::is_ascii_digit).count()
        }
    }

    #[offloop::task]
    pub(crate) fn parse(text: &str) -> usize {
        parse::digits(text)
    }

    #[offloop::task]
    pub(crate) fn u64(text: &str) -> Option<u64> {
        text.parse::<u64>().ok()
    }

    #[offloop::task]
    pub(crate) fn std(items: Vec<f64>) -> String {
        std::format!("{items:?}")
    }
}

#[test]
fn a_task_takes_no_name_of_a_type_or_a_module() {
    assert_eq!(everywhere!(same_names::parse.with("a1b2")), 2);
    assert_eq!(everywhere!(same_names::u64.with("7")), Some(7));
    assert_eq!(everywhere!(same_names::std.with(vec![0.5])), "[0.5]");
}

#[offloop::task]
fn factorial(n: u64) -> u64 {
    if n == 0 { 1 } else { n * factorial(n - 1) }
}

#[offloop::task]
fn run(n: u64) -> u64 {
    if n == 0 { 0 } else { 2 + run(n - 1) }
}

#[offloop::task]
fn total(items: Vec<u64>) -> u64 {
    let mut total = 0;
    for item in items {
        total += item;
    }
    total
}

#[offloop::task]
fn size(size: u64, (low, high): (u64, u64)) -> u64 {
    size.clamp(low, high)
}

/// Runs itself on a thread. In its own body `hands_on` is the function, and `self::hands_on` is the task.
#[offloop::task]
fn hands_on(n: u64) -> u64 {
    if n == 0 { 0 } else { 1 + offloop::run(self::hands_on.with(n - 1)).wait().unwrap() }
}

#[test]
fn within_its_own_body_a_tasks_name_is_the_function() {
    assert_eq!(everywhere!(factorial.with(5)), 120);
    assert_eq!(everywhere!(run.with(3)), 6);
    assert_eq!(everywhere!(total.with(vec![1, 2])), 3);
    assert_eq!(everywhere!(size.with(9, (1, 5))), 5);
    assert_eq!(everywhere!(hands_on.with(3)), 3);
}

mod my {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) struct Vec<T>(pub(crate) T);
}

#[offloop::task]
fn other_vec(x: my::Vec<u8>) -> u8 {
    x.0
}

#[offloop::task]
fn bytes(owned: Vec<u8>, full: std::vec::Vec<u8>, borrowed: &[u8]) -> Vec<u8> {
    [&owned[..], &full, borrowed].concat()
}

#[offloop::task]
#[expect(clippy::needless_lifetimes, reason = "it tests lifetimes with names")]
fn two_lifetimes<'a, 'b>(x: &'a str, y: &'b str) -> usize {
    x.len() + y.len()
}

#[offloop::task]
fn cow(x: Cow<'_, str>, y: Option<&str>) -> String {
    format!("{x}{y:?}")
}

#[offloop::task]
extern "C" fn foreign_abi(x: u32) -> u32 {
    x + 1
}

#[offloop::task]
const fn constant(x: u32) -> u32 {
    x + 2
}

#[offloop::task]
fn r#match(r#in: u8) -> u8 {
    r#in
}

type Byte = u8;

/// As many arguments as a task may have.
#[offloop::task]
#[rustfmt::skip]
#[expect(clippy::too_many_arguments, clippy::many_single_char_names, reason = "it tests how many there may be")]
fn sixteen(
    a: Byte, b: Byte, c: Byte, d: Byte, e: Byte, f: Byte, g: Byte, h: Byte,
    i: Byte, j: Byte, k: Byte, l: Byte, m: Byte, n: Byte, o: Byte, p: Byte,
) -> Vec<u8> {
    vec![a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[offloop::task]
#[cfg(any())]
fn left_out(x: NoSuchType) {}

#[test]
fn each_kind_of_signature_works_or_does_not_compile() {
    assert_eq!(everywhere!(other_vec.with(my::Vec(7))), 7);
    assert_eq!(everywhere!(bytes.with(vec![1], vec![2], &[3])), [1, 2, 3]);
    assert_eq!(everywhere!(two_lifetimes.with("a", "bc")), 3);
    assert_eq!(everywhere!(cow.with("a".into(), Some("b"))), "aSome(\"b\")");
    assert_eq!(everywhere!(foreign_abi.with(1)), 2);
    assert_eq!((foreign_abi(1), *foreign_abi as extern "C" fn(u32) -> u32), (2, *foreign_abi));
    assert_eq!(everywhere!(constant.with(1)), 3);
    assert_eq!(everywhere!(r#match.with(1)), 1);
    let numbers = sixteen.with(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    assert_eq!(offloop::run(numbers).wait().unwrap(), (1..=16).collect::<Vec<_>>());
}

/// A task that a macro writes, with a type and the crate's path from elsewhere.
macro_rules! doubles {
    ($name:ident, $ty:ty) => {
        #[$crate::reexport::offloop::task(crate = $crate::reexport::offloop)]
        fn $name(x: $ty) -> $ty {
            x.iter().chain(&x).copied().collect()
        }
    };
}

mod reexport {
    pub(crate) use ::offloop;
}

doubles!(double_bytes, Vec<u8>);
doubles!(double_words, Vec<u16>);

#[test]
fn a_macro_can_write_tasks() {
    assert_eq!(everywhere!(double_bytes.with(vec![1, 2])), [1, 2, 1, 2]);
    assert_eq!(everywhere!(double_words.with(vec![300])), [300, 300]);
}

#[test]
fn tasks_within_functions_are_tasks() {
    #[offloop::task]
    fn inner(x: u8) -> u8 {
        if x > 1 { inner(x - 1) } else { x }
    }
    assert_eq!(everywhere!(inner.with(3)), 1);
    assert!(format!("{inner:?}").contains("task_macro::inner"));
}

/// The test is that this compiles without a warning: what the function allows holds for all that is made of it.
#[offloop::task]
#[allow(dead_code)]
fn allowed() {}

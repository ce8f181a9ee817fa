//! `#[offloop::task(crate = …)]`: the crate may have another name, or come from within another crate.

#![cfg(feature = "process")]

extern crate offloop as off;
// From here on `::offloop` is this crate, which has no `task`.
extern crate self as offloop;

off::init_tests!();

mod parts {
    pub(crate) mod of_a_framework {
        pub(crate) use ::off;
    }
}

#[off::task(crate = off)]
fn add(a: u32, b: u32) -> u32 {
    a + b
}

#[off::task(crate = "off")]
fn named_by_a_string(bytes: Vec<u8>) -> usize {
    bytes.len()
}

#[parts::of_a_framework::off::task(crate = crate::parts::of_a_framework::off)]
fn named_by_a_path(bytes: &[u8]) -> usize {
    bytes.len()
}

#[test]
fn a_task_finds_the_crate_under_the_given_name() {
    let results = (
        off::run(add.with(1, 2)).wait().unwrap(),
        off::run(named_by_a_string.with(vec![1])).wait().unwrap(),
        off::run(named_by_a_path.with(&[1, 2])).wait().unwrap(),
    );
    assert_eq!(results, (3, 1, 2));
}

#[cfg(target_os = "linux")]
#[test]
fn its_workers_find_it_too() {
    let pool = off::ProcessPool::builder().max_workers(1).build().unwrap();
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
    assert_eq!(pool.run(named_by_a_path.with(&[1, 2])).wait().unwrap(), 2);
}

//! A program in which two tasks have the same name. Nothing else can be tested in it: no pool can be built.

#![cfg(all(feature = "process", target_os = "linux"))]

use offloop::remote::{Carrier, Ender, Outbound, Remote, tasks};
use offloop::{BuildError, ErrorKind, JobId, ProcessPool, Rejected};

offloop::init_tests!();

#[offloop::task(name = "shared")]
fn one(number: u64) -> u64 {
    number
}

mod elsewhere {
    #[offloop::task(name = "shared", version = 2)]
    pub(crate) fn other(number: u64) -> u64 {
        number + 1
    }
}

#[offloop::task]
fn single(number: u64) -> u64 {
    number
}

/// Answers each call with its arguments: a number.
struct Echo;

impl Carrier for Echo {
    fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
        ender.end(Ok(offloop::remote::Answer::new(outbound.into_arguments())));
        Ok(())
    }

    fn cancel(&self, _: JobId) {}
}

fn names_both(text: &str) -> bool {
    text.contains("`shared`") && text.matches("task_names_twice.rs:").count() == 2 && text.contains("name = ")
}

#[test]
fn two_tasks_of_one_name_are_an_error_that_names_both_functions() {
    let error = ProcessPool::builder().build().unwrap_err();
    assert!(matches!(&error, BuildError::Setting(text) if names_both(text)), "{error}");

    let remote = Remote::new("echo", Echo);
    let error = remote.run(one.with(1)).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Encode(text) if names_both(text)), "{error}");
    assert!(remote.run(elsewhere::other.with(1)).wait().is_err());
    assert_eq!(remote.run(single.with(5)).wait().unwrap(), 5);

    assert!(tasks().iter().all(|task| task.name != "shared"));
    assert_eq!(offloop::run(one.with(3)).wait().unwrap(), 3, "threads need no names");
}

//! The same program on each system: these tests also run where process pools are not supported, or seem not to be.

use std::time::Duration;

use offloop::{Blob, BlobMut, BuildError, ProcessPool};
use offloop_example_portable::Workers;

offloop::init_tests!();

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Word {
    text: String,
    length: usize,
}

#[offloop::task]
fn words(text: String, skipped: Vec<u8>) -> Vec<Word> {
    let words = text.split_whitespace().skip(skipped.len());
    words.map(|word| Word { text: word.to_owned(), length: word.len() }).collect()
}

#[offloop::task]
fn upper_case(bytes: Blob) -> Blob {
    let mut upper = BlobMut::zeroed(bytes.len());
    upper.copy_from_slice(&bytes);
    upper.make_ascii_uppercase();
    upper.freeze()
}

#[offloop::task]
fn process() -> u32 {
    std::process::id()
}

#[test]
fn a_task_has_the_same_result_on_each_system() {
    let workers = Workers::start().unwrap();
    let expected = [Word { text: "goes".to_owned(), length: 4 }];
    assert_eq!(workers.run(words.with("so it goes".to_owned(), vec![0, 0])).wait().unwrap(), expected);
    assert_eq!(words("so it goes".to_owned(), vec![0, 0]), expected);
    let large = Blob::from(vec![b'a'; 1 << 20]);
    assert!(workers.run(upper_case.with(large)).wait().unwrap().iter().all(|byte| *byte == b'A'));
}

#[test]
fn without_process_pools_the_builder_says_so_and_threads_run_the_tasks() {
    let workers = Workers::start().unwrap();
    assert_eq!(workers.are_processes(), cfg!(target_os = "linux"));
    let own = workers.run(process.with()).wait().unwrap() == std::process::id();
    assert_eq!(own, !workers.are_processes());
    let built = ProcessPool::builder().max_workers(1).build();
    assert_eq!(built.is_ok(), cfg!(target_os = "linux"));
    if let Err(error) = built {
        assert!(matches!(error, BuildError::Unsupported), "{error}");
        assert!(error.to_string().contains("process pools need Linux"), "{error}");
    }
}

#[test]
fn clocks_and_limits_need_no_particular_system() {
    let late = offloop::prepare(|| {
        while offloop::job::check_cancelled().is_ok() {
            std::thread::yield_now();
        }
    });
    let ended = offloop::run(late.run_timeout(Duration::from_millis(1))).wait();
    assert!(ended.unwrap_err().is_timeout());
    assert!(offloop::run(|| 1).wait().is_ok());
}

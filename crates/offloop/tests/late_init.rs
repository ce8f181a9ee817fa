//! A program that calls `init` after it has started threads is told so. It has no test harness, whose main thread is
//! not a test's.

#![allow(missing_docs, reason = "a test crate has no users")]

#[cfg(target_os = "linux")]
fn main() {
    use std::process::Command;

    /// Set in the copies of this program that call `init`; its value says when.
    const WHEN: &str = "OFFLOOP_TEST_WHEN";
    match std::env::var(WHEN).as_deref() {
        Ok("late") => {
            let (_keep, end) = std::sync::mpsc::channel::<()>();
            std::thread::spawn(move || end.recv());
            offloop::init();
        }
        Ok(_) => offloop::init(),
        Err(_) => {
            for (when, is_told) in [("late", true), ("first", false)] {
                let program = std::env::current_exe().unwrap();
                let output = Command::new(program).env(WHEN, when).output().unwrap();
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{when}: {text}");
                assert_eq!(
                    text.contains("`init` was called when this program already had"),
                    is_told,
                    "{when}: {text}"
                );
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}

//! The command without a terminal.

use std::fs;

use serde_json::Value;

use crate::support::{Runtime, text};

#[test]
fn without_a_program_it_says_how_to_start_one() {
    let output = Runtime::new().output(&["top"]);
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    assert!(
        error.contains("no program of this user can be watched") && error.contains("OFFLOOP_OBSERVE=1"),
        "{error}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn without_a_terminal_the_view_is_printed_once() {
    let runtime = Runtime::new();
    let program = runtime.program("reports");
    let output = runtime.output(&["top"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let pid = program.pid().to_string();
    for expected in ["reports", "JOBS", "long_job", "request-of-other_job", "work", &pid] {
        assert!(printed.contains(expected), "{expected} in {printed}");
    }
    assert!(!printed.contains('\x1b'), "{printed}");
}

#[test]
fn each_line_of_json_is_a_service() {
    let runtime = Runtime::new();
    let (one, two, other) =
        (runtime.program("reports"), runtime.program("reports"), runtime.program("billing"));
    let output = runtime.output(&["top", "--once", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut services: Vec<(String, Vec<u64>)> = text(&output.stdout)
        .lines()
        .map(|line| {
            let document: Value = serde_json::from_str(line).unwrap();
            let processes = document["processes"].as_array().unwrap();
            let mut pids: Vec<_> =
                processes.iter().map(|it| it["process"]["pid"].as_u64().unwrap()).collect();
            pids.sort_unstable();
            (processes[0]["process"]["service"].as_str().unwrap().to_owned(), pids)
        })
        .collect();
    services.sort();
    let mut reports = [u64::from(one.pid()), u64::from(two.pid())];
    reports.sort_unstable();
    assert_eq!(
        services,
        [("billing".into(), vec![other.pid().into()]), ("reports".into(), reports.to_vec())]
    );
}

#[test]
fn a_program_is_named_by_its_process_its_socket_or_its_service() {
    let runtime = Runtime::new();
    let program = runtime.program("reports");
    let _other = runtime.program("billing");
    let pid = program.pid().to_string();
    let socket = runtime.socket(program.pid()).display().to_string();
    for name in [&pid, &socket, "reports"] {
        let output = runtime.output(&["top", "--json", name]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["processes"][0]["process"]["pid"], program.pid(), "{name}");
    }
    for (wrong, code) in [("1", 3), ("nobody", 3), ("/nowhere.sock", 1), ("https://localhost", 2)] {
        let output = runtime.output(&["top", "--json", wrong]);
        assert_eq!(output.status.code(), Some(code), "{wrong}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn the_socket_of_a_killed_program_is_left_out_and_removed() {
    let runtime = Runtime::new();
    let mut killed = runtime.program("reports");
    let _other = runtime.program("billing");
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    assert!(runtime.socket(killed.pid()).exists());
    let output = runtime.output(&["top", "--json"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 1);
    assert!(!runtime.socket(killed.pid()).exists());
}

#[test]
fn a_token_is_read_from_a_file() {
    let runtime = Runtime::new();
    let file = runtime.path().join("token");
    fs::write(&file, "two words\n").unwrap();
    let output = runtime.output(&["top", "--token-file", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let output = runtime.output(&["top", "--token-file", "/nowhere"]);
    assert!(text(&output.stderr).contains("/nowhere"));
}

#[test]
fn completions_and_a_manual_page_are_printed() {
    let runtime = Runtime::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&runtime.output(&["completions", shell]).stdout).contains("--token-file"), "{shell}");
    }
    assert!(text(&runtime.output(&["man"]).stdout).contains(".TH offloop"));
}

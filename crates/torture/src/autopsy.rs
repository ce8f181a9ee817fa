//! What every thread of this process and of its workers is at: for the report of a hang.

use std::fs;

/// A line for each thread of this process and of its children.
pub(crate) fn threads() -> Vec<String> {
    let own = std::process::id().to_string();
    let children = tasks(&own).into_iter().flat_map(|task| {
        let list = read(&format!("/proc/{own}/task/{task}/children"));
        list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let processes: Vec<String> = std::iter::once(own.clone()).chain(children).collect();
    processes.iter().flat_map(|process| tasks(process).into_iter().map(|task| line(process, &task))).collect()
}

fn tasks(process: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn line(process: &str, task: &str) -> String {
    let folder = format!("/proc/{process}/task/{task}");
    let status = read(&format!("{folder}/status"));
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("gone").trim();
    let [name, place, call] = ["comm", "wchan", "syscall"].map(|file| read(&format!("{folder}/{file}")));
    format!("process {process}, thread {task} `{}`: {state}, at {place}, call {}", name.trim(), call.trim())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

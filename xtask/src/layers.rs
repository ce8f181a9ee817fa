//! `cargo xtask layers`: checks that no import of the engine goes upward through its layers, or round in a circle.
//!
//! The compiler checks borders between crates only. The engine is one crate, so the borders between its folders are
//! checked here, from the source text.

mod imports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use imports::{Import, Location, Sources};

/// Each room of the engine, and the rooms that it stands on.
///
/// A room is a folder or a file below `src`. It may import itself, the rooms that it stands on, and those that these
/// stand on. So `threads` and `wire` import neither each other nor `watch`.
const ROOMS: [(&str, &[&str]); 20] = [
    ("base", &[]),
    ("core", &["base"]),
    ("watch", &["base"]),
    ("metrics", &["core"]),
    ("threads", &["metrics"]),
    ("wire", &["metrics"]),
    ("processes/os", &["wire"]),
    ("processes/link", &["processes/os"]),
    ("processes/limits.rs", &["processes/link"]),
    ("processes/handshake.rs", &["processes/limits.rs"]),
    ("processes/decoders.rs", &["threads"]),
    ("processes/launch.rs", &["core"]),
    ("processes/pool", &["processes/handshake.rs", "processes/decoders.rs", "processes/launch.rs"]),
    ("processes/worker", &["processes/handshake.rs"]),
    ("processes/unsupported.rs", &["wire"]),
    ("processes/mod.rs", &["processes/pool", "processes/worker", "processes/unsupported.rs"]),
    ("remote", &["processes/mod.rs"]),
    ("api", &["threads", "processes/mod.rs"]),
    ("observe", &["metrics", "watch"]),
    ("lib.rs", &["api", "observe", "remote"]),
];

/// The rooms and files that may contain `cfg(feature = "process")`, each with the reason.
const PROCESS_FEATURE: [(&str, &str); 2] = [
    ("lib.rs", "it leaves out the rooms `wire` and `processes`, and what they make public"),
    ("api", "its functions serve both kinds of pools"),
];

/// The file that starts all threads, so that each begins from a known state.
const STARTS_THREADS: &str = "base/spawn.rs";

/// The files that may only declare and re-export modules.
const REEXPORTS_ONLY: [&str; 1] = ["processes/mod.rs"];

#[derive(Args)]
pub(crate) struct LayersArguments {
    /// The source folder to check.
    #[arg(default_value = "crates/offloop/src")]
    source: PathBuf,
}

pub(crate) fn run(arguments: &LayersArguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut sources = Sources::new();
    read_folder(&arguments.source, &arguments.source, &mut sources)?;
    let findings = check(&sources)?;
    for finding in &findings {
        println!("{}/{finding}", arguments.source.display());
    }
    if findings.is_empty() {
        println!("{} files in {} rooms: every import goes downward", sources.len(), ROOMS.len());
        Ok(ExitCode::SUCCESS)
    } else {
        Err(format!("{} findings; the rules are at the head of xtask/src/layers.rs", findings.len()).into())
    }
}

fn read_folder(source: &Path, folder: &Path, sources: &mut Sources) -> Result<(), Box<dyn Error>> {
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(source, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(source)?.display().to_string();
            sources.insert(name, fs::read_to_string(&path).map_err(|error| failed(&path, error))?);
        }
    }
    Ok(())
}

/// Returns the findings, each of which begins with the file that it is about.
fn check(sources: &Sources) -> Result<Vec<String>, String> {
    let imports = imports::read(sources)?;
    let mut findings: Vec<_> = unknown_rooms(sources, &imports.test_files).into_iter().collect();
    findings.extend(upward_imports(&imports.all));
    findings.extend(circles(&imports.all));
    for at in &imports.process_features {
        if !PROCESS_FEATURE.iter().any(|(place, _)| is_in(&at.file, place)) {
            let places = PROCESS_FEATURE.map(|(place, _)| place).join(" and ");
            let Location { file, line } = at;
            findings.push(format!("{file}:{line}: cfg(feature = \"process\") is allowed in {places} only"));
        }
    }
    for Location { file, line } in imports.thread_starts.iter().filter(|at| at.file != STARTS_THREADS) {
        findings.push(format!("{file}:{line}: threads are started by `spawn` of {STARTS_THREADS} only"));
    }
    for Location { file, line } in &imports.definitions {
        if REEXPORTS_ONLY.contains(&file.as_str()) {
            findings.push(format!("{file}:{line}: this file may only declare and re-export modules"));
        }
    }
    Ok(findings)
}

/// Reports each folder and file that belongs to no room. Code for tests needs one only directly in `src`.
fn unknown_rooms(sources: &Sources, test_files: &BTreeSet<String>) -> BTreeSet<String> {
    let unknown =
        |file: &&String| room_of(file).is_none() && !(test_files.contains(*file) && file.contains('/'));
    let report = |file: &String| {
        let (top, rest) = file.split_once('/').unwrap_or((file, ""));
        // The parts of `processes` are rooms, so there the unknown name is the second one.
        let parts: Vec<_> =
            ROOMS.iter().filter_map(|(room, _)| room.strip_prefix(top)?.strip_prefix('/')).collect();
        let tops: BTreeSet<_> = ROOMS.iter().filter_map(|(room, _)| room.split('/').next()).collect();
        let (name, rooms) = match rest.split('/').next() {
            Some(second) if !parts.is_empty() => (format!("{top}/{second}"), parts.join(", ")),
            _ => (top.to_owned(), Vec::from_iter(tops).join(", ")),
        };
        format!(
            "{name}: is none of the rooms {rooms}: move it into one, or add it to ROOMS in xtask/src/layers.rs"
        )
    };
    sources.keys().filter(unknown).map(report).collect()
}

/// Reports each import of a room that is not beneath the importing file's room. The item's own room counts, and so do
/// other rooms that re-export it, `lib.rs` excepted.
fn upward_imports(imports: &[Import]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut reported = BTreeSet::new();
    for Import { at: Location { file, line }, path, item, target, through, .. } in imports {
        let Some(from) = room_of(file) else { continue };
        let top = |file: &str| file.split('/').next().map(str::to_owned);
        let elsewhere = through.iter().filter(|through| *through != "lib.rs" && top(through) != top(file));
        let forbidden = [target]
            .into_iter()
            .chain(elsewhere)
            .filter_map(|file| room_of(file))
            .find(|to| *to != from && !rooms_beneath(from).contains(to));
        let Some(to) = forbidden else { continue };
        if !reported.insert((file, item)) {
            continue;
        }
        let why = if rooms_beneath(to).contains(from) {
            format!("{to} is above {from}")
        } else {
            "neither is beneath the other".to_owned()
        };
        let leads_elsewhere = through.iter().any(|file| top(file) != top(target));
        let definition = if leads_elsewhere { format!(", defined in {target}") } else { String::new() };
        findings.push(format!("{file}:{line}: {from} may not import {to} ({why}): {path}{definition}"));
    }
    findings
}

/// Reports the shortest circles of files that import each other. No file is in two of them, so other circles may show
/// once these are gone.
fn circles(imports: &[Import]) -> Vec<String> {
    // Re-exporting a child is no use of it: `mod.rs` may do so although the child imports from `mod.rs`.
    let mut arrows: BTreeMap<&str, BTreeMap<&str, &Import>> = BTreeMap::new();
    for import in imports.iter().filter(|import| !import.is_reexport_of_child) {
        arrows.entry(&import.at.file).or_default().entry(&import.target).or_insert(import);
    }
    let mut circles: Vec<_> = arrows.keys().filter_map(|file| shortest_circle(file, &arrows)).collect();
    circles.sort_by_key(Vec::len);
    let mut reported = BTreeSet::new();
    circles.retain(|circle| {
        let is_new = circle.iter().all(|import| !reported.contains(&import.at.file));
        reported.extend(circle.iter().map(|import| import.at.file.clone()).filter(|_| is_new));
        is_new
    });
    circles.iter().map(|circle| describe_circle(circle)).collect()
}

/// Returns the imports of the shortest way from a file back to itself.
fn shortest_circle<'a>(
    start: &str,
    arrows: &BTreeMap<&str, BTreeMap<&str, &'a Import>>,
) -> Option<Vec<&'a Import>> {
    let mut arrived_by: BTreeMap<&str, &Import> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for (target, import) in arrows.get(file).into_iter().flatten() {
            if !arrived_by.contains_key(target) {
                arrived_by.insert(target, import);
                queue.push_back(target);
            }
        }
    }
    let mut circle = vec![*arrived_by.get(start)?];
    while circle[0].at.file != start {
        circle.insert(0, arrived_by[circle[0].at.file.as_str()]);
    }
    Some(circle)
}

fn describe_circle(circle: &[&Import]) -> String {
    let files: Vec<_> = circle.iter().map(|import| import.at.file.as_str()).collect();
    let arrow = |import: &&Import| {
        let Import { at: Location { file, line }, path, target, .. } = import;
        format!("\n    {file}:{line} imports {path} from {target}")
    };
    let arrows: String = circle.iter().map(arrow).collect();
    let (first, line) = (files[0], circle[0].at.line);
    format!("{first}:{line}: import circle: {} -> {first}{arrows}", files.join(" -> "))
}

/// Returns the room that a file belongs to.
fn room_of(file: &str) -> Option<&'static str> {
    ROOMS.iter().map(|(room, _)| *room).find(|room| is_in(file, room))
}

/// Returns whether a file is this place, or in this folder.
fn is_in(file: &str, place: &str) -> bool {
    file.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the rooms that a room may import.
fn rooms_beneath(room: &str) -> BTreeSet<&'static str> {
    let below = ROOMS.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, below)| below);
    below.iter().flat_map(|below| rooms_beneath(below).into_iter().chain([*below])).collect()
}

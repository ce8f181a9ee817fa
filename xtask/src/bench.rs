//! `cargo xtask bench`: runs a bench and keeps its table in the documentation.

use std::error::Error;
use std::fs;
use std::process::{ExitCode, Stdio};

use clap::{Args, ValueEnum};

use crate::host;
use crate::plan::{self, Line, cargo};
use crate::python::Interpreter;

const PAGE: &str = "docs/benchmarks.md";
const PLOT: &str = "docs/lateness.svg";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Which bench.
    bench: Bench,
    /// A smoke run: seconds instead of minutes, and figures to distrust.
    #[arg(long)]
    quick: bool,
    /// Put the table into docs/benchmarks.md, and the plot beside it.
    #[arg(long)]
    write: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// The thread pools beside `spawn_blocking`, `blocking` and `tokio-rayon`.
    Threads,
    /// The process pool beside `procspawn`, bare pipes and sockets, and a copy into shared memory.
    Processes,
    /// What a watch costs the loop that it watches.
    Watch,
    /// The same in Python, with asyncio and uvloop.
    WatchPython,
    /// The Python executors beside the standard library's, anyio's, loky, pebble and others.
    Python,
    /// How late a loop is with its service's work on it, in threads, and with offloop; with a plot.
    Lateness,
}

impl Bench {
    /// The name of the bench target, and of its table in the page.
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
            Self::Watch => "watch",
            Self::WatchPython => "watch-python",
            Self::Python => "python",
            Self::Lateness => "lateness",
        }
    }
}

/// How a bench is run.
struct Run {
    /// What must be done before.
    before: Vec<Line>,
    bench: Line,
    /// What one types to measure again.
    typed: String,
    /// The version of what the bench is built or run by.
    version: String,
}

impl Run {
    fn of(bench: Bench, quick: bool, write: bool) -> Result<Self, String> {
        let line = match bench {
            // The thread pools are benched without the process pool, which they don't need.
            Bench::Threads => cargo("bench -p offloop --no-default-features --bench threads"),
            Bench::Processes => cargo("bench -p offloop --bench processes"),
            Bench::Watch => cargo("bench -p offloop --features watch-stacks --bench watch"),
            Bench::WatchPython => return Self::of_python(bench, &["python/benches/watch.py"], quick),
            Bench::Python => return Self::of_python(bench, &["python/benches"], quick),
            Bench::Lateness => return Self::of_lateness(quick, write),
        };
        let typed = line.to_string();
        let bench = if quick { line.and(["--", "--quick"]) } else { line };
        Ok(Self { before: Vec::new(), bench, typed, version: host::compiler() })
    }

    fn of_python(bench: Bench, program: &[&str], quick: bool) -> Result<Self, String> {
        let environment = Interpreter::preferred()?.for_peers();
        let line = environment.python("-u").and(program);
        let line = if quick { line.and(["--quick"]) } else { line };
        let typed = format!("cargo xtask bench {}", bench.name());
        Ok(Self { before: environment.made(), bench: line, typed, version: environment.version() })
    }

    /// Always draws, so that a smoke run tries it; into the documentation only when asked.
    fn of_lateness(quick: bool, write: bool) -> Result<Self, String> {
        let aside = host::target_dir().join("lateness.svg").display().to_string();
        let plot = if write { PLOT } else { &aside };
        Self::of_python(Bench::Lateness, &["python/benches/lateness.py", plot], quick)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let name = arguments.bench.name();
    let Run { before, bench, typed, version } = Run::of(arguments.bench, arguments.quick, arguments.write)?;
    plan::run_all(before)?;
    let output = bench.command().stderr(Stdio::inherit()).output()?;
    let printed = String::from_utf8(output.stdout)?;
    print!("{printed}");
    if !output.status.success() {
        return Ok(ExitCode::FAILURE);
    }
    if arguments.write {
        let table: String = printed.lines().filter(|line| line.starts_with('|')).map(with_newline).collect();
        if table.is_empty() {
            return Err(format!("the bench `{name}` printed no table").into());
        }
        let section = format!(
            "```text\n{typed}\n```\n\n{}; {}; {version}.\n\n{table}",
            host::date(),
            host::processor(),
        );
        let page = fs::read_to_string(PAGE)?;
        fs::write(PAGE, replace_section(&page, name, &section)?)?;
        println!("\nwritten to {PAGE}");
    }
    Ok(ExitCode::SUCCESS)
}

fn with_newline(line: &str) -> String {
    format!("{line}\n")
}

/// `page` with new text between the two markers of a section.
fn replace_section(page: &str, name: &str, text: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let parts = page
        .split_once(&begin)
        .and_then(|(before, rest)| rest.split_once(&end).map(|(_, after)| (before, after)));
    let (before, after) = parts.ok_or_else(|| format!("{PAGE} lacks the markers {begin} and {end}"))?;
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::replace_section;

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let page = "a\n<!-- t:begin -->\nold\n<!-- t:end -->\nb\n";
        let expected = "a\n<!-- t:begin -->\nnew\n<!-- t:end -->\nb\n";
        assert_eq!(replace_section(page, "t", "new\n").as_deref(), Ok(expected));
    }

    #[test]
    fn a_page_without_markers_is_refused() {
        assert!(replace_section("a\n<!-- t:begin -->\n", "t", "new\n").is_err());
    }
}

//! `cargo xtask bench`: runs a bench, and can write its table into the documentation.

use std::error::Error;
use std::fs;
use std::process::{ExitCode, Stdio};

use clap::{Args, ValueEnum};

use crate::host;
use crate::plan::{self, CommandLine, Plan, cargo};
use crate::python::Interpreter;
use crate::test::nats_server;

const PAGE: &str = "docs/benchmarks.md";
const PLOT: &str = "docs/lateness.svg";

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// The bench to run.
    bench: Bench,
    /// Run for seconds instead of minutes, to see that the bench works; its numbers mean nothing.
    #[arg(long)]
    quick: bool,
    /// Write the table into docs/benchmarks.md, and the plot beside it.
    #[arg(long)]
    write: bool,
    /// Run a bench in Python on this version, such as 3.14. If it is not installed here, Debian's unstable suite may have it.
    /// Peers without a build for it are left out.
    #[arg(long, value_name = "VERSION")]
    python: Option<String>,
}

impl BenchArguments {
    /// Returns the arguments of a quick run.
    fn quick(bench: Bench) -> Self {
        Self { bench, quick: true, write: false, python: None }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// Compares the thread pools with `spawn_blocking`, `blocking` and `tokio-rayon`.
    Threads,
    /// Compares the process pool with `procspawn`, bare pipes and sockets, and a copy into shared memory.
    Processes,
    /// Shows how costs grow with queued jobs, threads and workers.
    Growth,
    /// Measures what the live view costs: a look, and a job while nobody looks.
    Observe,
    /// Measures what a watch costs the event loop.
    Watch,
    /// Measures the same in Python, with asyncio and uvloop.
    WatchPython,
    /// Compares the Python executors with those of the standard library, anyio, loky, pebble and others.
    Python,
    /// Compares a cluster with Ray, Dask, Celery and Taskiq, on this machine.
    Cluster,
    /// Shows where a cluster bends: 100 to 10,000 workers on one server and on three.
    Scale,
    /// Plots how late an event loop is with a service's work on the loop, in threads, and in offloop's pools.
    Lateness,
}

impl Bench {
    /// Returns the name of the bench target, which is also the name of its table in the page.
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
            Self::Growth => "growth",
            Self::Observe => "observe",
            Self::Watch => "watch",
            Self::WatchPython => "watch-python",
            Self::Python => "python",
            Self::Cluster => "cluster",
            Self::Scale => "scale",
            Self::Lateness => "lateness",
        }
    }
}

/// The commands of a bench, and what its table says about them.
struct BenchRun {
    /// The commands that prepare the bench.
    before: Vec<CommandLine>,
    bench: CommandLine,
    /// The command that one types to measure again.
    typed: String,
    /// The version of the compiler or interpreter.
    version: String,
}

impl BenchRun {
    fn of(arguments: &BenchArguments) -> Result<Self, String> {
        let &BenchArguments { bench, quick, .. } = arguments;
        let line = match bench {
            Bench::WatchPython => return Self::of_python(arguments, &["python/benches/watch.py"]),
            Bench::Python => return Self::of_python(arguments, &["python/benches"]),
            Bench::Lateness => return Self::of_lateness(arguments),
            _ if arguments.python.is_some() => {
                return Err(format!(
                    "the bench `{}` does not run on a version of Python to choose",
                    bench.name()
                ));
            }
            // Without the process pool, which the thread pools do not need.
            Bench::Threads => cargo("bench -p offloop --no-default-features --bench threads"),
            Bench::Processes => cargo("bench -p offloop --bench processes"),
            Bench::Growth => cargo("bench -p offloop --bench growth"),
            Bench::Observe => cargo("bench -p offloop --features observe --bench observe"),
            Bench::Watch => cargo("bench -p offloop --features watch-stacks --bench watch"),
            Bench::Cluster => return Self::of_cluster(quick),
            Bench::Scale => return Self::of_scale(quick),
        };
        let typed = line.to_string();
        let bench = if quick { line.and(["--", "--quick"]) } else { line };
        Ok(Self { before: Vec::new(), bench, typed, version: host::compiler() })
    }

    fn of_python(arguments: &BenchArguments, program: &[&str]) -> Result<Self, String> {
        let mut typed = format!("cargo xtask bench {}", arguments.bench.name());
        let (environment, before) = match &arguments.python {
            None => {
                let environment = Interpreter::preferred()?.for_peers();
                let before = environment.commands();
                (environment, before)
            }
            Some(version) => {
                typed = format!("{typed} --python {version}");
                let environment = Interpreter::of_version(version)?.for_peers_with_builds();
                let mut before = environment.commands();
                before.push(environment.python("python/benches/install.py python/benches/requirements.txt"));
                (environment, before)
            }
        };
        let line = environment.python("-u").and(program);
        let line = if arguments.quick { line.and(["--quick"]) } else { line };
        Ok(Self { before, bench: line, typed, version: environment.version() })
    }

    /// Installs the peers, unless it is to be quick. Ray listens on all of the system's addresses, so all have a network of
    /// their own, which only root can make.
    fn of_cluster(quick: bool) -> Result<Self, String> {
        let environment = Interpreter::preferred()?.for_cluster_peers();
        let program = environment.python("-u python/benches/cluster.py");
        let (mut before, server) = nats_server()?;
        before.extend(environment.commands());
        let in_rust = "--package offloop-cluster --bench cluster";
        let bench = if quick {
            // With the options of the step `cluster`, so that nothing is built twice.
            let in_rust = "cargo test --quiet --workspace --all-features --bench cluster --";
            program.and(["--quick", "--rust", in_rust]).with("PYO3_BUILD_EXTENSION_MODULE", "1")
        } else {
            let network = plan::network_of_its_own().ok_or(
                "Ray listens on all of the system's addresses, so this bench needs a network of its own: run it as root, \
                 with the program `ip` installed",
            )?;
            // So that no turn has to.
            before.push(cargo(&format!("bench --quiet {in_rust} --no-run")));
            before.push(program.clone().and(["--install"]));
            program.and(["--rust", &format!("cargo bench --quiet {in_rust} --")]).after(&network)
        };
        let bench = bench.after(&server);
        let typed = "cargo xtask bench cluster".to_owned();
        let version = format!("{}; {}", host::compiler(), environment.version());
        Ok(Self { before, bench, typed, version })
    }

    fn of_scale(quick: bool) -> Result<Self, String> {
        let (before, server) = nats_server()?;
        let line = cargo("bench -p offloop-cluster --bench scale");
        let line = if quick { line.and(["--", "--quick"]) } else { line };
        let bench = line.after(&server);
        let typed = "cargo xtask bench scale".to_owned();
        Ok(Self { before, bench, typed, version: host::compiler() })
    }

    /// Always draws the plot, so that a quick run tests it. Without `write`, the plot goes below the target directory.
    fn of_lateness(arguments: &BenchArguments) -> Result<Self, String> {
        let elsewhere = host::target_dir().join("lateness.svg").display().to_string();
        let plot = if arguments.write { PLOT } else { &elsewhere };
        Self::of_python(arguments, &["python/benches/lateness.py", plot])
    }
}

/// Returns the commands of a quick run of the bench of clusters, without peers.
pub(crate) fn smoke_of_cluster() -> Result<Vec<CommandLine>, String> {
    let run = BenchRun::of(&BenchArguments::quick(Bench::Cluster))?;
    Ok(run.before.into_iter().chain([run.bench]).collect())
}

/// Returns the plan of the step `bench-smoke-python`: a quick run of each bench in Python.
pub(crate) fn smoke_in_python() -> Plan {
    let mut lines = Vec::new();
    for bench in [Bench::Python, Bench::WatchPython, Bench::Lateness] {
        match BenchRun::of(&BenchArguments::quick(bench)) {
            Ok(run) => {
                if lines.is_empty() {
                    lines.extend(run.before);
                }
                lines.push(run.bench);
            }
            Err(reason) => return Plan::Skip(reason),
        }
    }
    Plan::Run(lines)
}

pub(crate) fn run(arguments: &BenchArguments) -> Result<ExitCode, Box<dyn Error>> {
    let name = arguments.bench.name();
    let BenchRun { before, bench, typed, version } = BenchRun::of(arguments)?;
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
        let peers = versions_of_peers(&printed).map(|peers| format!("; {peers}")).unwrap_or_default();
        let section = format!(
            "```text\n{typed}\n```\n\n{}; {}; {version}{peers}.\n\n{table}",
            host::date(),
            host::processor(),
        );
        // A version to choose has a table of its own.
        let name = arguments.python.as_ref().map_or(name.to_owned(), |version| format!("{name}-{version}"));
        let page = fs::read_to_string(PAGE)?;
        fs::write(PAGE, replace_section(&page, &name, &section)?)?;
        println!("\nThe table is written to {PAGE}.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the versions that a bench has printed of what it compares.
fn versions_of_peers(printed: &str) -> Option<&str> {
    printed.lines().find_map(|line| line.strip_prefix("Versions: ")?.strip_suffix('.'))
}

fn with_newline(line: &str) -> String {
    format!("{line}\n")
}

/// Returns the page with new text between the two markers of a section.
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
    use super::{replace_section, versions_of_peers};

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let page = "a\n<!-- t:begin -->\nold\n<!-- t:end -->\nb\n";
        let expected = "a\n<!-- t:begin -->\nnew\n<!-- t:end -->\nb\n";
        assert_eq!(replace_section(page, "t", "new\n").as_deref(), Ok(expected));
    }

    #[test]
    fn the_versions_that_a_bench_prints_are_found() {
        let printed = "Versions: anyio 4.16.0, loky 3.7.0.\n\n| workload |\n";
        assert_eq!(versions_of_peers(printed), Some("anyio 4.16.0, loky 3.7.0"));
        assert_eq!(versions_of_peers("| workload |\n"), None);
    }

    #[test]
    fn a_page_without_markers_is_refused() {
        assert!(replace_section("a\n<!-- t:begin -->\n", "t", "new\n").is_err());
    }
}

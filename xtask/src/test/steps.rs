//! The list of steps. A step is a name and its commands.

use crate::plan::{self, CommandLine, Plan, cargo};
use crate::python::{Environment, Interpreter};
use crate::{bench, conformance, dist, host, instructions, page};

pub(super) struct Step {
    pub(super) name: &'static str,
    /// Called just before the step runs.
    pub(super) plan: fn() -> Plan,
}

/// The steps, in two lanes that run beside each other: much of their time is spent waiting, and the end of a build has work
/// for one core only. The steps of a lane run one after another, because they share a build directory or an environment.
pub(super) struct Lanes {
    /// The first lane: what is built and tested in Rust.
    pub(super) rust: Vec<Step>,
    /// The first lane goes on with what needs the Python package, in environments that the second does not use.
    pub(super) apart: Vec<Step>,
    /// Builds the Python package, which the others install. The second lane begins with it.
    pub(super) wheel: Step,
    /// The second lane: the tests of the package, on all interpreters.
    pub(super) python: Vec<Step>,
    /// Runs after the lanes, beside nothing: the steps that look at how a core or the interpreter is shared, and those with
    /// tests that are in time only if they get one.
    pub(super) alone: Vec<Step>,
}

impl Lanes {
    pub(super) fn into_steps(self) -> Vec<Step> {
        let wheel = vec![self.wheel];
        [self.rust, wheel, self.python, self.apart, self.alone].into_iter().flatten().collect()
    }
}

pub(super) fn all() -> Lanes {
    Lanes {
        rust: rust(),
        apart: vec![
            Step { name: "page", plan: page::check },
            Step { name: "packages", plan: dist::plan },
            Step { name: "instructions", plan: instructions::plan },
            Step { name: "engines", plan: engines },
        ],
        wheel: Step { name: "wheel", plan: wheel },
        python: vec![
            Step { name: "python", plan: || in_python(preferred(), pytest) },
            Step { name: "python-types", plan: python_types },
            Step { name: "python-oldest", plan: || in_python(oldest(), pytest_again) },
            Step { name: "python-3.14", plan: || in_python(debian("3.14"), pytest_again) },
            Step { name: "python-3.15", plan: || in_python(debian("3.15"), pytest_again) },
            Step { name: "conformance", plan: || conformance::plan_here(false) },
            // The newest version stands for both of Debian's. `cargo xtask conformance` runs all.
            Step { name: "conformance-3.15", plan: || conformance::plan_of_debian(false, &["3.15"]) },
            Step { name: "real-systems", plan: real_systems },
            Step { name: "mercuriy", plan: mercuriy },
        ],
        alone: vec![
            // A generator has half a second to clean up.
            Step { name: "python-cluster", plan: python_cluster },
            // The page says so if a program has no core.
            Step { name: "browser", plan: browser },
            Step { name: "watch", plan: || in_python(preferred(), |it| pytest_alone(it, &[])) },
            Step { name: "watch-oldest", plan: || in_python(oldest(), pytest_of_stacks) },
            Step { name: "watch-3.14", plan: || in_python(debian("3.14"), pytest_of_stacks) },
            Step {
                name: "watch-3.15",
                plan: || in_python(debian("3.15"), |it| pytest_alone(it, &OF_NO_VERSION)),
            },
        ],
    }
}

fn rust() -> Vec<Step> {
    vec![
        Step { name: "format", plan: || cargo("fmt --all --check").into() },
        Step {
            name: "lints",
            plan: || workspace("clippy --workspace --all-targets --all-features -- -D warnings").into(),
        },
        Step {
            name: "lints-bare",
            plan: || cargo("clippy -p offloop --no-default-features --lib -- -D warnings").into(),
        },
        Step { name: "layers", plan: || cargo("xtask layers").into() },
        Step { name: "tests", plan: || workspace("test --workspace --all-features").into() },
        Step { name: "nextest", plan: nextest },
        Step { name: "terminal", plan: terminal },
        Step { name: "cluster", plan: cluster },
        Step {
            name: "bench-smoke",
            // With the options of the step `tests`, so that nothing is built twice.
            plan: || {
                let benches = ["threads", "processes", "growth", "observe", "watch"];
                workspace("test --workspace --all-features")
                    .and(benches.iter().flat_map(|it| ["--bench", it]))
                    .into()
            },
        },
        Step { name: "example-quickstart", plan: || example("quickstart") },
        Step { name: "example-executor", plan: || example("executor") },
        Step { name: "example-json-keys", plan: || example("json_keys") },
        Step { name: "example-watchdog", plan: || example("watchdog") },
        Step { name: "other-systems", plan: || cargo("xtask other-systems").into() },
        Step { name: "tests-bare", plan: || cargo("test -p offloop --no-default-features --lib").into() },
        Step {
            name: "docs",
            plan: || {
                workspace("doc --workspace --no-deps --all-features")
                    .with("RUSTDOCFLAGS", "-D warnings")
                    .into()
            },
        },
        Step { name: "models", plan: models },
        Step { name: "miri", plan: miri },
        Step { name: "torture", plan: || cargo("xtask torture --seconds 10 --seed 1").into() },
        Step { name: "licences", plan: || deny(&["licenses", "bans", "sources"]) },
        Step { name: "advisories", plan: advisories },
    ]
}

/// Returns a cargo command for all packages. The Python binding is not linked to Python, as in the wheel, so that
/// Python need not be installed.
pub(crate) fn workspace(words: &str) -> CommandLine {
    cargo(words).with("PYO3_BUILD_EXTENSION_MODULE", "1")
}

/// Runs an example of the crate.
fn example(name: &str) -> Plan {
    Plan::Run(vec![built("--example", name), program(&format!("examples/{name}"))])
}

/// Returns the command that builds a program with the options of the step `tests`, so that what that has built is not
/// built again with other features.
fn built(kind: &str, name: &str) -> CommandLine {
    workspace("build --quiet --workspace --all-features").and([kind, name])
}

/// Returns the command that runs a program that [`built`] has built.
fn program(name: &str) -> CommandLine {
    CommandLine::new([host::target_dir().join("debug").join(name).display().to_string().as_str()])
}

/// Runs the example of tests that use process pools under nextest, which starts a process for each test. The step
/// `tests` runs it under `cargo test`, with its doctests. CI does not install nextest, which takes minutes to build.
fn nextest() -> Plan {
    if host::output_of("cargo", &["nextest", "--version"]).is_none() {
        return Plan::Skip("cargo-nextest is not installed".to_owned());
    }
    cargo("nextest run -p offloop-example-testing").into()
}

/// Runs the tests of the command `offloop`, also those in a real terminal, which the step `tests` leaves out.
fn terminal() -> Plan {
    if host::output_of("tmux", &["-V"]).is_none() {
        return Plan::Skip("tmux is not installed".to_owned());
    }
    // With the options of the step `tests`, so that nothing is built twice.
    let test = ["--test", "terminal", "--", "--include-ignored"];
    workspace("test --workspace --all-features").and(test).into()
}

/// Runs the concurrency models: under shuttle, a scheduler that tries many orders of events, and under loom, which also
/// lets loads return old values where their orderings allow it. A flag selects the tests of each. They have target
/// directories of their own, because another flag would rebuild everything each time.
fn models() -> Plan {
    let models = |directory: &str, flag, features: &str, filter: &str| {
        let target = host::target_dir().join(directory).display().to_string();
        cargo("test -p offloop --no-default-features --lib --release")
            .and(["--features", features, "--target-dir", &target, "--", filter])
            .with("RUSTFLAGS", flag)
    };
    Plan::Run(vec![
        models("shuttle", "--cfg shuttle", "process,watch", "model"),
        models("weak-memory", "--cfg weak_memory", "process", "weak_model"),
    ])
}

/// Runs the unit tests under Miri, on the first installed toolchain that has it.
fn miri() -> Plan {
    let toolchains = host::output_of("rustup", &["toolchain", "list"]).unwrap_or_default();
    let names = toolchains.lines().filter_map(|line| line.split_whitespace().next());
    let has_miri =
        |name: &&str| host::output_of("rustup", &["run", name, "cargo", "miri", "--version"]).is_some();
    match names.into_iter().find(has_miri) {
        Some(name) => CommandLine::new(["rustup", "run", name, "cargo"])
            .and("miri test -p offloop --no-default-features --features watch --lib".split(' '))
            .with("MIRIFLAGS", "-Zmiri-disable-isolation")
            .into(),
        None => Plan::Skip("no installed toolchain has Miri".to_owned()),
    }
}

/// Runs checks of cargo-deny. It reads the manifests of all dependencies, also those for other systems, which a build
/// does not download. So they are fetched first.
fn deny(checks: &[&str]) -> Plan {
    if host::output_of("cargo", &["deny", "--version"]).is_none() {
        return Plan::Skip("cargo-deny is not installed".to_owned());
    }
    Plan::Run(vec![cargo("fetch"), cargo("deny --all-features --offline check").and(checks)])
}

/// Looks for known vulnerabilities in the newest database on this machine. The database is not fetched.
fn advisories() -> Plan {
    let home = std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    if home.is_some_and(|home| home.join("advisory-dbs").is_dir()) {
        deny(&["advisories"])
    } else {
        Plan::Skip("no advisory database on this machine".to_owned())
    }
}

/// Builds the Python package.
fn wheel() -> Plan {
    match preferred() {
        Ok(environment) => Plan::Run(environment.wheel()),
        Err(reason) => Plan::Skip(reason),
    }
}

/// Returns the test environment of the preferred interpreter.
fn preferred() -> Result<Environment, String> {
    Interpreter::preferred().map(Interpreter::for_tests)
}

/// Returns the test environment of the oldest interpreter.
fn oldest() -> Result<Environment, String> {
    Interpreter::oldest().map(Interpreter::for_tests)
}

/// Returns the test environment of a version that is too new for this system.
fn debian(version: &str) -> Result<Environment, String> {
    Interpreter::of_debian(version).map(Interpreter::for_tests)
}

/// The files of tests that look at how a core or the interpreter is shared.
const ALONE: [&str; 5] = ["auto", "watch", "watch_advice", "watch_programs", "watch_pytest"];

/// Runs the Python package's tests but for those of [`ALONE`], eight at a time, since most of them wait most of the time.
fn pytest(environment: &Environment) -> Vec<CommandLine> {
    pytest_without(environment, &[])
}

/// Runs the Python package's tests on one more interpreter. Those that try the engine, the system or other programs run on
/// the preferred one only: what they try does not depend on its version.
fn pytest_again(environment: &Environment) -> Vec<CommandLine> {
    pytest_without(environment, &OF_NO_VERSION)
}

fn pytest_without(environment: &Environment, left_out: &[&str]) -> Vec<CommandLine> {
    let ignored = ALONE.iter().chain(left_out).map(|name| format!("--ignore={}", test_file(name)));
    vec![environment.python("-m pytest --numprocesses=8 --dist=loadfile python/tests").and(ignored)]
}

/// Runs the tests of [`ALONE`] but for some.
fn pytest_alone(environment: &Environment, left_out: &[&str]) -> Vec<CommandLine> {
    let alone = ALONE.iter().filter(|name| !left_out.contains(name));
    vec![environment.python("-m pytest").and(alone.map(|name| test_file(name)))]
}

/// Runs the tests of the stacks that the watchdog reads. Of it, little else depends on the version of Python, so that the
/// newest one and the preferred one are enough for the rest.
fn pytest_of_stacks(environment: &Environment) -> Vec<CommandLine> {
    vec![environment.python("-m pytest").and([test_file("watch")])]
}

fn test_file(name: &str) -> String {
    format!("python/tests/test_{name}.py")
}

/// The files of tests that do not depend on the version of Python.
const OF_NO_VERSION: [&str; 18] = [
    "auto",
    "examples",
    "layers",
    "links",
    "message_memory",
    "observe",
    "observe_web",
    "opentelemetry",
    "process_bounds",
    "process_crashes",
    "process_hosts",
    "process_payloads",
    "process_rights",
    "process_secrets",
    "watch_advice",
    "watch_pytest",
    "web_frameworks",
    "web_servers",
];

/// Runs two type checkers on the package and on a file of typical uses.
fn python_types() -> Plan {
    let environment = Interpreter::preferred()
        .map(|interpreter| interpreter.for_tests().requires("python/requirements-types.txt"));
    in_python(environment, |environment| {
        let uses = "python/tests/typing_uses.py";
        let files = ["python/offloop", uses].into_iter().filter(|path| std::path::Path::new(path).exists());
        let mypy = environment.python("-m mypy").and(files.clone());
        let pyright = environment.python("-m pyright --pythonpath").and([environment.program()]).and(files);
        vec![mypy, pyright]
    })
}

/// Tests and runs the examples that call real servers, in both languages. Tests of a server that is not installed
/// report that they are skipped, and pass.
fn real_systems() -> Plan {
    let tests = workspace("test --workspace --all-features --test calls --test restart");
    let mut lines = vec![
        beside_servers(&tests),
        built("--bin", "offloop-example-blocking-protocol"),
        program("offloop-example-blocking-protocol"),
    ];
    // Without an answer nothing is known to be missing: the commands above then show why.
    let is_built = built("--bin", SERVERS).command().status().is_ok_and(|status| status.success());
    let answer = if is_built { program(SERVERS).and(["--missing"]).output() } else { None };
    let answer = answer.unwrap_or_default();
    let mut missing: Vec<_> = answer.lines().map(str::to_owned).collect();
    if !answer.contains("PostgreSQL") {
        lines.push(built("--bin", "offloop-example-postgres"));
        lines.push(beside_servers(&program("offloop-example-postgres")));
    }
    let requirements = "python/tests_real/requirements.txt";
    match Interpreter::preferred().map(|interpreter| interpreter.for_tests().requires(requirements)) {
        Ok(environment) => {
            lines.extend(environment.commands());
            lines.push(beside_servers(&environment.python("-m pytest python/tests_real")));
        }
        Err(reason) => missing.push(reason),
    }
    if missing.is_empty() { Plan::Run(lines) } else { Plan::RunPart(lines, missing.join("; ")) }
}

/// Runs calls on Dask and on Ray, which the tests start, each in a process of its own. Ray listens on all of the system's
/// addresses, so they have a network of their own where this may be made.
fn engines() -> Plan {
    let environment = Interpreter::preferred().map(Interpreter::for_engines);
    if environment.as_ref().is_ok_and(|it| !it.can_be_made()) {
        let reason = "Dask and Ray cannot be installed: they have no builds for this Python, or there is no package index";
        return Plan::Skip(reason.to_owned());
    }
    in_python(environment, |environment| {
        let tests = environment.python("-m pytest --numprocesses=2 --dist=loadfile python/tests_engines");
        vec![match plan::network_of_its_own() {
            Some(network) => tests.after(&network),
            None => tests,
        }]
    })
}

/// The program that runs a command beside real servers.
const SERVERS: &str = "offloop-example-servers";

/// Returns the command that runs another beside the servers that are installed.
fn beside_servers(line: &CommandLine) -> CommandLine {
    line.after(&program(SERVERS))
}

/// Runs the tests of the service in `examples/mercuriy` on both of its implementations, beside real servers as far as
/// those are installed, and those of the workshop. Most of them wait most of the time, so several run at a time.
fn mercuriy() -> Plan {
    let requirements = ["python/tests_real/requirements.txt", "examples/mercuriy/tests/requirements.txt"];
    let environment = Interpreter::preferred()
        .map(|interpreter| requirements.into_iter().fold(interpreter.for_tests(), Environment::requires));
    let environment = match environment {
        Ok(environment) => environment,
        Err(reason) => return Plan::Skip(reason),
    };
    let mut lines = environment.commands();
    lines.extend([built("--bin", "mercuriy"), built("--bin", SERVERS)]);
    let options = "-m pytest --numprocesses=4 --dist=loadfile -c examples/mercuriy/tests/pytest.ini \
                   examples/mercuriy/tests";
    lines.push(beside_servers(&environment.python(options)));
    lines.push(environment.python("-m pytest --numprocesses=4 -c docs/workshop/pytest.ini docs/workshop"));
    Plan::Run(lines)
}

/// Returns the steps that take too long for each change. They are run by their names, before a release.
pub(super) fn on_request() -> Vec<Step> {
    vec![
        Step {
            name: "cluster-models",
            // Optimised, and with more states than the step `tests` looks at.
            plan: || cargo("test -p offloop-cluster --lib --release -- --include-ignored model").into(),
        },
        Step { name: "bench-smoke-python", plan: bench::smoke_in_python },
        Step { name: "cluster-benches", plan: cluster_benches },
        Step {
            name: "cluster-failures",
            plan: || {
                beside_nats(&[
                    "test --package offloop-cluster --all-features --lib -- --ignored store::tests",
                    "test --workspace --all-features --test failures -- --include-ignored --test-threads=4",
                ])
            },
        },
    ]
}

/// Runs the tests of the cluster on a real NATS server, which is installed in a virtual environment of its own. The step
/// `tests` runs what needs none.
fn cluster() -> Plan {
    beside_nats(&[
        // Without the binding, whose own tests need the library of Python.
        "test --workspace --exclude offloop-python --all-features --lib -- \
         client::tests store::tests worker::tests security::",
        "test --package offloop-cluster --all-features --doc",
        "test --workspace --all-features --test embedded --test contract_cluster --test fork_cluster --test program",
        "test --workspace --all-features --test failures -- --test-threads=4",
    ])
}

/// Runs the benches of the cluster shortly, and without peers.
fn cluster_benches() -> Plan {
    let in_rust = beside_nats(&["test --workspace --all-features --bench cluster --bench scale"]);
    match (in_rust, bench::smoke_of_cluster()) {
        (Plan::Run(lines), Ok(smoke)) => Plan::Run(lines.into_iter().chain(smoke).collect()),
        (Plan::Run(lines), Err(reason)) => Plan::RunPart(lines, reason),
        (skipped, _) => skipped,
    }
}

/// Runs the tests of the Python package on a cluster: its executor, `offloop worker`, and a program in Rust beside it. Then
/// Python's own tests of executors, on an embedded cluster.
fn python_cluster() -> Plan {
    let environment = Interpreter::preferred()
        .map(|it| it.for_tests().requires("crates/offloop-cluster/tests/requirements.txt"));
    in_python(environment, |environment| {
        let program = host::target_dir().join("debug").join("examples").join("languages");
        let names = CommandLine::new(["env", &format!("OFFLOOP_LANGUAGES={}", program.display())]);
        let tests = environment.python("-m pytest --numprocesses=2 --dist=loadfile python/tests_cluster");
        let mut lines = vec![built("--example", "languages"), tests.after(&names)];
        if Interpreter::with_its_tests().is_ok() {
            let suite = "python/conformance/cpython_suite.py process --target cluster_pool:ClusterPool";
            lines.push(environment.python(suite));
        }
        lines
    })
}

/// Runs tests with a NATS server that is installed in a virtual environment of its own.
fn beside_nats(tests: &[&str]) -> Plan {
    match nats_server() {
        Ok((mut lines, server)) => {
            lines.extend(tests.iter().map(|tests| workspace(tests).after(&server)));
            Plan::Run(lines)
        }
        Err(reason) => Plan::Skip(reason),
    }
}

/// Returns the commands that install a NATS server, and the program that runs another with it.
pub(crate) fn nats_server() -> Result<(Vec<CommandLine>, CommandLine), String> {
    let environment = Interpreter::preferred()?.for_nats();
    let server = format!("OFFLOOP_NATS_SERVER={}", environment.program_beside("nats-server"));
    Ok((environment.commands_without_the_package(), CommandLine::new(["env", server.as_str()])))
}

/// Opens the live view of running programs in a browser.
fn browser() -> Plan {
    if host::output_of("chromium", &["--version"]).is_none() {
        return Plan::Skip("Chromium is not installed".to_owned());
    }
    let environment = Interpreter::preferred()
        .map(|interpreter| interpreter.for_tests().requires("python/tests_browser/requirements.txt"));
    in_python(environment, |environment| {
        vec![environment.python("-m pytest --numprocesses=2 python/tests_browser")]
    })
}

/// Creates the environment, then runs the commands that `then` returns.
fn in_python(environment: Result<Environment, String>, then: fn(&Environment) -> Vec<CommandLine>) -> Plan {
    match environment {
        Ok(environment) => Plan::Run(environment.commands().into_iter().chain(then(&environment)).collect()),
        Err(reason) => Plan::Skip(reason),
    }
}

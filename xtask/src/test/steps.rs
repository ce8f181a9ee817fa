//! The list of checks, each a name and the commands behind it.

use crate::plan::{Line, Plan, cargo};
use crate::python::{Environment, Interpreter};
use crate::{conformance, host, servers};

pub(super) struct Step {
    pub(super) name: &'static str,
    /// Asked when the step's turn has come.
    pub(super) plan: fn() -> Plan,
}

pub(super) fn all() -> Vec<Step> {
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
        Step { name: "tests", plan: || workspace("test --workspace --all-features").into() },
        Step { name: "nextest", plan: nextest },
        Step { name: "tests-bare", plan: || cargo("test -p offloop --no-default-features --lib").into() },
        Step { name: "models", plan: models },
        Step { name: "miri", plan: miri },
        Step {
            name: "docs",
            plan: || {
                workspace("doc --workspace --no-deps --all-features")
                    .with("RUSTDOCFLAGS", "-D warnings")
                    .into()
            },
        },
        Step { name: "licences", plan: || deny(&["licenses", "bans", "sources"]) },
        Step { name: "advisories", plan: advisories },
        Step { name: "python", plan: python },
        Step { name: "python-oldest", plan: python_oldest },
        Step { name: "python-types", plan: python_types },
        Step { name: "real-systems", plan: real_systems },
        Step { name: "conformance", plan: || conformance::plan(false) },
        Step { name: "torture", plan: || cargo("xtask torture --seconds 10 --seed 1").into() },
        Step {
            name: "bench-smoke",
            // As they are built for the step `tests`.
            plan: || {
                let benches = ["--bench", "threads", "--bench", "processes", "--bench", "watch"];
                workspace("test --workspace --all-features").and(benches).into()
            },
        },
        Step { name: "bench-smoke-python", plan: bench_smoke_python },
        Step { name: "example-quickstart", plan: || cargo("run -p offloop --example quickstart").into() },
        Step { name: "example-executor", plan: || cargo("run -p offloop --example executor").into() },
        Step { name: "example-json-keys", plan: || cargo("run -p offloop --example json_keys").into() },
        Step {
            name: "example-watchdog",
            plan: || cargo("run -p offloop --features watch-stacks --example watchdog").into(),
        },
    ]
}

/// On all packages, with the binding built as the wheel has it: not linked to Python, which need not be there then.
fn workspace(words: &str) -> Line {
    cargo(words).with("PYO3_BUILD_EXTENSION_MODULE", "1")
}

/// The example of tests that use process pools, under nextest, which starts a process for each test. The step
/// `tests` runs it under `cargo test`, doctests included.
fn nextest() -> Plan {
    if host::output_of("cargo", &["nextest", "--version"]).is_none() {
        return Plan::Skip("cargo-nextest is not installed".to_owned());
    }
    cargo("nextest run -p offloop-example-testing").into()
}

/// The concurrency models, under a scheduler that tries many orders: all tests that there are under this flag.
/// Other flags than the usual would rebuild everything each time, so they have a target directory of their own.
fn models() -> Plan {
    let target = host::target_dir().join("shuttle").display().to_string();
    cargo("test -p offloop --no-default-features --features watch --lib --release")
        .and(["--target-dir", &target])
        .with("RUSTFLAGS", "--cfg shuttle")
        .into()
}

/// The unit tests under Miri, on the first installed toolchain that has it.
fn miri() -> Plan {
    let toolchains = host::output_of("rustup", &["toolchain", "list"]).unwrap_or_default();
    let names = toolchains.lines().filter_map(|line| line.split_whitespace().next());
    let has_miri =
        |name: &&str| host::output_of("rustup", &["run", name, "cargo", "miri", "--version"]).is_some();
    match names.into_iter().find(has_miri) {
        Some(name) => Line::new(["rustup", "run", name, "cargo"])
            .and("miri test -p offloop --no-default-features --features watch --lib".split(' '))
            .with("MIRIFLAGS", "-Zmiri-disable-isolation")
            .into(),
        None => Plan::Skip("no installed toolchain has miri".to_owned()),
    }
}

/// Checks of cargo-deny. It reads the manifests of all dependencies, those of other systems included, which an
/// ordinary build does not download.
fn deny(checks: &[&str]) -> Plan {
    if host::output_of("cargo", &["deny", "--version"]).is_none() {
        return Plan::Skip("cargo-deny is not installed".to_owned());
    }
    Plan::Run(vec![cargo("fetch"), cargo("deny --all-features --offline check").and(checks)])
}

/// Known vulnerabilities, by the newest database on this machine; it is not fetched here.
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

/// The package's tests, on the preferred interpreter.
fn python() -> Plan {
    in_python(Interpreter::preferred().map(Interpreter::for_tests), pytest)
}

/// The same tests of the same wheel, on the oldest interpreter.
fn python_oldest() -> Plan {
    in_python(Interpreter::oldest().map(Interpreter::for_tests), pytest)
}

fn pytest(environment: &Environment) -> Vec<Line> {
    vec![environment.python("-m pytest python/tests")]
}

/// Two type checkers on the package and on a file of uses that users would write.
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

/// The examples that call real servers, in both languages. Those of a server that is not installed say so and pass.
fn real_systems() -> Plan {
    let rust = "xtask servers -- cargo test -p offloop-example-postgres -p offloop-example-blocking-protocol";
    let mut lines = vec![cargo(rust), cargo("run -p offloop-example-blocking-protocol")];
    if servers::has_postgres() {
        lines.push(cargo("xtask servers -- cargo run -p offloop-example-postgres"));
    }
    let mut missing: Vec<_> = servers::missing().into_iter().collect();
    let requirements = "python/tests_real/requirements.txt";
    match Interpreter::preferred().map(|interpreter| interpreter.for_tests().requires(requirements)) {
        Ok(environment) => {
            lines.extend(environment.made());
            let python = environment.program();
            lines.push(cargo("xtask servers --").and([python.as_str(), "-m", "pytest", "python/tests_real"]));
        }
        Err(reason) => missing.push(reason),
    }
    if missing.is_empty() { Plan::Run(lines) } else { Plan::RunPart(lines, missing.join("; ")) }
}

fn bench_smoke_python() -> Plan {
    match Interpreter::preferred() {
        Ok(_) => Plan::Run(
            ["python", "watch-python", "lateness"]
                .map(|name| cargo("xtask bench").and([name, "--quick"]))
                .into(),
        ),
        Err(reason) => Plan::Skip(reason),
    }
}

/// Makes the environment, then runs what is said there.
fn in_python(environment: Result<Environment, String>, then: fn(&Environment) -> Vec<Line>) -> Plan {
    match environment {
        Ok(environment) => Plan::Run(environment.made().into_iter().chain(then(&environment)).collect()),
        Err(reason) => Plan::Skip(reason),
    }
}

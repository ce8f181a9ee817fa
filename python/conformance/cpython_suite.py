"""Runs CPython's own tests of executors on offloop's.

    python cpython_suite.py                    # compares with the list of this version's results
    python cpython_suite.py --write            # writes that list, results-3.14.txt for example
    python cpython_suite.py thread asyncio     # these suites only
    python cpython_suite.py thread --target concurrent.futures:ThreadPoolExecutor

There are three suites. `thread` and `process` are `test.test_concurrent_futures` with offloop's class
in the place of the standard one; `strict_pool.py` has the one for processes. `asyncio` are those tests
of `test.test_asyncio` that make a thread pool, if only as a loop's default executor, which is then
offloop's. A test that makes none proves nothing here and is not listed.

It needs a CPython 3.13 or later that has its `test` package, and offloop installed, because some tests
start interpreters that ignore environment variables. Each suite runs in an interpreter of its own, because it
changes the standard library in place. A test that takes longer than `HANG` seconds ends its suite, and
the stacks of all threads are printed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import faulthandler
import importlib
import inspect
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VERSION = ".".join(platform.python_version_tuple()[:2])
RESULTS = HERE / f"results-{VERSION}.txt"
HANG = 90.0

# Tests of the standard pool's internals instead of its behaviour, and the internals that they use.
WHITE_BOX = {
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full":
        "replaces concurrent.futures.process._ThreadWakeup and fills the pipe inside it",
    "test_python_finalization_error":
        "replaces Process.start of the pool's context, and expects its error from submit()",
    "test_failed_worker_replacement_breaks_pool":
        "replaces concurrent.futures.process._spawn_worker",
    "test_force_shutdown_during_max_tasks_worker_exit":
        "sets _force_shutting_down under _shutdown_lock",
    "test_traceback_when_child_process_terminates_abruptly":
        "expects a concurrent.futures.process._RemoteTraceback as the error's cause",
}  # fmt: skip

# Tests that expect a job to fail which offloop runs. The tests of the package show that it does.
_COLLECTED = (
    "expects the jobs of a collected pool to fail when its worker has run max_tasks_per_child of them; "
    "offloop replaces the worker and runs them"
)
RUNS_ALL_THE_SAME = {
    "test_gc_during_max_tasks_worker_exit_gh152967": _COLLECTED,
    "test_shutdown_no_wait_max_tasks_gh119592": _COLLECTED,
}


@dataclass(frozen=True)
class Suite:
    """Test modules, and the standard class that offloop's takes the place of."""

    package: str
    modules: tuple[str, ...]
    standard: str
    target: str


CONCURRENT = ("test_as_completed", "test_wait", "test_shutdown", "test_init")

SUITES = {
    "thread": Suite(
        "test.test_concurrent_futures",
        (*CONCURRENT, "test_thread_pool"),
        "ThreadPoolExecutor",
        "offloop:ThreadPoolExecutor",
    ),
    "process": Suite(
        "test.test_concurrent_futures",
        (*CONCURRENT, "test_process_pool", "test_deadlock"),
        "ProcessPoolExecutor",
        "strict_pool:StrictProcessPoolExecutor",
    ),
    # The modules with tests that make a thread pool.
    "asyncio": Suite(
        "test.test_asyncio",
        ("test_base_events", "test_events", "test_futures", "test_sock_lowlevel",
         "test_subprocess", "test_tasks", "test_threads"),
        "ThreadPoolExecutor",
        "offloop:ThreadPoolExecutor",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The outcome of a test: "passed", "failed", or "skipped" or "left out" with the reason."""

    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


class Record(unittest.TextTestResult):
    """Keeps each test's outcome, and ends the process if a test hangs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, Outcome] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        faulthandler.dump_traceback_later(HANG, exit=True)
        super().startTest(test)
        self.outcomes[test.id()] = Outcome("passed")

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._set(test, Outcome("failed"))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._set(test, Outcome("failed"))

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._set(test, Outcome("failed"))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._set(test, Outcome("skipped", reason))

    def _set(self, test: unittest.TestCase, outcome: Outcome) -> None:
        # The outcome of a subtest counts for its test; a failure is never replaced.
        whole = getattr(test, "test_case", test).id()
        if self.outcomes.get(whole) != Outcome("failed"):
            self.outcomes[whole] = outcome


def load(target: str) -> type[Any]:
    module, _, name = target.partition(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def tests_of(case: type[unittest.TestCase]) -> Iterator[unittest.TestCase]:
    for name in unittest.defaultTestLoader.getTestCaseNames(case):
        yield case(name)


def run(tests: list[unittest.TestCase], ours: type[Any]) -> dict[str, Outcome]:
    """Runs the tests, except for those that are left out for a reason. A class may have reasons of its own."""
    reasons = WHITE_BOX | RUNS_ALL_THE_SAME
    own: dict[str, str] = getattr(ours, "LEFT_OUT", {})

    def reason(test: unittest.TestCase) -> str | None:
        return reasons.get(method(test)) or next((why for part, why in own.items() if part in test.id()), None)

    left_out = {test.id(): why for test in tests if (why := reason(test))}
    suite = unittest.TestSuite(test for test in tests if test.id() not in left_out)
    result = unittest.TextTestRunner(stream=sys.stdout, resultclass=Record).run(suite)
    assert isinstance(result, Record)
    return result.outcomes | {test: Outcome("left out", why) for test, why in left_out.items()}


def method(test: unittest.TestCase) -> str:
    return test.id().rpartition(".")[2]


def run_concurrent(suite: Suite) -> dict[str, Outcome]:
    """Runs the tests of `test.test_concurrent_futures` whose executor is of the suite's kind."""
    ours = load(suite.target)
    # They are imported while they find the standard class under its name, because they read its attributes.
    modules: list[Any] = [importlib.import_module(f"{suite.package}.{name}") for name in suite.modules]
    util = importlib.import_module(f"{suite.package}.util")
    standard = getattr(concurrent.futures, suite.standard)
    # The test classes take the executor from these mixins, by inheritance.
    for mixin in vars(util).values():
        if getattr(mixin, "executor_type", None) is standard:
            mixin.executor_type = ours
    # Some tests name the standard class.
    setattr(concurrent.futures, suite.standard, ours)
    tests: list[unittest.TestCase] = []
    for module in modules:
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = with_ours(module.assert_python_ok, suite)
        for case in test_cases(module):
            if getattr(case, "executor_type", None) is ours:
                tests.extend(tests_of(case))
    return run(tests, ours)


def test_cases(module: Any) -> Iterator[type[unittest.TestCase]]:
    for case in vars(module).values():
        if inspect.isclass(case) and issubclass(case, unittest.TestCase):
            if case.__module__ == module.__name__:
                yield case


def with_ours(assert_python_ok: Any, suite: Suite) -> Any:
    """Returns an `assert_python_ok` whose child imports offloop's class instead of the standard one."""
    module, _, ours = suite.target.partition(":")

    def changed(option: str, code: str, **environment: str) -> Any:
        for name in {suite.standard, ours}:
            # One of the tests relies on the standard class's module to import `multiprocessing`.
            code = code.replace(
                f"from concurrent.futures import {name}\n",
                # The child looks for modules in neither this directory nor the environment's.
                f"import multiprocessing, sys; sys.path.append({str(HERE)!r}); "
                f"from {module} import {ours}; {name} = {ours}\n",
            )
        return assert_python_ok(option, code, **environment)

    return changed


def run_asyncio(suite: Suite) -> dict[str, Outcome]:
    """Runs the tests of `test.test_asyncio`. Returns the outcomes of those in which a pool was made."""
    makers: set[str] = set()
    current = ""

    class Noted(load(suite.target)):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            makers.add(current)
            super().__init__(*args, **kwargs)

    class Watch(Record):
        def startTest(self, test: unittest.TestCase) -> None:
            nonlocal current
            current = test.id()
            super().startTest(test)

    # asyncio looks here for the class of its default executor.
    setattr(concurrent.futures, suite.standard, Noted)
    names = [f"{suite.package}.{module}" for module in suite.modules]
    tests = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(stream=sys.stdout, resultclass=Watch).run(tests)
    assert isinstance(result, Watch)
    return {test: outcome for test, outcome in result.outcomes.items() if test in makers}


def run_suite(name: str, suite: Suite) -> dict[str, Outcome]:
    return run_asyncio(suite) if name == "asyncio" else run_concurrent(suite)


class Child:
    """An interpreter that runs a suite."""

    def __init__(self, name: str, target: str) -> None:
        self._name = name
        self._report = tempfile.NamedTemporaryFile("r")
        self._output = tempfile.TemporaryFile()
        command = [sys.executable, __file__, name, "--target", target, "--report", self._report.name]
        self._process = subprocess.Popen(
            command, stdout=self._output, stderr=self._output, process_group=0
        )

    def outcomes(self) -> dict[str, Outcome]:
        """Waits for its end, and prints its output. Returns the outcomes."""
        self._process.wait()
        print(f"== {self._name}", flush=True)
        self._output.seek(0)
        shutil.copyfileobj(self._output, sys.stdout.buffer)
        text = self._report.read()
        if not text:
            print(f"{self._name}: the suite did not come to its end")
            return {}
        return {test: Outcome(*outcome) for test, outcome in json.loads(text).items()}

    def end(self) -> None:
        """Kills it, with the workers that a hung suite leaves behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._output.close()
        self._report.close()


def side_by_side(targets: dict[str, str]) -> dict[str, dict[str, Outcome]]:
    """Returns the outcomes of the suites. They sleep most of the time, so they run at the same time."""
    children: dict[str, Child] = {}
    try:
        for name, target in targets.items():
            children[name] = Child(name, target)
        return {name: child.outcomes() for name, child in children.items()}
    finally:
        for child in children.values():
            child.end()


def as_text(found: dict[str, dict[str, Outcome]]) -> str:
    lines = [
        "# CPython's own tests on offloop's executors; made by `cargo xtask conformance --write`.",
        f"# {platform.python_implementation()} {platform.python_version()}",
    ]
    for name, outcomes in found.items():
        counts = Counter(outcome.kind for outcome in outcomes.values())
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        lines += ["", f"# {name}, on {SUITES[name].target}: {said or 'no result'}"]
        lines += [f"{name} {test}: {outcome}" for test, outcome in sorted(outcomes.items())]
    return "\n".join(lines) + "\n"


def differences(listed: list[str], found: list[str]) -> list[str]:
    """Returns a line for each difference. A test that only another release of CPython has is no difference."""
    old, new = (
        dict(line.split(": ", 1) for line in lines if is_result(line)) for lines in (listed, found)
    )
    same_release = listed[1] == found[1]
    said = []
    for test in sorted(old.keys() | new.keys()):
        before, after = old.get(test, "not listed"), new.get(test, "did not run")
        counts = same_release or (test in old and test in new) or after == "failed"
        if before != after and counts:
            said.append(f"{test}: listed as {before}, now {after}")
    return said


def is_result(line: str) -> bool:
    return bool(line) and not line.startswith("#")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="CPython's own tests of executors, run on offloop's"
    )
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; default: all"
    )
    parser.add_argument("--write", action="store_true", help="renew the list of results")
    parser.add_argument(
        "--target", metavar="MODULE:CLASS", help="another class than ours; compares with no list"
    )
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.suites or list(SUITES)
    if unknown := set(names) - SUITES.keys():
        parser.error(f"no such suite: {', '.join(unknown)}")

    if given.report:
        (name,) = names
        suite = SUITES[name]
        outcomes = run_suite(
            name, Suite(suite.package, suite.modules, suite.standard, given.target)
        )
        given.report.write_text(
            json.dumps({test: (it.kind, it.reason) for test, it in outcomes.items()})
        )
        return 0

    found = side_by_side({name: given.target or SUITES[name].target for name in names})
    text = as_text(found)
    print("\n".join(line for line in text.splitlines() if line.startswith("# ")))
    complete = all(found.values())
    failed = any(
        outcome.kind == "failed" for outcomes in found.values() for outcome in outcomes.values()
    )
    if given.target:
        return 0 if complete and not failed else 1
    if given.write:
        if set(names) != SUITES.keys() or not complete:
            print("the list is renewed only by a run of all suites that comes to its end")
            return 1
        RESULTS.write_text(text)
        return 0
    if not RESULTS.exists():
        print(f"there is no list of results for CPython {VERSION}: --write makes it")
        return 1
    listed = [
        line
        for line in RESULTS.read_text().splitlines()
        if not is_result(line) or line.split()[0] in names
    ]
    said = differences(listed, text.splitlines())
    print("\n".join(said) or f"as listed in {RESULTS.name}")
    return 1 if said or failed or not complete else 0


if __name__ == "__main__":
    sys.exit(main())

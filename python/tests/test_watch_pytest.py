"""The pytest plugin, in real runs of pytest."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HANG = 80.0


def run(directory: Path, code: str, *options: str, ini: str = "") -> "dict[str, str]":
    """Runs pytest on a file of tests. Returns each test's outcome, and under "" the output before the summary."""
    (directory / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n" + ini
    )
    (directory / "test_it.py").write_text(textwrap.dedent(code))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "offloop.pytest_plugin", "-rA", "-q", *options, "."],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=HANG,
        env=environment,
    )
    # In CI, the summary of pytest repeats the output before it.
    found = {"": done.stdout.partition("short test summary info")[0] + done.stderr}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] in ("PASSED", "FAILED", "ERROR"):
            found[words[1].partition("::")[2]] = words[0]
    return found


TESTS = """
    import asyncio, threading, time

    import anyio
    import pytest
    import pytest_asyncio
    import uvloop


    async def stall():
        await asyncio.sleep(0.1)
        time.sleep(0.7)
        await asyncio.sleep(0)


    def test_asyncio():
        asyncio.run(stall())

    def test_uvloop():
        uvloop.run(stall())

    @pytest.mark.asyncio
    async def test_pytest_asyncio():
        await stall()

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_anyio(anyio_backend):
        await stall()

    def test_another_thread():
        thread = threading.Thread(target=lambda: asyncio.run(stall()))
        thread.start()
        thread.join()

    @pytest.fixture(scope="module")
    def loop_of_the_module():
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        yield loop
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def test_before(loop_of_the_module):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), loop_of_the_module).result()

    def test_a_loop_that_runs_already(loop_of_the_module):
        asyncio.run_coroutine_threadsafe(stall(), loop_of_the_module).result()

    @pytest_asyncio.fixture
    async def slow():
        await stall()

    @pytest.mark.asyncio
    async def test_a_fixture(slow):
        pass

    @pytest.mark.asyncio
    async def test_comfortable():
        await asyncio.sleep(0.6)

    def test_no_loop():
        time.sleep(0.6)

    @pytest.mark.allow_stalls
    def test_allowed():
        asyncio.run(stall())

    @pytest.mark.stall_threshold(20)
    def test_patient():
        asyncio.run(stall())

    @pytest.mark.stall_threshold("200ms")
    def test_impatient():
        asyncio.run(stall())

    @pytest.mark.stall_threshold("soon")
    def test_wrong():
        pass

    def test_own_failure():
        asyncio.run(stall())
        raise LookupError("its own")
"""


def test_each_test_in_which_a_loop_stalled_fails_and_no_other(tmp_path: Path) -> None:
    # Far above the delays of a busy machine, which would fail the tests that do not block.
    found = run(tmp_path, TESTS, "--fail-on-stall=400ms")
    said = found.pop("")
    assert found == {
        "test_asyncio": "FAILED",
        "test_uvloop": "FAILED",
        "test_pytest_asyncio": "FAILED",
        "test_anyio[asyncio]": "FAILED",
        "test_another_thread": "FAILED",
        "test_before": "PASSED",
        "test_a_loop_that_runs_already": "FAILED",
        "test_a_fixture": "ERROR",
        "test_comfortable": "PASSED",
        "test_no_loop": "PASSED",
        "test_allowed": "PASSED",
        "test_patient": "PASSED",
        "test_impatient": "FAILED",
        "test_wrong": "ERROR",
        "test_own_failure": "FAILED",
    }, said
    assert said.count("an event loop stood still for more than 400 ms") == 8
    assert said.count("an event loop stood still for more than 200 ms") == 1
    assert said.count("`await offloop.run(time.sleep, 0.7)`") == 9
    assert "LookupError: its own" in said
    assert "test_wrong: stall_threshold takes one length of time" in said


FIRST_CALL = """
    import asyncio, time
    import offloop

    def double(x):
        return x * 2

    async def calls():
        await asyncio.sleep(0.1)
        assert await offloop.run_cpu(double, 2) == 4

    async def stalls():
        await asyncio.sleep(0.1)
        time.sleep(0.5)
        await asyncio.sleep(0)

    def test_first():
        asyncio.run(calls())

    def test_again():
        asyncio.run(calls())

    def test_stall():
        asyncio.run(stalls())
"""


def test_offloops_own_first_call_fails_no_test(tmp_path: Path) -> None:
    found = run(tmp_path, FIRST_CALL, "--fail-on-stall=20ms")
    said = found.pop("")
    assert found == {"test_first": "PASSED", "test_again": "PASSED", "test_stall": "FAILED"}, said


FEW = """
    import asyncio, sys, time

    async def stall():
        await asyncio.sleep(0.15)
        time.sleep(0.5)

    def test_it():
        asyncio.run(stall())

    def test_imports():
        assert not any(name.startswith("offloop._watch") for name in sys.modules)
"""


def test_the_plugin_is_inactive_and_imports_no_watchdog_unless_asked_for(tmp_path: Path) -> None:
    for options in ((), ("--fail-on-stall=0",)):
        found = run(tmp_path, FEW, *options)
        assert found["test_it"] == "PASSED"
    assert run(tmp_path, FEW)["test_imports"] == "PASSED"


def test_the_configuration_can_ask_for_it_and_the_option_overrides_it(tmp_path: Path) -> None:
    ini = "fail_on_stall = 300ms\n"
    assert run(tmp_path, FEW, ini=ini)["test_it"] == "FAILED"
    assert run(tmp_path, FEW, "--fail-on-stall=10s", ini=ini)["test_it"] == "PASSED"
    assert run(tmp_path, FEW, "--fail-on-stall=0", ini=ini)["test_it"] == "PASSED"


def test_without_a_time_the_threshold_is_a_tenth_of_a_second(tmp_path: Path) -> None:
    said = run(tmp_path, FEW, "--fail-on-stall")
    assert said["test_it"] == "FAILED"
    assert "an event loop stood still for more than 100 ms" in said[""]


def test_an_invalid_time_is_refused(tmp_path: Path) -> None:
    said = run(tmp_path, FEW, "--fail-on-stall=soon")[""]
    assert "--fail-on-stall is 'soon': it must be a length of time such as 50ms" in said


def test_the_plugin_is_found_where_the_package_is_installed() -> None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        points = distribution("offloop").entry_points
    except PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert "offloop.pytest_plugin" in {point.value for point in points.select(group="pytest11")}

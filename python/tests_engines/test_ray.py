"""The promises that hold on Ray alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import numpy
import offloop
import pytest
from conftest import Trace, on_page, program
from contract import *
from offloop.ray import RayExecutor
from waits import LIMIT, until, until_gone

@pytest.fixture
def new(ray_started: Any) -> type[RayExecutor]:
    return RayExecutor


def is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


def test_arrays_are_read_only_unless_they_are_copied(pool: RayExecutor) -> None:
    array = numpy.arange(500_000.0)
    assert pool.submit(is_writable, array).result(LIMIT) is False
    assert not is_writable(pool.submit(numpy.ones, 500_000).result(LIMIT))
    with RayExecutor(copy=True) as copying:
        assert copying.submit(is_writable, array).result(LIMIT) is True
        result = copying.submit(jobs.double, array).result(LIMIT)
        result[0] = 7
        assert list(result[:3]) == [7, 2, 4]


def test_priorities_are_refused(pool: RayExecutor) -> None:
    with pytest.raises(ValueError, match="no priorities"):
        pool.options(priority=1).submit(jobs.add, 1)


def test_options_of_tasks_are_used_and_those_that_would_break_a_promise_refused(ray_started: Any) -> None:
    with pytest.raises(TypeError, match="max_retries"):
        RayExecutor(max_retries=3)
    with RayExecutor(num_cpus=2, runtime_env={"env_vars": {"OFFLOOP_TEST": "7"}}) as pool:
        assert pool.submit(jobs.variable, "OFFLOOP_TEST").result(LIMIT) == "7"


def test_the_request_of_a_call_reaches_it(pool: RayExecutor) -> None:
    assert pool.options(request="r1").submit(jobs.request).result(LIMIT) == "r1"
    assert pool.submit(jobs.request).result(LIMIT) is None


def test_a_killed_worker_ends_its_call_after_one_run(pool: RayExecutor, trace: Trace) -> None:
    future = pool.submit(jobs.note_and_sleep, trace.path)
    until(trace.pids, "the begin")
    os.kill(trace.pids()[0], signal.SIGKILL)
    with pytest.raises(offloop.WorkerDied, match=r"jobs\.note_and_sleep"):
        future.result(LIMIT)
    assert pool.submit(jobs.add, 1).result(LIMIT) == 1
    assert len(trace.pids()) == 1


def test_the_program_on_the_page_runs(ray_started: Any, tmp_path: Path) -> None:
    (code,) = on_page("ray")
    script = tmp_path / "script.py"
    script.write_text(code)
    address = ray_started.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=LIMIT, env={**os.environ, "RAY_ADDRESS": address}
    )
    assert done.returncode == 0, done.stderr
    assert "crash" in done.stdout and "Traceback" not in done.stderr


Interrupt = Callable[[subprocess.Popen[str]], None]


@pytest.mark.parametrize(
    "interrupt", [lambda it: it.send_signal(signal.SIGINT), lambda it: it.kill()], ids=["ctrl-c", "kill"]
)
def test_an_interrupted_program_leaves_no_call_behind(
    ray_started: Any, trace: Trace, interrupt: Interrupt
) -> None:
    address = ray_started.get_runtime_context().gcs_address
    command = [*program("client.py"), "ray", address, trace.path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: len(trace.pids()) == 2, "the begin")
        interrupt(running)
        running.wait(LIMIT)
    # Ray ends an interrupted program with 1.
    assert running.returncode in (1, -signal.SIGINT, -signal.SIGKILL)
    for pid in trace.pids():
        until_gone(pid)


def test_ray_that_is_shut_down_ends_the_calls(ray_started: Any, trace: Trace) -> None:
    """The last test here: it takes the engine away."""
    pool = RayExecutor()
    future = pool.submit(jobs.note_and_sleep, trace.path)
    until(trace.pids, "the begin")
    ray_started.shutdown()
    with pytest.raises(offloop.PoolClosed, match="Ray was shut down"):
        future.result(LIMIT)
    with pytest.raises(offloop.PoolClosed, match="Ray was shut down"):
        pool.submit(jobs.add, 1)
    pool.shutdown()
    until_gone(trace.pids()[0])
    with pytest.raises(RuntimeError, match=r"call ray\.init\(\) first"):
        RayExecutor()

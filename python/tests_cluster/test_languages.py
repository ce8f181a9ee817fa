"""A program in Rust calls Python, and Python calls Rust. OFFLOOP_LANGUAGES names the program, the example `languages` of
the crate `offloop-cluster`; without it the tests are skipped."""

from __future__ import annotations

import os
import subprocess

import offloop
import pytest
from conftest import GUARD, StartWorker, executor

PROGRAM = os.environ.get("OFFLOOP_LANGUAGES", "")

pytestmark = pytest.mark.skipif(not PROGRAM, reason="OFFLOOP_LANGUAGES names no program in Rust")


def rust(*words: str) -> str:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_rust_calls_python(url: str, queue: str, start_worker: StartWorker) -> None:
    start_worker("cluster_tasks", "--queue", queue)
    assert rust(url, queue, "cluster_tasks:split", "so it goes") == "so|it|goes"
    # An exception has its text, and a value of another type says so.
    failed = rust(url, queue, "cluster_tasks:fail", "as planned")
    assert "LookupError: as planned" in failed
    assert "error: " in rust(url, queue, "cluster_tasks:echo", "no list")


def test_python_calls_rust(url: str, queue: str) -> None:
    worker = subprocess.Popen([PROGRAM, "offloop-worker", "--url", url, "--queue", queue, "--slots", "1"])
    try:
        with executor(url, queue=queue) as pool:
            mean = pool.call("languages::mean", [1, 2.5, 4])
            assert mean.result(GUARD) == {"Ok": 2.5}
            assert pool.call("languages::mean", []).result(GUARD) == {"Err": "no numbers"}
            with pytest.raises(offloop.OffloopError, match="arguments of `languages::mean`"):
                pool.call("languages::mean", "text").result(GUARD)
    finally:
        worker.terminate()
        assert worker.wait(GUARD) == 0

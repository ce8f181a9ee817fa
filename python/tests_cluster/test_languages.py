"""A program in Rust calls Python, and Python calls Rust. OFFLOOP_LANGUAGES names the program, the example `languages` of
the crate `offloop-cluster`; without it the tests are skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import offloop
import pytest
from parties import GUARD, StartWorker, executor

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


def test_rust_reads_the_items_of_a_python_generator(
    url: str, queue: str, start_worker: StartWorker
) -> None:
    start_worker("cluster_tasks", "--queue", queue)
    assert rust(url, queue, "stream", "cluster_tasks:words", "so it goes").splitlines() == ["so", "it", "goes"]
    many = " ".join(map(str, range(100)))
    assert rust(url, queue, "stream", "cluster_tasks:words", many).splitlines() == many.split()
    failed = rust(url, queue, "stream", "cluster_tasks:words_and_fails", "so it goes").splitlines()
    assert failed[:3] == ["so", "it", "goes"] and "LookupError: as planned" in "".join(failed[3:])
    # Items of another type say so.
    assert "error: " in rust(url, queue, "stream", "cluster_tasks:lengths", "so it goes")


@contextmanager
def rust_worker(url: str, queue: str) -> Iterator[None]:
    worker = subprocess.Popen([PROGRAM, "offloop-worker", "--url", url, "--queue", queue, "--slots", "1"])
    try:
        yield
    finally:
        worker.terminate()
        assert worker.wait(GUARD) == 0


def test_python_reads_the_items_of_a_rust_task(url: str, queue: str) -> None:
    with rust_worker(url, queue), executor(url, queue=queue) as pool:
        assert list(pool.call_stream("languages::halves", 8.0, 3)) == [4.0, 2.0, 1.0]
        halves = pool.call_stream("languages::halves", 2.0**100, 200, buffersize=2)
        assert list(halves) == [2.0 ** (99 - k) for k in range(200)]
        stream = pool.call_stream("languages::halves", 0.0, 2)
        assert [next(stream), next(stream)] == [0.0, 0.0]
        with pytest.raises(offloop.OffloopError, match="nothing left to halve"):
            next(stream)


def test_python_calls_rust(url: str, queue: str) -> None:
    with rust_worker(url, queue), executor(url, queue=queue) as pool:
        mean = pool.call("languages::mean", [1, 2.5, 4])
        assert mean.result(GUARD) == {"Ok": 2.5}
        assert pool.call("languages::mean", []).result(GUARD) == {"Err": "no numbers"}
        with pytest.raises(offloop.OffloopError, match="arguments of `languages::mean`"):
            pool.call("languages::mean", "text").result(GUARD)

"""Forks of a program that holds results, and forks that jobs make: neither reaches what belongs to the parent."""

import gc
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from offloop import ProcessPoolExecutor

np = pytest.importorskip("numpy")

from support import forking, jobs

SIZE = 1 << 20


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool
        assert pool.submit(jobs.double, 2).result(60) == 4


@pytest.fixture(autouse=True)
def forks_are_wanted() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def in_child(child: Callable[[], Any]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def result_of(pool: ProcessPoolExecutor) -> Any:
    result = pool.submit(forking.letters, "A", SIZE).result(60)
    # Once more, so that the thread that delivered the result has let go of it.
    overwrite(pool)
    return result


def overwrite(pool: ProcessPoolExecutor) -> None:
    """Makes the worker use the memory again that was given back to it."""
    for _ in range(5):
        assert len(pool.submit(forking.letters, "X", SIZE).result(60)) == SIZE


def is_whole(result: Any) -> bool:
    return len(result) == SIZE and bool((result == ord("A")).all())


def test_a_result_that_a_forked_child_drops_stays_whole_in_the_parent(
    pool: ProcessPoolExecutor,
) -> None:
    held = [result_of(pool)]
    in_child(held.clear)
    overwrite(pool)
    assert is_whole(held[0])


def test_a_garbage_collection_in_a_forked_child_gives_no_result_back(
    pool: ProcessPoolExecutor,
) -> None:
    class Holder:
        me: Any
        data: Any

    holder = Holder()
    holder.me, holder.data = holder, result_of(pool)
    data = holder.data

    def collect() -> None:
        nonlocal holder, data
        del holder, data
        gc.collect()

    in_child(collect)
    overwrite(pool)
    assert is_whole(data)


def test_a_fork_pool_may_let_go_of_the_programs_results(pool: ProcessPoolExecutor) -> None:
    forking.held = result_of(pool)
    try:
        context = multiprocessing.get_context("fork")
        with futures.ProcessPoolExecutor(2, mp_context=context) as other:
            list(other.map(forking.let_go, range(4)))
        overwrite(pool)
        assert is_whole(forking.held)
    finally:
        forking.held = None


def test_a_forked_child_has_the_result_as_it_was_at_the_fork(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    held = [result_of(pool)]
    gate = tmp_path / "gate"
    pid = os.fork()
    if pid == 0:
        try:
            jobs.wait_for(gate)
            os._exit(0 if is_whole(held[0]) else 1)
        finally:
            os._exit(2)
    held.clear()
    overwrite(pool)
    gate.touch()
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("kind", ["bytearray", "array"])
def test_the_child_of_a_job_keeps_its_argument_while_the_pool_reuses_the_memory(
    pool: ProcessPoolExecutor, tmp_path: Path, kind: str
) -> None:
    def data(letter: bytes) -> Any:
        if kind == "bytearray":
            return bytearray(letter) * SIZE
        return np.full(SIZE, letter[0], dtype=np.uint8)

    gate, seen = tmp_path / "gate", tmp_path / "seen"
    pool.submit(forking.keep_in_a_child, data(b"A"), gate, seen).result(60)
    for _ in range(10):
        assert pool.submit(forking.length, data(b"X")).result(60) == SIZE
    gate.touch()
    jobs.wait_for(seen)
    assert seen.read_bytes() == b"A"


@pytest.mark.parametrize("size", [100, 200_000])
def test_the_child_of_a_job_sends_no_items_into_its_stream(
    pool: ProcessPoolExecutor, size: int
) -> None:
    items = list(pool.stream(forking.from_both, 50, size))
    assert [bytes(sorted(set(item))) for item in items] == [b"w"] * 50

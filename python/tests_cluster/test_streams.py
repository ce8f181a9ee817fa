"""`ClusterExecutor.stream`: the items of generators on workers, read in loops with and without `async`."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cluster_tasks
import offloop
import pytest
from offloop import ClusterExecutor
from parties import GUARD, StartWorker, executor
from test_embedded import eventually, is_alive

BOTH = pytest.mark.parametrize("how", ["sync", "async"])
"""Loops without `async` and with it."""


def collected(stream: Any, how: str) -> list[Any]:
    if how == "sync":
        return list(stream)

    async def main() -> list[Any]:
        return [item async for item in stream]

    return asyncio.run(main())


def has_begun(directory: Path) -> int:
    """Waits until `endless` has begun, and returns its process id."""
    begun = directory / "begun"
    eventually("it begins", lambda: begun.exists() and begun.read_text())
    return int(begun.read_text())


@BOTH
@pytest.mark.parametrize("buffersize", [1, 16, 1000])
def test_items_come_in_their_order(
    url: str, queue: str, start_worker: StartWorker, how: str, buffersize: int
) -> None:
    start_worker("cluster_tasks", "--queue", queue)
    with executor(url, queue=queue) as pool:
        stream = pool.options(buffersize=buffersize).stream(cluster_tasks.numbers, 300)
        assert collected(stream, how) == list(range(300))
        assert collected(pool.stream(cluster_tasks.words, "so it goes"), how) == ["so", "it", "goes"]
        assert collected(pool.stream(cluster_tasks.numbers, 0), how) == []
        assert collected(pool.call_stream("cluster_tasks:numbers", 3, buffersize=1), how) == [0, 1, 2]


@BOTH
def test_items_come_while_the_generator_runs(embedded: ClusterExecutor, tmp_path: Path, how: str) -> None:
    file = tmp_path / "file"
    stream = embedded.stream(cluster_tasks.held, str(file))
    if how == "sync":
        pid = next(stream)
        assert is_alive(pid) and not file.exists()
        file.touch()
        assert list(stream) == [pid]
        return

    async def main() -> None:
        pid = await anext(stream)
        file.touch()
        assert [item async for item in stream] == [pid]

    asyncio.run(main())


def test_the_generator_waits_for_the_reader(embedded: ClusterExecutor, tmp_path: Path) -> None:
    stream = embedded.options(buffersize=4).stream(cluster_tasks.endless, str(tmp_path))
    assert list(islice(stream, 10)) == list(range(10))
    # Ahead by the items that wait at the reader, by as many at the worker, and by those that are handed over there.
    ahead = tmp_path / "ahead"
    at_most = 10 + 4 + 4 + 4
    eventually("it is ahead", lambda: ahead.exists() and int(ahead.read_text() or 0) >= 14)
    # It could make thousands meanwhile.
    time.sleep(0.5)
    assert int(ahead.read_text()) <= at_most
    assert list(islice(stream, 20)) == list(range(10, 30))
    stream.close()


@pytest.mark.parametrize("where", ["waits for the reader", "computes"])
@pytest.mark.parametrize("end", ["close", "with", "break", "cancel"])
def test_a_stream_that_is_closed_ends_its_generator_which_cleans_up(
    embedded: ClusterExecutor, tmp_path: Path, end: str, where: str
) -> None:
    stream: Any = embedded.stream(
        cluster_tasks.endless, str(tmp_path), 0 if where == "waits for the reader" else 3600
    )
    pid = has_begun(tmp_path)
    if where != "computes":
        ahead = tmp_path / "ahead"
        eventually("it waits", lambda: ahead.exists() and int(ahead.read_text() or 0) >= 16)
    if end == "close":
        stream.close()
        stream.close()
        assert list(stream) == []
    elif end == "with":
        with stream:
            assert next(stream) == 0
    elif end == "break":
        for _ in stream:
            break
    else:

        async def read() -> None:
            async with stream:
                async for _ in stream:
                    await asyncio.sleep(3600)

        async def main() -> None:
            task = asyncio.ensure_future(read())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
    del stream
    gc.collect()
    eventually("it has cleaned up", (tmp_path / "cleaned").exists)
    eventually("its process is dead", lambda: not is_alive(pid))


@BOTH
def test_an_exception_comes_after_the_items_before_it(
    url: str, queue: str, start_worker: StartWorker, embedded: ClusterExecutor, how: str
) -> None:
    start_worker("cluster_tasks", "--queue", queue)
    with executor(url, queue=queue) as pool:
        for count in (0, 3, 100):
            for stream in (
                embedded.stream(cluster_tasks.fails_after, count),
                pool.stream(cluster_tasks.fails_after, count),
            ):
                assert list(islice(stream, count)) == list(range(count))
                with pytest.raises(Exception, match="as planned") as raised:
                    collected(stream, how)
                by_name = isinstance(raised.value, offloop.RemoteError)
                assert by_name or isinstance(raised.value, LookupError)
                assert "cluster_tasks.py" in str(raised.value.__cause__)
                assert list(stream) == []


@BOTH
def test_a_crash_comes_after_the_items_and_names_the_generator(embedded: ClusterExecutor, how: str) -> None:
    stream = embedded.stream(cluster_tasks.crashes_after, 40)
    assert list(islice(stream, 40)) == list(range(40))
    with pytest.raises(offloop.WorkerDied, match="SIGABRT") as caught:
        collected(stream, how)
    assert caught.value.task == "cluster_tasks.crashes_after"


def test_a_worker_that_is_killed_ends_the_stream_with_an_error_that_names_it(
    url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker("cluster_tasks", "--queue", queue, "--name", "killed-worker")
    with executor(url, queue=queue) as pool:
        stream = pool.stream(cluster_tasks.endless, str(tmp_path), 0.01)
        assert next(stream) == 0
        job = has_begun(tmp_path)
        worker.process.kill()
        eventually("its job is dead", lambda: not is_alive(job))
        # Another worker finds out.
        start_worker("cluster_tasks", "--queue", queue)
        with pytest.raises(offloop.WorkerLost, match="killed-worker"):
            list(stream)


def test_a_generator_that_runs_too_long_ends_with_run_timeout(
    embedded: ClusterExecutor, tmp_path: Path
) -> None:
    # The time for which it waits for the reader counts.
    stream = embedded.options(timeout=1, buffersize=2).stream(cluster_tasks.endless, str(tmp_path))
    assert list(islice(stream, 2)) == [0, 1]
    pid = has_begun(tmp_path)
    eventually("it is killed", lambda: not is_alive(pid))
    assert (tmp_path / "cleaned").exists()
    with pytest.raises(offloop.RunTimeout):
        list(stream)


def test_a_generator_that_nobody_reads_leaves_its_slot_at_its_timeout(
    url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("cluster_tasks", "--queue", queue, "--slots", "1")
    with executor(url, queue=queue) as pool:
        stream = pool.options(timeout=1, buffersize=2).stream(cluster_tasks.endless, str(tmp_path))
        has_begun(tmp_path)
        assert pool.submit(cluster_tasks.split, "a b").result(GUARD) == ["a", "b"]
        with pytest.raises(offloop.RunTimeout):
            list(stream)


def test_a_generator_that_does_not_start_in_time_ends_with_queue_timeout(url: str, queue: str) -> None:
    with executor(url, queue=queue) as pool:
        with pytest.raises(offloop.QueueTimeout):
            list(pool.options(queue_timeout=0.2).stream(cluster_tasks.numbers, 3))


def test_a_closed_stream_that_has_not_begun_never_runs(
    url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    with executor(url, queue=queue) as pool:
        pool.stream(cluster_tasks.endless, str(tmp_path)).close()
        start_worker("cluster_tasks", "--queue", queue)
        assert pool.submit(cluster_tasks.split, "a b").result(GUARD) == ["a", "b"]
    assert not (tmp_path / "begun").exists()


def test_large_items_arrive_whole(embedded: ClusterExecutor) -> None:
    size = 2 << 20
    stream = embedded.options(buffersize=2).stream(cluster_tasks.large, size)
    assert [(len(item), item[0], item[-1]) for item in stream] == [(size, k, k) for k in range(3)]


def test_items_of_any_type_travel_if_both_sides_trust_and_accept_pickles(
    url: str, queue: str, start_worker: StartWorker, keys: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    trusts = ["--trust", keys["submitter"][1], "--key", str(tmp_path / "worker")]
    start_worker("cluster_tasks", "--queue", queue, "--accept", "pickle", *trusts)
    own, trusted = keys["submitter"][0], [keys["worker"][1]]
    with executor(url, queue=queue, accept="pickle", key=own, trust=trusted) as pool:
        assert list(pool.stream(cluster_tasks.own_types, 3)) == [Path("0"), Path("1"), Path("2")]
        assert list(pool.stream(lambda: ({number} for number in range(3)))) == [{0}, {1}, {2}]
    # By name, the items are plain data.
    with executor(url, queue=queue, key=own, trust=trusted) as pool:
        assert list(pool.stream(cluster_tasks.numbers, 3)) == [0, 1, 2]
        with pytest.raises(offloop.RemoteError, match="accept pickles"):
            list(pool.stream(cluster_tasks.own_types, 3))


def test_an_item_that_no_trusted_key_has_signed_ends_the_stream(
    url: str, queue: str, start_worker: StartWorker, keys: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    trusts = ["--trust", keys["submitter"][1], "--key", str(tmp_path / "stranger")]
    start_worker("cluster_tasks", "--queue", queue, "--accept", "pickle", *trusts)
    trusted = [keys["worker"][1]]
    with executor(url, queue=queue, accept="pickle", key=keys["submitter"][0], trust=trusted) as pool:
        stream = pool.stream(cluster_tasks.endless, str(tmp_path))
        with pytest.raises(offloop.NotTrusted, match="an item of job .* does not trust"):
            next(stream)
        assert list(stream) == []
        # It is of no use any more.
        pid = has_begun(tmp_path)
        eventually("its process is dead", lambda: not is_alive(pid))


def test_what_cannot_travel_is_the_streams_error(embedded: ClusterExecutor, url: str, queue: str) -> None:
    with pytest.raises(TypeError, match="pickle"):
        next(embedded.stream(cluster_tasks.numbers, sys._getframe()))  # type: ignore[arg-type]
    with executor(url, queue=queue) as pool:
        with pytest.raises(TypeError, match="accept pickles"):
            next(pool.stream(cluster_tasks.numbers, {1}))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="accept pickles"):
            next(pool.call_stream("cluster_tasks:numbers", {1}))
        with pytest.raises(TypeError, match="async"):
            pool.stream(cluster_tasks.waits)  # type: ignore[arg-type]


def test_options_that_a_stream_cannot_have_are_refused(url: str, queue: str) -> None:
    with executor(url, queue=queue) as pool:
        with pytest.raises(ValueError, match="retries"):
            pool.options(retries=1).stream(cluster_tasks.numbers, 3)
        with pytest.raises(ValueError, match="key"):
            pool.options(key="a").stream(cluster_tasks.numbers, 3)
        with pytest.raises(ValueError, match="buffersize"):
            pool.call_stream("cluster_tasks:numbers", 3, buffersize=0)


def test_log_records_and_items_come_from_one_job(url: str, queue: str, start_worker: StartWorker) -> None:
    worker = start_worker("cluster_tasks", "--queue", queue)
    with executor(url, queue=queue) as pool:
        assert list(pool.stream(cluster_tasks.logs_between, 50)) == list(range(50))
    assert [worker.line().rpartition(": ")[2] for _ in range(50)] == [f"record {k}\n" for k in range(50)]


def test_a_stream_outlives_the_executor_that_is_shut_down(
    url: str, queue: str, start_worker: StartWorker
) -> None:
    start_worker("cluster_tasks", "--queue", queue)
    with ClusterExecutor(url, queue=queue) as pool:
        stream = pool.stream(cluster_tasks.numbers, 5)
    assert list(stream) == list(range(5))

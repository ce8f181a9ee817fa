"""The items of generators in workers, read in loops with and without `async`."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support import generators, jobs

import offloop
from offloop import ProcessPoolExecutor


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool
        assert pool.submit(jobs.double, 2).result(60) == 4


def collected(stream: Any, how: str) -> list[Any]:
    if how == "sync":
        return list(stream)

    async def main() -> list[Any]:
        return [item async for item in stream]

    return asyncio.run(main())


both = pytest.mark.parametrize("how", ["sync", "async"])


@both
@pytest.mark.parametrize("buffersize", [1, 16, 1000])
def test_items_come_in_their_order(pool: ProcessPoolExecutor, how: str, buffersize: int) -> None:
    stream = pool.options(buffersize=buffersize).stream(generators.count, 300)
    assert collected(stream, how) == list(range(300))


@both
def test_any_iterable_streams(pool: ProcessPoolExecutor, how: str) -> None:
    assert collected(pool.stream(generators.squares, 5), how) == [0, 1, 4, 9, 16]
    assert collected(pool.stream(generators.count, 0), how) == []
    assert collected(pool.stream(generators.count, n=2), how) == [0, 1]


@both
def test_items_come_while_the_generator_runs(
    pool: ProcessPoolExecutor, tmp_path: Path, how: str
) -> None:
    stream = pool.stream(generators.hang_after, 3, tmp_path / "started")
    if how == "sync":
        assert list(islice(stream, 3)) == [0, 1, 2]
        stream.close()
        return

    async def main() -> None:
        assert [await stream.__anext__() for _ in range(3)] == [0, 1, 2]
        stream.close()

    asyncio.run(main())


def test_the_generator_waits_for_the_reader(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stream = pool.options(buffersize=4).stream(generators.count_noting, log)
    assert list(islice(stream, 10)) == list(range(10))
    # It is ahead by the items in the buffer, and by the one that waits for room.
    jobs.until(lambda: len(log.read_text().split()) >= 14)
    assert len(log.read_text().split()) <= 16
    stream.close()


@both
def test_an_exception_comes_after_the_items(pool: ProcessPoolExecutor, how: str) -> None:
    stream = pool.stream(generators.fail_after, 3)
    assert next(stream) == 0
    with pytest.raises(LookupError, match="after the items"):
        collected(stream, how)
    assert list(stream) == []


@both
def test_a_crash_comes_after_the_items_and_names_the_generator(
    pool: ProcessPoolExecutor, how: str
) -> None:
    stream = pool.stream(generators.exit_after, 3)
    assert list(islice(stream, 3)) == [0, 1, 2]
    with pytest.raises(offloop.WorkerDied) as caught:
        collected(stream, how)
    assert caught.value.exitcode == 3
    assert caught.value.task == "support.generators.exit_after"


def test_an_item_that_cannot_be_pickled_is_the_generators_error(
    pool: ProcessPoolExecutor,
) -> None:
    stream = pool.stream(generators.unpicklable)
    assert next(stream) == 1
    with pytest.raises(TypeError):
        next(stream)


def test_arguments_that_cannot_be_pickled_are_the_streams_error(pool: ProcessPoolExecutor) -> None:
    with pytest.raises(TypeError):
        next(pool.stream(generators.count, threading.Lock()))


def test_closing_or_dropping_a_stream_kills_its_generator(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    for n, end in enumerate(["close", "with", "forget", "break"]):
        started = tmp_path / str(n)
        stream: Any = pool.stream(generators.hang_after, 1, started)
        jobs.wait_for(started)
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
        del stream
        gc.collect()
        jobs.until(lambda: jobs.is_gone(int(started.read_text())), end)


@pytest.mark.parametrize("seconds", [0, 3600], ids=["waits for the reader", "sleeps"])
def test_a_generator_cleans_up_when_its_stream_is_closed_or_it_is_out_of_time(
    tmp_path: Path, seconds: float
) -> None:
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    with ProcessPoolExecutor(1, grace=20) as pool:
        for end in ["close", "timeout"]:
            options = pool.options(buffersize=2, timeout=0.5 if end == "timeout" else None)
            stream = options.stream(generators.cleaning_up, tmp_path, seconds)
            jobs.until(lambda: begun.exists() and begun.read_text(), "it begins")
            assert next(stream) == 0
            if end == "close":
                stream.close()
            # A log record of its last moments, which nobody takes, does not keep it from that.
            jobs.until(cleaned.exists, end)
            jobs.until(lambda: jobs.is_gone(int(begun.read_text())), "its process is gone")
            begun.unlink()
            cleaned.unlink()
            del stream


def test_cancelling_the_reader_of_a_stream_in_async_with_kills_its_generator(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    async def read() -> None:
        async with pool.stream(generators.hang_after, 1, tmp_path / "started") as stream:
            async for _ in stream:
                pass

    async def main() -> None:
        task = asyncio.ensure_future(read())
        await asyncio.get_running_loop().run_in_executor(None, jobs.wait_for, tmp_path / "started")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    jobs.until(lambda: jobs.is_gone(int((tmp_path / "started").read_text())))


def test_a_generator_that_runs_too_long_ends_with_run_timeout(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    pool.submit(jobs.double, 1).result(60)
    stream = pool.options(timeout=0.3).stream(generators.hang_after, 2, tmp_path / "started")
    assert list(islice(stream, 2)) == [0, 1]
    with pytest.raises(offloop.RunTimeout):
        next(stream)


def test_large_items_arrive_whole_and_memory_is_reused(pool: ProcessPoolExecutor) -> None:
    size = 1 << 20
    for k, item in enumerate(pool.options(buffersize=4).stream(generators.large, 100, size)):
        assert len(item) == size and item[0] == item[-1] == k


def test_two_streams_and_other_jobs_run_concurrently() -> None:
    with ProcessPoolExecutor(2) as pool:
        first, second = (pool.stream(generators.slowly, 10) for _ in range(2))
        assert list(zip(first, second)) == [(k, k) for k in range(10)]


def test_a_stream_outlives_the_pool_that_is_shut_down() -> None:
    with ProcessPoolExecutor(1) as pool:
        stream = pool.stream(generators.count, 5)
    assert list(stream) == list(range(5))


def test_log_records_and_items_come_in_the_order_of_the_job(
    pool: ProcessPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(pool.stream(generators.print_and_log, 50)) == list(range(50))
    assert [record.getMessage() for record in caplog.records] == [f"record {k}" for k in range(50)]


@pytest.mark.parametrize("buffersize", [0, -1])
def test_a_buffersize_of_zero_is_refused(pool: ProcessPoolExecutor, buffersize: int) -> None:
    with pytest.raises(ValueError):
        pool.options(buffersize=buffersize).stream(generators.count, 3)

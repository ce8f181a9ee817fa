"""Promises about generators in workers, and about log records of workers."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

import offloop
from offloop import ProcessPoolExecutor
from support import streams


def test_items_come_in_order_as_they_are_made() -> None:
    with ProcessPoolExecutor(1) as pool:
        for buffersize in (1, 3, 1000):
            assert list(pool.stream(range, 200, buffersize=buffersize)) == list(range(200))


def test_items_can_be_awaited() -> None:
    async def main() -> list[int]:
        async with ProcessPoolExecutor(1) as pool:
            return [item async for item in pool.stream(range, 100, buffersize=2)]

    assert asyncio.run(main()) == list(range(100))


def test_a_generator_waits_when_nobody_reads(tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    with ProcessPoolExecutor(1) as pool:
        stream = pool.stream(streams.count_in_file, str(progress), 1000, buffersize=5)
        assert next(stream) == 0
        # Five wait to be read, one in the link, and one is in the making.
        assert pool.submit(os.getpid).cancel()
        reached = streams.settled(progress)
        assert 5 <= reached <= 9
        assert [next(stream) for _ in range(20)] == list(range(1, 21))
        stream.close()


def test_what_came_before_an_exception_is_read_before_it() -> None:
    with ProcessPoolExecutor(1) as pool:
        stream = pool.stream(streams.fails_after, 3)
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="after 3"):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)


def test_what_came_before_a_crash_is_read_before_it() -> None:
    with ProcessPoolExecutor(1) as pool:
        stream = pool.stream(streams.dies_after, 3)
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(offloop.WorkerDied):
            next(stream)
        assert pool.submit(abs, -1).result(30) == 1


def test_a_stream_that_is_left_ends_its_generator() -> None:
    with ProcessPoolExecutor(1) as pool:
        for item in pool.stream(range, 10**12):
            if item == 10:
                break
        # The only worker is free for it, or another is in its place.
        assert pool.submit(abs, -1).result(30) == 1


def test_a_stream_on_a_loop_can_be_cancelled() -> None:
    async def main() -> int:
        async with ProcessPoolExecutor(1) as pool:
            stream = pool.stream(streams.one_and_no_more)
            async with stream:
                assert await anext_of(stream) == 1
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext_of(stream), 0.05)
            return await pool.run(abs, -1)

    assert asyncio.run(main()) == 1


async def anext_of(stream: Any) -> Any:
    return await stream.__anext__()


def test_what_is_not_a_generator_is_its_error() -> None:
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(TypeError, match="not iterable"):
            list(pool.stream(abs, -1))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="async"):
            pool.stream(streams.async_items)  # type: ignore[arg-type]


def test_arrays_in_a_stream_arrive_writable() -> None:
    numpy = pytest.importorskip("numpy")
    with ProcessPoolExecutor(1) as pool:
        for number, array in enumerate(pool.stream(streams.arrays, 5, 1 << 18)):
            assert (array == number).all()
            array += 1
            assert isinstance(array, numpy.ndarray)


def test_log_records_reach_the_parents_handlers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ProcessPoolExecutor(1) as pool:
        pool.submit(streams.logs, "hello %s", "you").result(30)
    records = [record for record in caplog.records if record.name == "streams"]
    assert [record.getMessage() for record in records] == ["hello you"]
    assert records[0].process != os.getpid()


def test_log_records_come_while_the_job_runs(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with caplog.at_level(logging.INFO), ProcessPoolExecutor(1) as pool:
        future = pool.submit(streams.logs_and_waits, str(gate))
        streams.until(lambda: any(record.name == "streams" for record in caplog.records))
        assert not future.done()
        gate.touch()
        future.result(30)


def test_an_initializers_records_come_with_the_first_job(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        with ProcessPoolExecutor(1, initializer=streams.logs, initargs=("begun%s", "")) as pool:
            pool.submit(abs, -1).result(30)
        assert "begun" in [record.getMessage() for record in caplog.records]


def test_forked_workers_have_main_as_it_is() -> None:
    import __main__

    __main__.changed = "yes"  # type: ignore[attr-defined]
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(streams.attribute_of_main, "changed").result(30) == "yes"

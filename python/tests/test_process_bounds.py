"""A process pool runs at most `max_workers` jobs at once, and starts jobs of one priority in their order, whatever
happens to its workers."""

import asyncio
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from support import bounds, jobs
from support.bounds import Record

from offloop import ProcessPoolExecutor, WorkerDied

recycling = pytest.mark.parametrize(
    ("workers", "options"),
    [
        (2, {"max_tasks_per_child": 1}),
        (1, {"max_tasks_per_child": 3}),
        (2, {"max_worker_age": 0.05}),
        (1, {"max_tasks_per_child": 2, "max_worker_age": 0.05}),
    ],
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def check(log: Path, workers: int, count: int) -> Record:
    record = Record(log)
    assert sorted(record.order) == list(range(count))
    assert record.most_at_once <= workers
    # Each other worker may have been given one before, and may begin with it a moment later.
    assert record.most_overtaken <= workers - 1, record.order
    return record


@recycling
def test_workers_that_are_replaced_run_no_job_beside_their_replacements(
    log: Path, workers: int, options: dict[str, Any]
) -> None:
    with ProcessPoolExecutor(workers, **options) as pool:
        calls = [pool.submit(bounds.nap, log, number) for number in range(30)]
        assert [call.result(60) for call in calls] == list(range(30))
    record = check(log, workers, 30)
    if "max_tasks_per_child" in options:
        assert len(record.processes) >= 30 / options["max_tasks_per_child"]


def test_a_worker_that_is_too_old_counts_until_its_job_has_ended(log: Path) -> None:
    with ProcessPoolExecutor(1, max_worker_age=0.5) as pool:
        calls = [pool.submit(bounds.nap, log, number, 0.7) for number in range(3)]
        assert [call.result(60) for call in calls] == [0, 1, 2]
    assert len(check(log, 1, 3).processes) > 1


@recycling
def test_the_calls_of_a_map_and_its_chunks_keep_the_bound(
    log: Path, workers: int, options: dict[str, Any]
) -> None:
    with ProcessPoolExecutor(workers, **options) as pool:
        naps = pool.map(bounds.nap, [log] * 30, range(30), chunksize=2)
        assert list(naps) == list(range(30))
        few = pool.map(bounds.nap, [log] * 10, range(30, 40), buffersize=3, ordered=False)
        assert sorted(few) == list(range(30, 40))
    record = Record(log)
    assert sorted(record.order) == list(range(40))
    assert record.most_at_once <= workers
    if workers == 1:
        assert record.order == list(range(40))


@recycling
def test_a_stream_is_a_job_until_its_last_item(log: Path, workers: int, options: dict[str, Any]) -> None:
    with ProcessPoolExecutor(workers, **options) as pool:
        streams = [pool.stream(bounds.items, log, number, 5) for number in range(8)]
        calls = [pool.submit(bounds.nap, log, number) for number in range(8, 16)]
        for stream in streams:
            assert list(stream) == list(range(5))
        assert [call.result(60) for call in calls] == list(range(8, 16))
    check(log, workers, 16)


@recycling
def test_after_crashes_the_bound_and_the_order_are_kept(
    log: Path, workers: int, options: dict[str, Any]
) -> None:
    with ProcessPoolExecutor(workers, **options) as pool:
        calls = [pool.submit(bounds.nap_or_crash, log, number, 5) for number in range(30)]
        wait(calls, 60)
        for number, call in enumerate(calls):
            if number % 5 == 0:
                assert isinstance(call.exception(), WorkerDied)
            else:
                assert call.result() == number
    check(log, workers, 30)


@recycling
def test_a_worker_that_is_killed_counts_until_it_is_dead(
    log: Path, workers: int, options: dict[str, Any]
) -> None:
    with ProcessPoolExecutor(workers, grace=0.1, **options) as pool:
        killed = [pool.submit(bounds.overrun, log, number) for number in range(workers)]
        jobs.until(lambda: log.exists() and len(log.read_text().splitlines()) == workers, "their begin")
        others = [pool.submit(bounds.nap_and_look, log, number) for number in range(workers, 10)]
        assert all(call.cancel() for call in killed)
        assert [call.result(60) for call in others] == list(range(workers, 10))
    check(log, workers, 10)


@pytest.mark.parametrize("options", [{}, {"max_tasks_per_child": 1}, {"max_worker_age": 0.05}])
def test_the_jobs_of_a_priority_start_in_their_order(
    log: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1, **options) as pool:
            blocker = pool.run(jobs.hold, tmp_path / "started", tmp_path / "gate")
            await asyncio.to_thread(jobs.wait_for, tmp_path / "started")
            calls = [pool.options(priority=number % 3).run(bounds.nap, log, number) for number in range(30)]
            (tmp_path / "gate").touch()
            await blocker
            await asyncio.gather(*calls)

    asyncio.run(main())
    expected = sorted(range(30), key=lambda number: (-(number % 3), number))
    assert Record(log).order == expected
    assert Record(log).most_at_once == 1

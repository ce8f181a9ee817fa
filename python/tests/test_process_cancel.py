"""Cancellation and time limits: queued jobs never run, running ones are killed, and the pool goes on."""

import asyncio
import os
import signal
import threading
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import pytest
from support import crashes, jobs

import offloop
from offloop import ProcessPoolExecutor


def ended_worker(started: Path) -> int:
    """Waits until the worker that has made this file is gone."""
    worker = int(started.read_text())
    jobs.until(lambda: jobs.is_gone(worker), f"the end of worker {worker}")
    return worker


def test_a_queued_job_that_is_cancelled_never_runs(tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    with ProcessPoolExecutor(1) as pool:
        running = pool.submit(jobs.hold, tmp_path / "started", gate)
        jobs.wait_for(tmp_path / "started")
        calls = [pool.submit(jobs.note, log, str(n)) for n in range(10)]
        for call in calls[::2]:
            assert call.cancel() and call.cancelled() and call.done()
            with pytest.raises(CancelledError):
                call.result()
        gate.touch()
        assert running.result(30) == int((tmp_path / "started").read_text())
        for call in calls[1::2]:
            call.result(30)
    assert log.read_text().split() == ["1", "3", "5", "7", "9"]


def test_cancelling_a_future_kills_the_worker_that_runs_it(tmp_path: Path) -> None:
    started, written = tmp_path / "started", tmp_path / "written"
    with ProcessPoolExecutor(1) as pool:
        call = pool.submit(jobs.sleep_then_write, started, written, 1.0)
        jobs.wait_for(started)
        assert call.running()
        assert call.cancel() and call.cancelled()
        assert not wait([call], 10).not_done
        worker = ended_worker(started)
        assert pool.submit(jobs.pid).result(30) != worker
    assert not written.exists()


def test_a_thread_that_waits_for_a_future_learns_that_it_was_cancelled(tmp_path: Path) -> None:
    told: list[str] = []

    def wait_for_it() -> None:
        try:
            call.result(30)
        except CancelledError:
            told.append("result")

    with ProcessPoolExecutor(1) as pool:
        call = pool.submit(jobs.hang, tmp_path / "started")
        call.add_done_callback(lambda _: told.append("callback"))
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        jobs.wait_for(tmp_path / "started")
        call.cancel()
        thread.join(30)
    assert sorted(told) == ["callback", "result"]


def test_a_job_that_has_ended_is_not_cancelled() -> None:
    with ProcessPoolExecutor(1) as pool:
        call = pool.submit(jobs.double, 1)
        call.result(30)
        assert not call.cancel()
        assert call.result() == 2


def test_cancelling_races_with_the_end_and_one_of_them_wins() -> None:
    with ProcessPoolExecutor(2) as pool:
        for n in range(300):
            call = pool.submit(jobs.double, n)
            if n % 3:
                wait([call], n * 1e-6)
            if call.cancel():
                with pytest.raises(CancelledError):
                    call.result(30)
            else:
                assert call.result(30) == 2 * n
        assert pool.submit(jobs.double, 1).result(30) == 2


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, grace=0.1) as pool:
        call = pool.submit(jobs.ignore_sigterm, tmp_path / "started")
        jobs.wait_for(tmp_path / "started")
        call.cancel()
        ended_worker(tmp_path / "started")
        assert pool.submit(jobs.double, 1).result(30) == 2


def test_a_worker_that_is_stopped_can_be_cancelled(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, grace=0.1) as pool:
        call = pool.submit(jobs.hang, tmp_path / "started")
        jobs.wait_for(tmp_path / "started")
        os.kill(int((tmp_path / "started").read_text()), signal.SIGSTOP)
        call.cancel()
        ended_worker(tmp_path / "started")
        assert pool.submit(jobs.double, 1).result(30) == 2


def test_a_job_may_clean_up_in_its_grace(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, grace=20) as pool:
        call = pool.submit(jobs.clean_up, tmp_path / "started", tmp_path / "cleaned")
        jobs.wait_for(tmp_path / "started")
        call.cancel()
        jobs.wait_for(tmp_path / "cleaned")
        ended_worker(tmp_path / "started")


def test_cancelling_a_task_kills_the_worker_that_runs_its_job(tmp_path: Path) -> None:
    started, written = tmp_path / "started", tmp_path / "written"

    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            task = asyncio.ensure_future(one(pool))
            await come(started)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            ended_worker(started)
            assert await pool.run(jobs.double, 2) == 4

    async def one(pool: ProcessPoolExecutor) -> None:
        await pool.run(jobs.sleep_then_write, started, written, 1.0)

    asyncio.run(main())
    assert not written.exists()


def test_cancelling_run_in_executor_kills_the_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            call = loop.run_in_executor(pool, jobs.hang, tmp_path / "started")
            await come(tmp_path / "started")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await loop.run_in_executor(pool, jobs.double, 2) == 4
            ended_worker(tmp_path / "started")

    asyncio.run(main())


async def come(path: Path) -> None:
    """Waits for a file without blocking the loop."""
    await asyncio.get_running_loop().run_in_executor(None, jobs.wait_for, path)


def test_wait_for_ends_the_job_with_its_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            assert await pool.run(jobs.double, 0) == 0
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pool.run(jobs.hang, tmp_path / "started"), 0.5)
            ended_worker(tmp_path / "started")
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())


def test_asyncio_timeout_ends_the_job(tmp_path: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            assert await pool.run(jobs.double, 0) == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await pool.run(jobs.hang, tmp_path / "started")
            ended_worker(tmp_path / "started")
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())


def test_a_task_groups_failure_kills_its_other_jobs(tmp_path: Path) -> None:
    async def main() -> None:
        async def run(fn: Any, *args: object) -> None:
            await pool.run(fn, *args)

        async with ProcessPoolExecutor(2) as pool:
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(run(jobs.hang, tmp_path / "started"))
                    await come(tmp_path / "started")
                    group.create_task(run(crashes.fail, "no"))
            assert [type(error) for error in caught.value.exceptions] == [LookupError]
            ended_worker(tmp_path / "started")
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())


def test_a_job_that_runs_too_long_ends_with_run_timeout(tmp_path: Path) -> None:
    started, written = tmp_path / "started", tmp_path / "written"

    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            assert await pool.run(jobs.double, 0) == 0
            with pytest.raises(offloop.RunTimeout) as caught:
                await pool.options(timeout=0.2).run(jobs.sleep_then_write, started, written, 1.0)
            assert isinstance(caught.value, TimeoutError)
            assert "sleep_then_write" in str(caught.value)
            ended_worker(started)
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())
    assert not written.exists()


def test_time_in_the_queue_does_not_count_as_run_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            running = pool.run(jobs.hold, tmp_path / "started", tmp_path / "gate")
            await come(tmp_path / "started")
            queued = pool.options(timeout=0.2).run(jobs.double, 2)
            done, _ = await asyncio.wait([queued], timeout=0.4)
            assert not done
            (tmp_path / "gate").touch()
            assert await queued == 4
            await running

    asyncio.run(main())


def test_a_job_that_waits_too_long_ends_with_queue_timeout_and_never_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            running = pool.run(jobs.hold, tmp_path / "started", tmp_path / "gate")
            await come(tmp_path / "started")
            with pytest.raises(offloop.QueueTimeout) as caught:
                await pool.options(queue_timeout=0.05).run(jobs.note, tmp_path / "log")
            assert isinstance(caught.value, TimeoutError)
            (tmp_path / "gate").touch()
            await running
            assert await pool.options(queue_timeout=30).run(jobs.double, 2) == 4

    asyncio.run(main())
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("limit", [-1, float("nan")])
def test_an_invalid_limit_is_refused(limit: float) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            with pytest.raises(ValueError):
                await pool.options(timeout=limit).run(jobs.double, 1)
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())


def test_run_fails_at_once_if_the_call_cannot_be_pickled() -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            call = pool.run(jobs.echo, threading.Lock())
            assert call.done() and isinstance(call.exception(), TypeError)
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())


def test_a_job_that_raises_stop_iteration_does_not_end_its_awaiter() -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await pool.run(crashes.raise_this, StopIteration(1))

    asyncio.run(main())


def test_a_thousand_cancelled_jobs_leave_a_working_pool(tmp_path: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(2) as pool:
            calls = [pool.run(jobs.echo, n) for n in range(1000)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(
                n == value or isinstance(value, asyncio.CancelledError)
                for n, value in enumerate(results)
            )
            assert await pool.run(jobs.double, 2) == 4
            assert pool._engine.outstanding() == 0

    asyncio.run(main())

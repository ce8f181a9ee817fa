"""The life of a process pool and of its workers: how long they take to get ready, when they leave, how they are ended."""

import asyncio
import contextlib
import os
import signal
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from support import crashes, jobs, late

import offloop
from offloop import ProcessPoolExecutor, ShutdownReport


def hold_all(pool: ProcessPoolExecutor, directory: Path, count: int) -> list[Any]:
    """Makes `count` jobs run at the same time. They end when the file `gate` is there."""
    calls = [pool.submit(jobs.hold, directory / f"started-{n}", directory / "gate") for n in range(count)]
    for n in range(count):
        jobs.wait_for(directory / f"started-{n}")
    return calls


# Getting ready


def test_a_timeout_begins_when_the_function_is_called_not_while_its_module_is_imported() -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1, env={"LATE_IMPORT": "3"}) as pool:
            assert await pool.options(timeout=1).run(late.nap, 0) == "done"
            with pytest.raises(offloop.RunTimeout, match="limit of 1s"):
                await pool.options(timeout=1).run(late.nap, 600)

    asyncio.run(main())


def test_a_module_that_is_never_imported_ends_a_job_with_a_timeout_after_the_load_timeout() -> None:
    with ProcessPoolExecutor(1, env={"LATE_IMPORT": "600"}, load_timeout=0.5) as pool:
        with pytest.raises(offloop.RunTimeout, match="load_timeout of 500ms"):
            pool.options(timeout=0.1).submit(late.nap, 0).result()


def test_an_initializer_may_take_longer_than_the_start() -> None:
    with ProcessPoolExecutor(1, initializer=time.sleep, initargs=(4,), start_timeout=3) as pool:
        assert pool.submit(pow, 2, 3).result() == 8


def test_the_error_of_an_initializer_that_hangs_names_its_limit() -> None:
    with ProcessPoolExecutor(1, initializer=time.sleep, initargs=(600,), setup_timeout=0.5) as pool:
        with pytest.raises(offloop.WorkerStartError, match=r"its initializer .* setup_timeout of 500ms"):
            pool.submit(pow, 2, 3).result()


def test_preloading_may_take_longer_than_the_start_and_has_the_same_limit_as_the_initializer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LATE_IMPORT", "4")
    with ProcessPoolExecutor(1, preload=["support.late"], start_timeout=3) as pool:
        assert pool.submit(late.nap, 0).result() == "done"
    monkeypatch.setenv("LATE_IMPORT", "600")
    with ProcessPoolExecutor(1, preload=["support.late"], setup_timeout=0.5) as pool:
        with pytest.raises(offloop.WorkerStartError, match=r"still getting ready.* setup_timeout of 500ms"):
            pool.submit(late.nap, 0).result()


def test_all_workers_can_be_started_up_front() -> None:
    with ProcessPoolExecutor(2, min_workers=2) as pool:
        assert len(pool._processes) == 2
    with pytest.raises(ValueError, match="min_workers is larger than max_workers"):
        ProcessPoolExecutor(1, min_workers=2)


# Coming and going


def test_later_workers_find_imported_what_most_jobs_import() -> None:
    # Jobs that import nothing themselves.
    has = "{'pickle', 'threading', 'typing'} <= {*__import__('sys').modules}"
    with ProcessPoolExecutor(1, max_tasks_per_child=1) as pool:

        def later_worker_has() -> bool:
            # The template imports them when it is at rest.
            time.sleep(0.05)
            return bool(pool.submit(eval, has).result(30))

        jobs.until(later_worker_has, "a worker with these modules")


def test_idle_workers_leave_and_come_back(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, idle_timeout=0.2) as pool:
        calls = hold_all(pool, tmp_path, 3)
        (tmp_path / "gate").touch()
        pids = {call.result() for call in calls}
        assert len(pids) == 3
        jobs.until(lambda: all(map(jobs.is_gone, pids)), "the idle workers' end")
        assert pool._processes == {}
        assert pool.submit(jobs.pid).result() not in pids


def test_idle_workers_stay_by_default_and_up_to_min_workers(tmp_path: Path) -> None:
    pools = [ProcessPoolExecutor(2), ProcessPoolExecutor(2, min_workers=1, idle_timeout=0.1)]
    for number, pool in enumerate(pools):
        directory = tmp_path / str(number)
        directory.mkdir()
        holding = hold_all(pool, directory, 2)
        (directory / "gate").touch()
        for holds in holding:
            holds.result()
    jobs.until(lambda: len(pools[1]._engine.workers()) == 1, "the end of one worker")
    time.sleep(0.5)
    assert [len(pool._engine.workers()) for pool in pools] == [2, 1]
    for pool in pools:
        pool.shutdown()


def test_a_pool_can_be_resized(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        waiting = [
            pool.submit(jobs.hold, tmp_path / f"started-{n}", tmp_path / "gate") for n in range(3)
        ]
        jobs.wait_for(tmp_path / "started-0")
        pool.resize(3)
        assert pool.max_workers == 3
        for n in range(3):
            jobs.wait_for(tmp_path / f"started-{n}")
        pool.resize(1)
        (tmp_path / "gate").touch()
        assert len({call.result() for call in waiting}) == 3
        jobs.until(lambda: len(pool._engine.workers()) == 1, "the surplus workers' end")
        with pytest.raises(ValueError, match="greater than 0"):
            pool.resize(0)


kept: list[bytes] = []


def leak(size: int) -> int:
    kept.append(b"x" * size)
    return os.getpid()


def use(size: int) -> int:
    assert len(b"x" * size) == size
    return os.getpid()


def test_a_worker_that_keeps_too_much_memory_is_replaced_between_two_jobs() -> None:
    with ProcessPoolExecutor(1, recycle_rss=96 << 20) as pool:
        first = pool.submit(jobs.pid).result()
        assert pool.submit(use, 200 << 20).result() == first
        time.sleep(0.02)
        assert pool.submit(leak, 200 << 20).result() == first
        jobs.until(lambda: jobs.is_gone(first), "the end of the worker")
        assert pool.submit(jobs.pid).result() != first


# Ends


def test_a_shutdown_with_a_drain_reports_what_became_of_the_jobs(tmp_path: Path) -> None:
    pool = ProcessPoolExecutor(1)
    ended = pool.submit(jobs.double, 1)
    running = pool.submit(jobs.hang, tmp_path / "started")
    queued = [pool.submit(jobs.double, 2) for _ in range(2)]
    jobs.wait_for(tmp_path / "started")
    assert pool.shutdown(drain=0.1) == ShutdownReport(drained=0, cancelled=2, killed=1)
    assert ended.result() == 2
    ended_early: list[Any] = [running, *queued]
    for call in ended_early:
        with pytest.raises(CancelledError):
            call.result()
    assert pool.shutdown(drain=10) == ShutdownReport()


def test_a_drain_waits_no_longer_than_the_jobs() -> None:
    pool = ProcessPoolExecutor(1)
    calls = [pool.submit(jobs.double, n) for n in range(3)]
    report = pool.shutdown(drain=600)
    assert report.cancelled == report.killed == 0 and not report.stuck
    assert [call.result() for call in calls] == [0, 2, 4]


def test_a_pool_can_be_closed_on_the_loop_without_blocking_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with contextlib.aclosing(ProcessPoolExecutor(1)) as pool:
            assert await pool.run(jobs.double, 4) == 8
        pool = ProcessPoolExecutor(1)
        call = pool.run(jobs.hold, tmp_path / "started", tmp_path / "gate")
        closing = asyncio.create_task(pool.aclose(drain=600))
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.001)
        assert not closing.done()
        (tmp_path / "gate").touch()
        assert await call > 0
        report = await closing
        assert (report.cancelled, report.killed) == (0, 0)

    asyncio.run(main())


def test_a_close_that_is_cancelled_waits_for_no_job(tmp_path: Path) -> None:
    async def main() -> None:
        pool = ProcessPoolExecutor(1)
        call = pool.run(jobs.hang, tmp_path / "started")
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.aclose(), 0.1)
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())


def test_a_shutdown_with_a_timeout_gives_up_waiting_and_the_jobs_go_on(tmp_path: Path) -> None:
    pool = ProcessPoolExecutor(1)
    call = pool.submit(jobs.hold, tmp_path / "started", tmp_path / "gate")
    jobs.wait_for(tmp_path / "started")
    with pytest.raises(TimeoutError, match="still running jobs"):
        pool.shutdown(timeout=0.1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(jobs.double, 1)
    (tmp_path / "gate").touch()
    pool.shutdown(timeout=60)
    assert call.result() > 0


@pytest.mark.parametrize(
    ("method", "number"), [("kill_workers", signal.SIGKILL), ("terminate_workers", signal.SIGTERM)]
)
def test_workers_can_be_ended_at_once(method: str, number: int, tmp_path: Path) -> None:
    pool = ProcessPoolExecutor(1)
    running = pool.options(retries=5).submit(jobs.hang, tmp_path / "started")
    queued = pool.submit(jobs.double, 1)
    jobs.wait_for(tmp_path / "started")
    (process,) = pool._processes.values()
    getattr(pool, method)()
    error = running.exception(30)
    assert isinstance(error, offloop.WorkerDied) and error.exitcode == -number
    assert queued.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(jobs.double, 1)
    process.join()
    assert process.exitcode == -number and not process.is_alive()
    pool.shutdown()
    # There is none left, so nothing happens.
    getattr(pool, method)()


def test_only_the_operations_of_the_standard_pool_are_known() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(ValueError, match="Unsupported operation"):
        pool._force_shutdown(operation="ask")


def test_a_shutdown_may_kill_what_runs(tmp_path: Path) -> None:
    pool = ProcessPoolExecutor(1)
    running = pool.submit(jobs.hang, tmp_path / "started")
    jobs.wait_for(tmp_path / "started")
    pool.shutdown(kill_workers=True)
    assert isinstance(running.exception(0), offloop.WorkerDied)


def test_a_drain_takes_no_other_argument() -> None:
    with ProcessPoolExecutor(1) as pool:
        shutdown: Any = pool.shutdown
        for other in {"wait": False}, {"cancel_futures": True}, {"timeout": 1}, {"kill_workers": True}:
            with pytest.raises(TypeError, match="takes no other argument"):
                shutdown(drain=1, **other)


def test_a_worker_knows_its_exit_code() -> None:
    with ProcessPoolExecutor(1) as pool:
        (process,) = pool._processes.values() or [None]
        if process is None:
            pool.submit(jobs.pid).result()
            (process,) = pool._processes.values()
        assert process.exitcode is None
        with pytest.raises(offloop.WorkerDied):
            pool.submit(os._exit, 7).result()
        assert process.exitcode == 7


# Crashes


def test_the_error_of_a_segmentation_fault_has_the_traceback() -> None:
    with ProcessPoolExecutor(1) as pool:
        error = pool.submit(crashes.segfault).exception()
    assert isinstance(error, offloop.WorkerDied) and error.exitcode == -signal.SIGSEGV
    assert "Segmentation fault" in error.stderr
    assert "in segfault" in error.stderr and "crashes.py" in error.stderr


def test_a_crash_that_breaks_the_pool_names_its_culprit(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, on_crash="break") as pool:
        innocent = pool.submit(jobs.hang, tmp_path / "started")
        jobs.wait_for(tmp_path / "started")
        pool.submit(os._exit, 42).exception()
        error = innocent.exception()
        assert isinstance(error, offloop.PoolBroken)
        assert "exited with status 42 while it ran job" in str(error) and "_exit`" in str(error)


def test_arguments_that_break_the_pool_are_those_of_a_job_with_a_name() -> None:
    with ProcessPoolExecutor(1, on_crash="break") as pool:
        error = pool.submit(id, crashes.UnpicklingFails()).exception()
    assert isinstance(error, offloop.PoolBroken)
    assert "the arguments of `builtins.id` could not be unpickled" in str(error)


# Room in the queue


def test_a_task_can_wait_for_room_in_the_queue(tmp_path: Path) -> None:
    async def main() -> None:
        pool = ProcessPoolExecutor(1, queue_capacity=1)
        running = pool.run(jobs.hold, tmp_path / "started", tmp_path / "gate")
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.001)
        await running.accepted()
        queued = pool.run(jobs.double, 1)
        await queued.accepted()
        waiting = pool.run(jobs.double, 2)
        cancelled = pool.run(jobs.double, 3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting.accepted(), 0.1)
        assert not waiting.cancelled()
        room = asyncio.create_task(cancelled.accepted())
        await asyncio.sleep(0)
        cancelled.cancel()
        await room
        room = asyncio.create_task(waiting.accepted())
        await asyncio.sleep(0)
        (tmp_path / "gate").touch()
        await room
        assert await waiting == 4 and await queued == 2
        await waiting.accepted()
        await pool.aclose()

    asyncio.run(main())

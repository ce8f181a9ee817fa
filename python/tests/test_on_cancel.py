"""`on_cancel`: the callback that ends a blocked job when it should stop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import offloop
from offloop import ProcessPoolExecutor, ThreadPoolExecutor
from support import jobs

GIVE_UP = 30.0


class Blocked:
    """A call that blocks until its `on_cancel` releases it."""

    def __init__(self, repeat: float | None = None) -> None:
        self.repeat = repeat
        self.began = threading.Event()
        self.released = threading.Event()
        self.left = threading.Event()
        self.callers: list[str] = []

    def __call__(self) -> None:
        with offloop.on_cancel(self.release, repeat=self.repeat):
            self.began.set()
            assert self.released.wait(GIVE_UP)
        self.left.set()

    def release(self) -> None:
        self.callers.append(threading.current_thread().name)
        self.released.set()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, GIVE_UP)


def test_a_blocked_job_whose_task_is_cancelled_is_released() -> None:
    async def main() -> None:
        async with ThreadPoolExecutor(1, "worker") as pool:
            job = Blocked()
            waiting = asyncio.ensure_future(pool.run(job))
            await until(job.began)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await until(job.left)
            assert len(job.callers) == 1
            assert job.callers != [threading.current_thread().name]
            assert not job.callers[0].startswith("worker")
            assert await pool.run(pow, 2, 3) == 8

    asyncio.run(main())


def test_a_blocked_job_that_is_out_of_time_is_released() -> None:
    async def main() -> None:
        async with ThreadPoolExecutor(1) as pool:
            job = Blocked()
            with pytest.raises(offloop.RunTimeout):
                await pool.options(timeout=0.05).run(job)
            # The timeout may have come before it began to wait.
            assert await pool.run(pow, 2, 3) == 8
            assert len(job.callers) <= 1

    asyncio.run(main())


def test_a_blocked_job_of_a_pool_that_is_aborted_is_released() -> None:
    job = Blocked()
    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(1) as pool:
        pool.submit(job)
        assert job.began.wait(GIVE_UP)
        raise KeyboardInterrupt
    assert job.left.wait(GIVE_UP)


def cancelled_at(steps: Callable[[threading.Event, threading.Event], None]) -> None:
    """Runs `steps(began, cancelled)` as a job that is cancelled once it has begun."""
    began, cancelled, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def job() -> None:
        try:
            steps(began, cancelled)
        except BaseException as error:
            errors.append(error)
        ended.set()

    async def main() -> None:
        async with ThreadPoolExecutor(1) as pool:
            waiting = pool.run(job)
            await until(began)
            waiting.cancel()
            cancelled.set()
            await until(ended)

    asyncio.run(main())
    if errors:
        raise errors[0]


def test_after_the_with_block_the_callback_is_not_called() -> None:
    calls: list[int] = []

    def job(began: threading.Event, cancelled: threading.Event) -> None:
        with offloop.on_cancel(lambda: calls.append(1), repeat=0.001):
            pass
        began.set()
        assert cancelled.wait(GIVE_UP)
        time.sleep(0.05)

    cancelled_at(job)
    assert calls == []


def test_leaving_the_with_block_waits_for_a_call_that_has_begun() -> None:
    entered, finished = threading.Event(), threading.Event()

    def callback() -> None:
        entered.set()
        time.sleep(0.2)
        finished.set()

    def job(began: threading.Event, _: threading.Event) -> None:
        with offloop.on_cancel(callback):
            began.set()
            assert entered.wait(GIVE_UP)
        assert finished.is_set()

    cancelled_at(job)


def test_a_job_that_should_stop_already_does_not_enter_the_with_block() -> None:
    def job(began: threading.Event, cancelled: threading.Event) -> None:
        began.set()
        assert cancelled.wait(GIVE_UP)
        with pytest.raises(CancelledError), offloop.on_cancel(lambda: None):
            raise AssertionError("it went on")

    cancelled_at(job)


def test_each_armed_callback_is_called_once() -> None:
    calls: list[str] = []
    three = threading.Semaphore(0)

    def note(name: str) -> Callable[[], None]:
        def callback() -> None:
            calls.append(name)
            three.release()

        return callback

    def job(began: threading.Event, _: threading.Event) -> None:
        with offloop.on_cancel(note("outer")):
            with offloop.on_cancel(note("left")):
                pass
            with offloop.on_cancel(note("middle")), offloop.on_cancel(note("inner")):
                began.set()
                for _ in range(3):
                    assert three.acquire(timeout=GIVE_UP)
                time.sleep(0.05)

    cancelled_at(job)
    assert sorted(calls) == ["inner", "middle", "outer"]


def test_the_call_is_repeated_until_the_with_block_is_left() -> None:
    calls: list[int] = []
    third = threading.Event()

    def callback() -> None:
        calls.append(1)
        if len(calls) == 3:
            third.set()

    def job(began: threading.Event, _: threading.Event) -> None:
        with offloop.on_cancel(callback, repeat=0.01):
            began.set()
            assert third.wait(GIVE_UP)
        seen = len(calls)
        time.sleep(0.1)
        assert len(calls) == seen

    cancelled_at(job)


def test_an_exception_of_a_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Event()

    def callback() -> None:
        called.set()
        raise ConnectionError("nobody there")

    def job(began: threading.Event, _: threading.Event) -> None:
        with offloop.on_cancel(callback):
            began.set()
            assert called.wait(GIVE_UP)

    cancelled_at(job)
    [record] = [record for record in caplog.records if record.name == "offloop"]
    assert record.exc_info is not None and isinstance(record.exc_info[1], ConnectionError)


def test_outside_of_a_job_nothing_happens() -> None:
    with offloop.on_cancel(lambda: pytest.fail("called")):
        pass


def test_a_job_in_a_process_is_killed_instead(tmp_path: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            waiting = asyncio.ensure_future(
                pool.run(jobs.hang_on_cancel, tmp_path / "began", tmp_path / "called")
            )
            await asyncio.to_thread(jobs.wait_for, tmp_path / "began")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await pool.run(pow, 2, 3) == 8
        assert not (tmp_path / "called").exists()

    asyncio.run(main())

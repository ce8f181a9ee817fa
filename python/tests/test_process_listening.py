"""The event loop that waits for jobs takes the workers' answers itself. No job depends on it."""

import asyncio
import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from support import jobs

from offloop import ProcessPoolExecutor

HANG = jobs.HANG


def here() -> int:
    return threading.get_ident()


def on_a_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), 2 * HANG))


async def listen(pool: ProcessPoolExecutor) -> None:
    """Makes the running loop the one that takes the answers."""
    assert await asyncio.get_running_loop().run_in_executor(pool, jobs.double, 2) == 4


def test_the_loop_that_waits_for_run_in_executor_takes_the_result_itself() -> None:
    async def main() -> bool:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1) as pool:
            await listen(pool)
            # If the loop comes too late, the results thread takes it.
            for _ in range(500):
                if await loop.run_in_executor(pool, jobs.Call, here) == here():
                    return True
        return False

    assert on_a_loop(main)


def test_callbacks_of_users_do_not_hold_up_the_loop_that_waits(tmp_path: Path) -> None:
    async def main() -> list[int]:
        called: list[int] = []
        with ProcessPoolExecutor(1) as pool:
            await listen(pool)
            for n in range(20):
                gate = tmp_path / str(n)
                call = pool.submit(jobs.hold, tmp_path / "started", gate)
                call.add_done_callback(lambda _: called.append(here()))
                wrapped = asyncio.wrap_future(call)
                gate.touch()
                await wrapped
        assert len(called) == 20
        return called

    assert here() not in on_a_loop(main)


@pytest.mark.parametrize("end", ["result", "shutdown"])
def test_a_loop_may_block_until_a_job_ends_whose_answers_it_takes(end: str) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        pool = ProcessPoolExecutor(2)
        await listen(pool)
        wrapped = loop.run_in_executor(pool, jobs.double, 3)
        if end == "result":
            assert pool.submit(jobs.double, 4).result(HANG) == 8
        pool.shutdown()
        return await wrapped

    assert on_a_loop(main) == 6


pending: "Future[int]"
"""A job that another job's result waits for while it is unpickled."""


def open_and_wait(gate: Path) -> int:
    gate.touch()
    return pending.result(HANG)


def test_a_result_may_wait_for_another_one_while_the_loop_unpickles_it(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        global pending
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(2) as pool:
            await listen(pool)
            gate = tmp_path / "gate"
            pending = pool.submit(jobs.hold, tmp_path / "started", gate)
            second = asyncio.wrap_future(pending)
            first = loop.run_in_executor(pool, jobs.Call, open_and_wait, gate)
            return await first, await second

    first, second = on_a_loop(main)
    assert first == second


def test_a_loop_that_is_closed_leaves_its_jobs_to_the_results_thread(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        gate = tmp_path / "gate"
        calls: list[Future[int]] = []

        async def main() -> None:
            await listen(pool)
            calls.append(pool.submit(jobs.hold, tmp_path / "started", gate))
            asyncio.wrap_future(calls[0])

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        gate.touch()
        assert calls[0].result(HANG) in pool._processes


def test_the_errors_of_jobs_reach_the_loop_that_waits() -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1) as pool:
            await listen(pool)
            calls = [loop.run_in_executor(pool, jobs.fail_with, str(n)) for n in range(3)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            calls = [loop.run_in_executor(pool, jobs.exit_with, 3)]
            return ended + await asyncio.gather(*calls, return_exceptions=True)

    *failed, died = on_a_loop(main)
    assert [str(error) for error in failed] == ["0", "1", "2"]
    assert died.exitcode == 3


unpickling = threading.Event()
"""Is set while a result is being unpickled."""


def unpickle_slowly() -> int:
    unpickling.set()
    time.sleep(0.2)
    return here()


def slow_to_unpickle(gate: Path) -> Any:
    jobs.wait_for(gate)
    return jobs.Call(unpickle_slowly)


def test_a_function_that_is_attached_while_the_loop_unpickles_does_not_run_on_the_loop(tmp_path: Path) -> None:
    async def main() -> list[int]:
        with ProcessPoolExecutor(1) as pool:
            await listen(pool)
            for attempt in range(50):
                called: list[int] = []
                gate = tmp_path / str(attempt)
                call = pool.submit(slow_to_unpickle, gate)
                wrapped = asyncio.wrap_future(call)
                unpickling.clear()

                def attach() -> None:
                    assert unpickling.wait(HANG)
                    call.add_done_callback(lambda _: called.append(here()))

                thread = threading.Thread(target=attach)
                thread.start()
                gate.touch()
                unpickled_on = await wrapped
                thread.join()
                jobs.until(lambda: called, "the call")
                # Otherwise the results thread was first.
                if unpickled_on == here():
                    return called
        pytest.fail("the loop has unpickled no result itself")

    assert here() not in on_a_loop(main)


def large_result() -> tuple[Any, str]:
    return jobs.Call(here), "x" * 100_000


def test_the_loop_leaves_a_large_result_to_the_results_thread() -> None:
    async def main() -> set[int]:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1) as pool:
            await listen(pool)
            return {(await loop.run_in_executor(pool, large_result))[0] for _ in range(20)}

    assert here() not in on_a_loop(main)


class Interrupt:
    """Waits for a future, as `concurrent.futures.wait` does, and is a signal's handler at the same time."""

    def __init__(self) -> None:
        self.has_raised = False

    def add_result(self, _: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self.has_raised = True
            raise KeyboardInterrupt


def test_a_signal_that_interrupts_the_end_of_a_future_reaches_the_program_and_the_future_ends() -> None:
    loop = asyncio.new_event_loop()
    with ProcessPoolExecutor(1) as pool:
        loop.run_until_complete(listen(pool))

        async def call(interrupt: Interrupt) -> int:
            call = pool.submit(jobs.double, 3)
            call._waiters.append(interrupt)
            return await asyncio.wrap_future(call)

        for _ in range(500):
            interrupt = Interrupt()
            ended = loop.create_task(call(interrupt))
            try:
                assert loop.run_until_complete(ended) == 6
            except KeyboardInterrupt:
                assert loop.run_until_complete(asyncio.wait_for(ended, HANG)) == 6
                break
            # Otherwise the results thread was first.
            assert not interrupt.has_raised
        else:
            pytest.fail("the loop has ended no future itself")
    loop.close()


def test_without_a_descriptor_for_the_loop_another_thread_takes_the_answer() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1) as pool:
            await asyncio.to_thread(pool.submit(jobs.double, 1).result, HANG)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            first_free = os.dup(0)
            os.close(first_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, limits[1]))
            try:
                return await loop.run_in_executor(pool, jobs.double, 2)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert on_a_loop(main) == 4


def log_numbers(count: int) -> None:
    for number in range(count):
        logging.getLogger("numbers").warning("%d", number)


def test_a_log_handler_that_waits_for_a_job_gets_all_records_in_their_order() -> None:
    handled: list[int] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "numbers":
                number = int(record.getMessage())
                if number % 5 == 0:
                    assert pool.submit(jobs.double, number).result(HANG) == 2 * number
                handled.append(number)

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        with ProcessPoolExecutor(2) as pool:
            pool.submit(log_numbers, 30).result(HANG)
    finally:
        logging.getLogger().removeHandler(handler)
    assert handled == list(range(30))

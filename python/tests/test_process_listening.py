"""The event loop that waits for jobs takes the workers' answers itself. No job depends on it."""

import asyncio
import threading
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

"""The same two jobs in six places, with the event loop's worst lateness beside each.

python python/examples/quickstart.py
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, TypeVar

import offloop
from heartbeat import Heartbeat, Measured, milliseconds

R = TypeVar("R")


def blocking_io() -> bytes:
    """A blocking call: there is no async way to read a device."""
    with open("/dev/urandom", "rb") as file:
        return file.read(100)


def cpu_bound(n: int) -> int:
    """A call that computes."""
    return sum(i * i for i in range(n))


N = 10_000_000


class Timed(Executor):
    """A custom executor: passes each job on to threads, and prints how long it took."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "Future[R]":
        began = time.perf_counter()
        future = self._executor.submit(fn, *args, **kwargs)

        def say(_: object) -> None:
            took = milliseconds(time.perf_counter() - began)
            print(f"  (the custom executor ran `{fn.__name__}` in {took})", file=sys.stderr)

        future.add_done_callback(say)
        return future


async def on_the_loop(fn: Callable[..., R], *args: Any) -> R:
    """Runs the job on the loop's own thread, which blocks the loop."""
    return fn(*args)


class Row(NamedTuple):
    place: str
    job: str
    result: str
    measured: Measured


async def measure() -> list[Row]:
    loop = asyncio.get_running_loop()
    offloop.install()  # `None` below and asyncio.to_thread use offloop's threads from now on
    async with (
        offloop.ThreadPoolExecutor(4) as threads,
        offloop.ProcessPoolExecutor(2) as processes,
    ):
        custom = Timed(threads)
        # Workers start at the first call; the table shows them at work.
        await processes.run(cpu_bound, 1)

        def places(fn: Callable[..., R], *args: Any) -> dict[str, Callable[[], Awaitable[R]]]:
            return {
                "directly on the loop": lambda: on_the_loop(fn, *args),
                "default executor": lambda: loop.run_in_executor(None, fn, *args),
                "thread pool": lambda: loop.run_in_executor(threads, fn, *args),
                "process pool": lambda: loop.run_in_executor(processes, fn, *args),
                "process pool.run": lambda: processes.options(timeout=60).run(fn, *args),
                "custom executor": lambda: loop.run_in_executor(custom, fn, *args),
            }

        rows: list[Row] = []
        async with Heartbeat() as heart:
            for place, read in places(blocking_io).items():
                data, measured = await heart.measure(read)
                rows.append(Row(place, "read 100 bytes", f"{len(data)} bytes", measured))
            for place, add in places(cpu_bound, N).items():
                total, measured = await heart.measure(add)
                rows.append(Row(place, "sum of squares", str(total), measured))
        return rows


def show(rows: list[Row]) -> None:
    print(f"{'where':<22}{'job':<16}{'result':>24}{'took':>12}{'loop late at worst':>20}")
    for place, job, result, (took, late) in rows:
        print(f"{place:<22}{job:<16}{result:>24}{milliseconds(took):>12}{milliseconds(late):>20}")


if __name__ == "__main__":  # worker processes import this file, and must not do this again
    show(asyncio.run(measure()))

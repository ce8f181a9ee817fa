"""The jobs of the services."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import offloop
from offloop._pools.default import processes

from .. import jobs

DIRECTORY = Path(os.environ.get("OFFLOOP_TEST_DIRECTORY", "."))

OPTIONS: dict[str, Any] = {
    "metrics_path": "/metrics",
    "drain": float(os.environ.get("OFFLOOP_TEST_DRAIN", "10")),
    "retry_after": 3,
}
"""What the adapters are given."""
if "OFFLOOP_TEST_OBSERVE" in os.environ:
    OPTIONS |= {"observe_path": "/offloop", "observe_cancel": True}
    OPTIONS["observe_token"] = os.environ["OFFLOOP_TEST_OBSERVE"] or None


async def request() -> list[str | None]:
    """Returns the id of the request: here, in a thread, and in a worker process."""
    get = offloop.request_id.get
    return [get(), await offloop.run(get), await offloop.run_cpu(id_in_worker)]


def id_in_worker() -> str | None:
    return offloop.request_id.get()


async def pids() -> list[int]:
    """Returns the ids of this process and of its workers."""
    await offloop.run_cpu(int)
    return [os.getpid(), *processes()._processes]


async def hang() -> str:
    """Awaits a job in a process that never ends by itself. Its pid is in the file `hangs`."""
    await offloop.run_cpu(jobs.hang, DIRECTORY / "hangs")
    return "it ended"


def stop(name: str) -> None:
    jobs.begun(DIRECTORY / name)
    jobs.until(offloop.is_cancelled)
    jobs.begun(DIRECTORY / f"{name}.stopped")


async def hang_in_thread() -> str:
    """Awaits a job in a thread that ends when it is asked to."""
    await offloop.run(stop, "thread")
    return "it ended"


async def full() -> str:
    """Fails because the queue of a pool is full."""
    with offloop.ThreadPoolExecutor(1, queue_capacity=1, on_full="reject") as pool:
        await asyncio.gather(*(pool.run(time.sleep, 0.2) for _ in range(4)))
    return "there was room"


async def late() -> str:
    """Fails because a job takes too long."""
    await offloop.options(timeout=0.1).run_cpu(time.sleep, 60)
    return "it ended"


def slow(name: str, seconds: float) -> None:
    """Takes a while, and leaves a file."""
    jobs.begun(DIRECTORY / f"{name}.begun")
    time.sleep(seconds)
    jobs.begun(DIRECTORY / name)


left_alone: list[Any] = []


async def leave() -> str:
    """Starts jobs that nobody awaits: one of a second, and one that never ends."""
    left_alone.append(offloop.run_cpu(slow, "slow", 1.0))
    left_alone.append(offloop.run_cpu(jobs.hang, DIRECTORY / "hangs"))
    left_alone.append(offloop.run(time.sleep, 600))
    return "left"

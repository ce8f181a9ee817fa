"""The contenders: offloop's pools and the peers, each as one function that builds a pool and returns how to
call through it.

A pool is never shut down here, since the interpreter that has it ends after the turn. What a
contender needs is imported when its turn comes, so that one which cannot be imported spoils no
other's.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import multiprocessing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import jobs

# Takes a function and its arguments.
Call = Callable[..., Awaitable[Any]]
Kind = Literal["thread", "process"]


@dataclass(frozen=True)
class Contender:
    kind: Kind
    name: str
    # MODULE:NAME of its pool, or of the function that runs a call.
    target: str
    # Makes a pool with this number of workers from it. A loop is running.
    build: Callable[[Any, int], Call]

    def imported(self) -> Callable[[int], Call]:
        """Makes a pool with this number of workers."""
        module, _, name = self.target.partition(":")
        return functools.partial(self.build, getattr(importlib.import_module(module), name))


def own_run(pool: Any, workers: int) -> Call:
    run: Call = pool(workers).run
    return run


def drop_in(pool: Any, workers: int) -> Call:
    return through(pool(workers))


def through(executor: Any) -> Call:
    return functools.partial(asyncio.get_running_loop().run_in_executor, executor)


def with_start_method(method: str, pool: Any, workers: int) -> Call:
    return through(pool(workers, mp_context=multiprocessing.get_context(method)))


def to_thread(pool: Any, workers: int) -> Call:
    asyncio.get_running_loop().set_default_executor(pool(workers))
    return asyncio.to_thread


def limited(run_sync: Any, workers: int) -> Call:
    import anyio

    return functools.partial(run_sync, limiter=anyio.CapacityLimiter(workers))


def pebble_processes(pool: Any, workers: int) -> Call:
    call = through(pool(workers))
    # Its `submit` has a time limit before the arguments.
    return lambda function, *arguments: call(function, None, *arguments)


def aiomultiprocess(pool: Any, workers: int) -> Call:
    built = pool(workers)
    return lambda function, *arguments: built.apply(jobs.in_a_coroutine, (function, *arguments))


OURS = ("offloop run", "offloop run_in_executor")
STANDARD = "concurrent.futures"
ANYIO = "anyio"
PEERS = (STANDARD, "c.f. fork", "c.f. forkserver", "c.f. spawn", "to_thread", ANYIO, "loky",
         "pebble", "deadpool", "aiomultiprocess")  # fmt: skip

THREADS = "concurrent.futures:ThreadPoolExecutor"
PROCESSES = "concurrent.futures:ProcessPoolExecutor"

CONTENDERS = [
    Contender("thread", OURS[0], "offloop:ThreadPoolExecutor", own_run),
    Contender("thread", OURS[1], "offloop:ThreadPoolExecutor", drop_in),
    Contender("thread", STANDARD, THREADS, drop_in),
    Contender("thread", "to_thread", THREADS, to_thread),
    Contender("thread", ANYIO, "anyio.to_thread:run_sync", limited),
    Contender("thread", "pebble", "pebble:ThreadPool", drop_in),
    Contender("process", OURS[0], "offloop:ProcessPoolExecutor", own_run),
    Contender("process", OURS[1], "offloop:ProcessPoolExecutor", drop_in),
    *(
        Contender(
            "process", f"c.f. {method}", PROCESSES, functools.partial(with_start_method, method)
        )
        for method in ("fork", "forkserver", "spawn")
    ),
    Contender("process", ANYIO, "anyio.to_process:run_sync", limited),
    Contender("process", "loky", "loky:ProcessPoolExecutor", drop_in),
    Contender("process", "pebble", "pebble:ProcessPool", pebble_processes),
    Contender("process", "deadpool", "deadpool:Deadpool", drop_in),
    Contender("process", "aiomultiprocess", "aiomultiprocess:Pool", aiomultiprocess),
]


def of_kind(kind: Kind) -> list[Contender]:
    return [contender for contender in CONTENDERS if contender.kind == kind]

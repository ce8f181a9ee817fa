"""The contenders: ours and the peers, each as one function that builds a pool and returns how to call through it.

A pool is never shut down here, since the interpreter that has it ends after the turn. All are imported when their turn
comes, so that one which cannot be imported spoils no other's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
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
    # Builds a pool of so many workers. A loop is running.
    build: Callable[[int], Call]


OURS = ("offloop run", "offloop run_in_executor")
STANDARD = "concurrent.futures"
ANYIO = "anyio"
PEERS = (STANDARD, "c.f. fork", "c.f. forkserver", "c.f. spawn", "to_thread", ANYIO, "loky",
         "pebble", "deadpool", "aiomultiprocess")  # fmt: skip


def through(executor: Any) -> Call:
    return functools.partial(asyncio.get_running_loop().run_in_executor, executor)


def offloop_threads(workers: int) -> Call:
    import offloop

    return offloop.ThreadPoolExecutor(workers).run


def offloop_threads_drop_in(workers: int) -> Call:
    import offloop

    return through(offloop.ThreadPoolExecutor(workers))


def offloop_processes(workers: int) -> Call:
    import offloop

    return offloop.ProcessPoolExecutor(workers).run


def offloop_processes_drop_in(workers: int) -> Call:
    import offloop

    return through(offloop.ProcessPoolExecutor(workers))


def standard_threads(workers: int) -> Call:
    return through(concurrent.futures.ThreadPoolExecutor(workers))


def to_thread(workers: int) -> Call:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(workers))
    return asyncio.to_thread


def anyio_threads(workers: int) -> Call:
    import anyio.to_thread

    return functools.partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(workers))


def pebble_threads(workers: int) -> Call:
    import pebble

    return through(pebble.ThreadPool(workers))


def standard_processes(method: str, workers: int) -> Call:
    context = multiprocessing.get_context(method)
    return through(concurrent.futures.ProcessPoolExecutor(workers, mp_context=context))


def anyio_processes(workers: int) -> Call:
    import anyio.to_process

    return functools.partial(anyio.to_process.run_sync, limiter=anyio.CapacityLimiter(workers))


def loky(workers: int) -> Call:
    import loky as it

    return through(it.ProcessPoolExecutor(workers))


def pebble_processes(workers: int) -> Call:
    import pebble

    call = through(pebble.ProcessPool(workers))
    # Its `submit` has a time limit before the arguments.
    return lambda function, *arguments: call(function, None, *arguments)


def deadpool(workers: int) -> Call:
    import deadpool as it

    return through(it.Deadpool(workers))


def aiomultiprocess(workers: int) -> Call:
    import aiomultiprocess as it

    pool = it.Pool(workers)
    return lambda function, *arguments: pool.apply(jobs.in_a_coroutine, (function, *arguments))


CONTENDERS = [
    Contender("thread", OURS[0], offloop_threads),
    Contender("thread", OURS[1], offloop_threads_drop_in),
    Contender("thread", STANDARD, standard_threads),
    Contender("thread", "to_thread", to_thread),
    Contender("thread", ANYIO, anyio_threads),
    Contender("thread", "pebble", pebble_threads),
    Contender("process", OURS[0], offloop_processes),
    Contender("process", OURS[1], offloop_processes_drop_in),
    Contender("process", "c.f. fork", functools.partial(standard_processes, "fork")),
    Contender("process", "c.f. forkserver", functools.partial(standard_processes, "forkserver")),
    Contender("process", "c.f. spawn", functools.partial(standard_processes, "spawn")),
    Contender("process", ANYIO, anyio_processes),
    Contender("process", "loky", loky),
    Contender("process", "pebble", pebble_processes),
    Contender("process", "deadpool", deadpool),
    Contender("process", "aiomultiprocess", aiomultiprocess),
]


def of_kind(kind: Kind) -> list[Contender]:
    return [contender for contender in CONTENDERS if contender.kind == kind]

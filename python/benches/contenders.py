"""The contenders: offloop's pools and the peers, each as one function that builds a pool and returns how to
call through it.

A pool is shut down only by the measure of many pools: otherwise the interpreter that has it ends after the turn. What a
contender needs is imported when its turn comes, so that one which cannot be imported spoils no other's. One that this
interpreter cannot have is left out, with the reason.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import multiprocessing
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

import jobs

# Takes a function and its arguments.
Call = Callable[..., Awaitable[Any]]
# A function and its arguments.
Job = tuple[Any, ...]
Kind = Literal["thread", "process"]


class Builder:
    """Makes the pools of a contender in a turn."""

    def __init__(self, target: Any, build: Callable[[Any, int], Call]) -> None:
        self._target = target
        self._build = build
        self._pool: Any = None

    def __call__(self, workers: int) -> Call:
        """Makes a pool with this number of workers. A loop is running."""
        return self._build(self._made, workers)

    def _made(self, *arguments: Any, **settings: Any) -> Any:
        self._pool = self._target(*arguments, **settings)
        return self._pool

    def shut_down(self) -> None:
        """Shuts down the pool that was made last, and waits for it."""
        self._pool.shutdown()
        self._pool = None


class OwnFunction(Builder):
    """The builder of a contender that is a function which makes the pool itself."""

    def __call__(self, workers: int) -> Call:
        return self._build(self._target, workers)


@dataclass(frozen=True)
class Contender:
    kind: Kind
    name: str
    # MODULE:NAME of its pool, or of the function that runs a call.
    target: str
    # Makes a pool with this number of workers from it. A loop is running.
    build: Callable[[Any, int], Call]
    # The distribution that has it. None: the standard library.
    distribution: str | None = None
    # The version of Python that it needs.
    since: tuple[int, int] = (3, 11)
    # The measures that it cannot take, with the reasons.
    cannot: Mapping[str, str] = field(default_factory=dict)
    # The same for a program's first call, if the function that programs call first is another.
    first: str | None = None

    def builder(self, of_first_call: bool = False) -> Builder:
        """Imports the contender."""
        if of_first_call and self.first is not None:
            return OwnFunction(named(self.first), as_it_is)
        kind = Builder if isinstance(target := named(self.target), type) else OwnFunction
        return kind(target, self.build)

    def missing(self) -> str | None:
        """Returns why this interpreter cannot have the contender; None if it can."""
        if sys.version_info < self.since:
            return f"it needs Python {'.'.join(map(str, self.since))}"
        if self.distribution is None or is_installed(self.distribution):
            return None
        return f"{self.distribution} is not installed"

    def version(self) -> str | None:
        """Returns the name and version of the distribution; None for the standard library, whose version is Python's."""
        return self.distribution and f"{self.distribution} {metadata.version(self.distribution)}"


def named(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def as_it_is(function: Any, workers: int) -> Call:
    call: Call = function
    return call


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


class JoblibCall:
    """Calls through a `joblib.Parallel` whose workers are kept.

    Its calls block, so it has a thread of its own, in which a program that has a loop would use it. It takes many
    calls at a time, and divides them into batches.
    """

    def __init__(self, parallel: Any) -> None:
        from joblib import delayed

        self._delayed = delayed
        self._parallel = parallel.__enter__()
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        (result,) = await self.together([(function, *arguments)])
        return result

    async def together(self, calls: list[Job]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, calls)

    def _run(self, calls: list[Job]) -> list[Any]:
        jobs = (self._delayed(function)(*arguments) for function, *arguments in calls)
        return list(self._parallel(jobs))


def joblib_parallel(pool: Any, workers: int) -> Call:
    # With a single worker it has none, and runs the calls itself.
    return JoblibCall(pool(n_jobs=max(workers, 2), backend="loky", return_as="generator"))


async def together(call: Call, calls: list[Job]) -> list[Any]:
    """Submits all calls, then awaits them all."""
    if isinstance(call, JoblibCall):
        return await call.together(calls)
    return await asyncio.gather(*[call(function, *arguments) for function, *arguments in calls])


OURS = ("offloop run", "offloop run_in_executor")
STANDARD = "concurrent.futures"
ANYIO = "anyio"
# What the machine allows: no pools, and no peers.
BARE = "bare"
BARE_VIEW = "bare view"
PEERS = (STANDARD, "c.f. fork", "c.f. forkserver", "c.f. spawn", "c.f. interpreter", "to_thread", ANYIO,
         "anyio interpreter", "loky", "joblib", "pebble", "deadpool", "aiomultiprocess")  # fmt: skip

THREADS = "concurrent.futures:ThreadPoolExecutor"
PROCESSES = "concurrent.futures:ProcessPoolExecutor"
INTERPRETERS = "concurrent.futures:InterpreterPoolExecutor"
OWN_THREADS = "offloop:ThreadPoolExecutor"
OWN_PROCESSES = "offloop:ProcessPoolExecutor"

NO_NUMPY = {"arrays": "its workers cannot import numpy"}
NO_SINGLE_WORKER = {"life": "it has no pool of one worker"}

CONTENDERS = [
    Contender("thread", OURS[0], OWN_THREADS, own_run, "offloop", first="offloop:run"),
    Contender("thread", OURS[1], OWN_THREADS, drop_in, "offloop"),
    Contender("thread", STANDARD, THREADS, drop_in),
    Contender("thread", "to_thread", THREADS, to_thread),
    Contender("thread", ANYIO, "anyio.to_thread:run_sync", limited, "anyio"),
    Contender("thread", "pebble", "pebble:ThreadPool", drop_in, "pebble"),
    Contender("process", OURS[0], OWN_PROCESSES, own_run, "offloop", first="offloop:run_cpu"),
    Contender("process", OURS[1], OWN_PROCESSES, drop_in, "offloop"),
    *(
        Contender(
            "process", f"c.f. {method}", PROCESSES, functools.partial(with_start_method, method)
        )
        for method in ("fork", "forkserver", "spawn")
    ),
    # Workers that are interpreters in threads of this process: they compute at the same time as well.
    Contender("process", "c.f. interpreter", INTERPRETERS, drop_in, since=(3, 14), cannot=NO_NUMPY),
    # It runs on 3.13 as well, but by a private module of Python's, and anyio advises against it.
    Contender(
        "process", "anyio interpreter", "anyio.to_interpreter:run_sync", limited, "anyio", (3, 14), NO_NUMPY
    ),
    Contender("process", ANYIO, "anyio.to_process:run_sync", limited, "anyio"),
    Contender("process", "loky", "loky:ProcessPoolExecutor", drop_in, "loky"),
    Contender("process", "joblib", "joblib:Parallel", joblib_parallel, "joblib", cannot=NO_SINGLE_WORKER),
    Contender("process", "pebble", "pebble:ProcessPool", pebble_processes, "pebble"),
    Contender("process", "deadpool", "deadpool:Deadpool", drop_in, "deadpool-executor"),
    Contender("process", "aiomultiprocess", "aiomultiprocess:Pool", aiomultiprocess, "aiomultiprocess"),
]


def of_kind(kind: Kind, names: Sequence[str] | None = None) -> list[Contender]:
    """Returns the contenders of a kind that this interpreter can have; with `names` only these."""
    return [
        contender
        for contender in CONTENDERS
        if contender.kind == kind
        and (names is None or contender.name in names)
        and contender.missing() is None
    ]


def left_out() -> list[str]:
    """Returns which contenders this interpreter cannot have, and why."""
    return [
        f"left out: {contender.name} ({contender.kind}), because {reason}"
        for contender in CONTENDERS
        if (reason := contender.missing()) is not None
    ]


def versions() -> str:
    """Returns the versions of the contenders."""
    known = {contender.version() for contender in CONTENDERS if contender.missing() is None}
    return ", ".join(sorted(filter(None, known)))

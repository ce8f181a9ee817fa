"""Tarantool's stored functions by its synchronous connector on offloop, beside asynctnt, the async one.

    OFFLOOP_TARANTOOL_URL=127.0.0.1:3301 python python/examples/tarantool_calls.py

It needs the server of tarantool.lua, and the packages tarantool and asynctnt. Each row of the table is
measured in a process of its own, so that the memory is its own as well.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asynctnt
import offloop
import tarantool
from heartbeat import Heartbeat, milliseconds

SLOW, SECONDS = 200, 0.05
QUICK = 2000

Call = Callable[..., Awaitable[Any]]
"""Calls a stored function by its name, with arguments."""


def address() -> tuple[str, int]:
    host, _, port = os.environ["OFFLOOP_TARANTOOL_URL"].rpartition(":")
    return host, int(port)


# The synchronous connector on offloop needs only this code.


class Connection(tarantool.Connection):
    def hang_up(self) -> None:
        """Ends a call that another thread waits for. `close` would leave that thread waiting."""
        self._socket.shutdown(socket.SHUT_RDWR)


def connect() -> Connection:
    return Connection(*address())


def call(name: str, *args: object) -> Any:
    """Calls a stored function. Workers run this. If the job is cancelled, the call ends on the server at once."""
    connection: Connection = offloop.worker_state()
    with offloop.on_cancel(connection.hang_up, repeat=1):
        return connection.call(name, args)[0]


@asynccontextmanager
async def on_offloop(workers: int) -> AsyncGenerator[Call, None]:
    async with offloop.ThreadPoolExecutor(
        workers, worker_state=connect, close_worker_state=Connection.close
    ) as pool:
        yield functools.partial(pool.run, call)


# The other ways.


@asynccontextmanager
async def directly() -> AsyncGenerator[Call, None]:
    connection = tarantool.Connection(*address())

    async def call(name: str, *args: object) -> Any:
        return connection.call(name, args)[0]

    yield call
    connection.close()


@asynccontextmanager
async def by_asynctnt() -> AsyncGenerator[Call, None]:
    host, port = address()
    async with asynctnt.Connection(host=host, port=port) as connection:

        async def call(name: str, *args: object) -> Any:
            return (await connection.call(name, args))[0]

        yield call


class Way(NamedTuple):
    open: Callable[[], AbstractAsyncContextManager[Call]]
    connections: int
    written: list[Any]
    """The code that a program needs for it."""


OFFLOOP = [Connection, connect, call, on_offloop]
WAYS = {
    "directly on the loop": Way(directly, 1, [directly]),
    "offloop, 4 threads": Way(functools.partial(on_offloop, 4), 4, OFFLOOP),
    "offloop, 32 threads": Way(functools.partial(on_offloop, 32), 32, OFFLOOP),
    "offloop, 200 threads": Way(functools.partial(on_offloop, 200), 200, OFFLOOP),
    "asynctnt, 1 connection": Way(by_asynctnt, 1, [by_asynctnt]),
}


def lines(*written: Any) -> int:
    return sum(len(inspect.getsource(one).strip().splitlines()) for one in written)


def lines_of_package(package: Any) -> int:
    """Returns the number of lines of a package's installed sources, Cython ones included."""
    sources = [
        path
        for path in Path(package.__file__).parent.rglob("*")
        if path.suffix in {".py", ".pyx", ".pxd", ".pxi"}
    ]
    return sum(len(path.read_text().splitlines()) for path in sources)


def max_rss() -> float:
    """Returns the largest amount of memory that this process had resident, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def measure(title: str) -> None:
    """Prints a row."""
    before = max_rss()
    way = WAYS[title]
    async with way.open() as call, Heartbeat() as heart:

        async def many(count: int, name: str, *args: object) -> list[Any]:
            return await asyncio.gather(*(call(name, *args, value) for value in range(count)))

        # All connections are opened at once: the first calls of a program take longer than the others.
        _, first = await heart.measure(lambda: many(way.connections, "slow", SECONDS))
        values, slow = await heart.measure(lambda: many(SLOW, "slow", SECONDS))
        assert values == list(range(SLOW))
        values, quick = await heart.measure(lambda: many(QUICK, "quick"))
        assert values == list(range(1, QUICK + 1))
    print_row(
        title,
        milliseconds(first.late),
        f"{SLOW / slow.took:.0f} /s",
        milliseconds(slow.late),
        f"{QUICK / quick.took:.0f} /s",
        milliseconds(quick.late),
        f"{max_rss() - before:.1f} MB",
        str(lines(*way.written)),
    )


def print_row(*cells: str) -> None:
    first, *others = cells
    print(f"{first:<24}" + "".join(f"{cell:>13}" for cell in others), flush=True)


def main() -> None:
    print_row("", "connecting", f"{SLOW} slow", "", f"{QUICK} quick", "", "peak", "lines")
    print_row("", "loop late", "calls", "loop late", "calls", "loop late", "memory", "of code")
    for title in WAYS:
        subprocess.run([sys.executable, __file__, title], check=True)
    print(f"lines of the connectors: tarantool {lines_of_package(tarantool)}, ", end="")
    print(f"asynctnt {lines_of_package(asynctnt)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(measure(sys.argv[1]))
    else:
        main()

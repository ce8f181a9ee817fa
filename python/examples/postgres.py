"""PostgreSQL's stored functions by psycopg, a blocking driver: one connection per worker, queries that really end.

    OFFLOOP_POSTGRES_URL=postgresql://user@127.0.0.1:5432/database python python/examples/postgres.py

It needs the package psycopg. psycopg can also be awaited; the table shows both, as most drivers cannot. If
OFFLOOP_POSTGRES_RESTART is a command that restarts the server, it shows what becomes of the connections.
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import offloop
import psycopg
from heartbeat import Heartbeat, milliseconds

CALLS, SECONDS = 200, 0.05
URL = os.environ.get("OFFLOOP_POSTGRES_URL", "")

FUNCTION = """
    create or replace function answer_after(seconds float8, answer int) returns int as $$
    begin
        perform pg_sleep(seconds);
        return answer;
    end
    $$ language plpgsql
"""
QUERY = "select answer_after(%s, %s)"

Call = Callable[[float, int], Awaitable[int]]
Connection = psycopg.Connection[tuple[int]]


def connect() -> Connection:
    return psycopg.connect(URL, autocommit=True)


def has_hung_up(connection: Connection) -> bool:
    """Returns whether the server has sent something without being asked: it does so when it closes the connection."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def worker_connection() -> Generator[Connection, None, None]:
    """Gives this worker's connection. If the job is cancelled, its query is cancelled on the server."""
    connection: Connection = offloop.worker_state()
    if connection.closed or has_hung_up(connection):
        offloop.discard_worker_state()
        connection = offloop.worker_state()
    with offloop.on_cancel(connection.cancel_safe, repeat=1):
        yield connection


def answer_after(seconds: float, answer: int) -> int:
    """Calls a stored function. Workers run this."""
    with worker_connection() as connection:
        row = connection.execute(QUERY, (seconds, answer)).fetchone()
    assert row is not None
    return row[0]


def workers(count: int) -> offloop.ThreadPoolExecutor:
    return offloop.ThreadPoolExecutor(
        count, worker_state=connect, close_worker_state=psycopg.Connection.close
    )


# The three ways of the table.


@asynccontextmanager
async def directly() -> AsyncGenerator[Call, None]:
    with connect() as connection:

        async def call(seconds: float, answer: int) -> int:
            row = connection.execute(QUERY, (seconds, answer)).fetchone()
            assert row is not None
            return row[0]

        yield call


@asynccontextmanager
async def on_offloop(count: int) -> AsyncGenerator[Call, None]:
    async with workers(count) as pool:
        yield functools.partial(pool.run, answer_after)


@asynccontextmanager
async def by_psycopg(count: int) -> AsyncGenerator[Call, None]:
    """psycopg's own async interface, with the same number of connections."""
    idle: asyncio.Queue[psycopg.AsyncConnection[tuple[int]]] = asyncio.Queue()
    for _ in range(count):
        idle.put_nowait(await psycopg.AsyncConnection.connect(URL, autocommit=True))

    async def call(seconds: float, answer: int) -> int:
        connection = await idle.get()
        try:
            row = await (await connection.execute(QUERY, (seconds, answer))).fetchone()
        finally:
            idle.put_nowait(connection)
        assert row is not None
        return row[0]

    yield call
    while not idle.empty():
        await idle.get_nowait().close()


WAYS: dict[str, tuple[int, Callable[[], AbstractAsyncContextManager[Call]]]] = {
    "directly on the loop": (1, directly),
    "offloop, 8 threads": (8, functools.partial(on_offloop, 8)),
    "offloop, 32 threads": (32, functools.partial(on_offloop, 32)),
    "psycopg async, 32 connections": (32, functools.partial(by_psycopg, 32)),
}


async def compare() -> None:
    print(f"{CALLS} calls of {SECONDS * 1e3:.0f} ms                    took  loop late at worst")
    for title, (connections, way) in WAYS.items():
        async with way() as call, Heartbeat() as heart:

            async def many(count: int, seconds: float) -> list[int]:
                return await asyncio.gather(*(call(seconds, number) for number in range(count)))

            await many(connections, 0.1)  # opens the connections
            answers, (took, late) = await heart.measure(lambda: many(CALLS, SECONDS))
            assert answers == list(range(CALLS))
        print(f"{title:<30}{milliseconds(took):>13}{milliseconds(late):>20}", flush=True)


async def running(pool: offloop.ThreadPoolExecutor) -> int:
    """Returns the number of calls that run on the server."""

    def ask() -> int:
        with worker_connection() as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity where state = 'active' and query like %s",
                ("select answer_after(%",),
            ).fetchone()
        assert row is not None
        return row[0]

    return await pool.run(ask)


async def until_running(pool: offloop.ThreadPoolExecutor, count: int) -> str:
    while await running(pool) != count:
        await asyncio.sleep(0.01)
    return f"the server runs {count}"


async def end_calls() -> None:
    async with workers(2) as pool:
        print("\nCalls that take a minute")
        call = asyncio.ensure_future(pool.run(answer_after, 60, 1))
        print(f"  under way      {await until_running(pool, 1)}")
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            print(f"  cancelled      {await until_running(pool, 0)}")
        try:
            await pool.options(timeout=0.2).run(answer_after, 60, 1)
        except offloop.RunTimeout as error:
            print(f"  out of time    {await until_running(pool, 0)}: {error}")


async def restart(command: str) -> None:
    async with workers(2) as pool:
        print("\nThe server is restarted")
        call = asyncio.ensure_future(pool.run(answer_after, 60, 1))
        await until_running(pool, 1)
        process = await asyncio.create_subprocess_shell(
            command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0
        try:
            await call
        except psycopg.OperationalError as error:
            print(f"  under way      {type(error).__name__}: {str(error).splitlines()[0]}")
        answers = await asyncio.gather(*(pool.run(answer_after, 0.01, n) for n in range(10)))
        assert answers == list(range(10))
        print("  from then on   all calls are answered")


async def main() -> None:
    with connect() as connection:
        connection.execute(FUNCTION)
    await compare()
    await end_calls()
    if command := os.environ.get("OFFLOOP_POSTGRES_RESTART"):
        await restart(command)


if __name__ == "__main__":
    if not URL:
        sys.exit(
            "postgres: OFFLOOP_POSTGRES_URL is not set: it names the server, as postgresql://user@host:port/db"
        )
    asyncio.run(main())

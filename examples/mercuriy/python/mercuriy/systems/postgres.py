"""PostgreSQL: psycopg's blocking interface, and its async one beside it."""

from __future__ import annotations

import asyncio
import select
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from . import FunctionFailed, SystemDown

_LOCK = 7_360_201
"""Guards the creation of the functions, because the server fails if two clients do that at once."""

_FUNCTIONS = """
    create schema if not exists mercuriy;
    create or replace function mercuriy.echo(x jsonb) returns jsonb as 'select x' language sql;
    create or replace function mercuriy.add(a bigint, b bigint) returns bigint as 'select a + b' language sql;
    create or replace function mercuriy.big(n int) returns text as 'select repeat(''x'', n)' language sql;
    create or replace function mercuriy.running() returns bigint language sql as $$
        select count(*) from pg_stat_activity
        where application_name = 'mercuriy' and state = 'active' and query like 'select mercuriy.slow(%'
    $$;
    create or replace function mercuriy.fail(message text) returns int language plpgsql as $$
        begin raise exception '%', message; end
    $$;
    create or replace function mercuriy.slow(ms int) returns int language plpgsql as $$
        begin perform pg_sleep(ms / 1000.0); return ms; end
    $$
"""
_CALLS = {
    "echo": "select mercuriy.echo(%s)",
    "add": "select mercuriy.add(%s::bigint, %s::bigint)",
    "slow": "select mercuriy.slow(%s::int)",
    "fail": "select mercuriy.fail(%s::text)",
    "big": "select mercuriy.big(%s::int)",
    "running": "select mercuriy.running()",
}
_OPTIONS: dict[str, Any] = {"autocommit": True, "connect_timeout": 3, "application_name": "mercuriy"}


class Connection:
    def __init__(self, address: str) -> None:
        try:
            self._connection = psycopg.connect(address, **_OPTIONS)
            if self._value("select to_regprocedure('mercuriy.slow(int)') is null"):
                with self._connection.transaction():
                    self._connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
                    self._connection.execute(_FUNCTIONS)
        except psycopg.OperationalError as error:
            raise SystemDown(_first_line(error)) from error

    def call(self, function: str, args: list[Any], message: str | None) -> Any:
        try:
            return self._value(_CALLS[function], _sent(function, args))
        except psycopg.Error as error:
            raise _translated(error) from error

    def _value(self, query: str, args: list[Any] | None = None) -> Any:
        row = self._connection.execute(query, args).fetchone()
        assert row is not None
        return row[0]

    def cancel(self) -> None:
        """Asks the server to cancel the query. The connection can be used again."""
        self._connection.cancel_safe(timeout=3)

    @property
    def is_broken(self) -> bool:
        if self._connection.closed:
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        # Between two queries the server says something only when it closes the connection.
        return bool(poll.poll(0))

    def close(self) -> None:
        self._connection.close()


class AsyncConnector:
    """psycopg's async interface, with a connection for each call that runs."""

    def __init__(self, address: str, connections: int) -> None:
        self._address = address
        self._room = asyncio.Semaphore(connections)
        self._idle: list[psycopg.AsyncConnection[Any]] = []

    async def call(self, function: str, args: list[Any]) -> Any:
        async with self._room:
            connection = await self._take()
            try:
                cursor = await connection.execute(_CALLS[function], _sent(function, args))
                row = await cursor.fetchone()
            except asyncio.CancelledError:
                # psycopg has cancelled the query on the server.
                await connection.close()
                raise
            except psycopg.Error as error:
                if not connection.closed:
                    self._idle.append(connection)
                raise _translated(error) from error
            self._idle.append(connection)
            assert row is not None
            return row[0]

    async def _take(self) -> psycopg.AsyncConnection[Any]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        try:
            return await psycopg.AsyncConnection.connect(self._address, **_OPTIONS)
        except psycopg.OperationalError as error:
            raise SystemDown(_first_line(error)) from error

    async def aclose(self) -> None:
        for connection in self._idle:
            await connection.close()


def connect(address: str) -> Connection:
    return Connection(address)


def _sent(function: str, args: list[Any]) -> list[Any]:
    return [Jsonb(value) for value in args] if function == "echo" else args


def _translated(error: psycopg.Error) -> Exception:
    is_of_connection = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    # One that was cancelled is an OperationalError as well.
    if is_of_connection and not isinstance(error, psycopg.errors.QueryCanceled):
        return SystemDown(_first_line(error))
    return FunctionFailed(_first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

"""The guide's promises about a blocking driver, with psycopg and a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from servers import EXAMPLES, need, programs, restart, run_program, until

URL = need("PostgreSQL", "OFFLOOP_POSTGRES_URL")

import postgres  # noqa: E402
import psycopg  # noqa: E402

import offloop  # noqa: E402

NAME = os.environ.setdefault("OFFLOOP_TEST_NAME", f"offloop's tests {os.getpid()}")
"""The name under which the server lists the connections of these tests and of their worker processes."""


def connect() -> postgres.Connection:
    return psycopg.connect(URL, autocommit=True, application_name=NAME)


def connect_watched() -> postgres.Connection:
    """Makes the server check, while it runs a query, that the client is still connected."""
    return psycopg.connect(
        URL,
        autocommit=True,
        application_name=NAME,
        options="-c client_connection_check_interval=100",
    )


def pool(count: int) -> offloop.ThreadPoolExecutor:
    return offloop.ThreadPoolExecutor(
        count, worker_state=connect, close_worker_state=psycopg.Connection.close
    )


def run(query: str, *parameters: Any) -> Any:
    with postgres.worker_connection() as connection:
        row = connection.execute(query, parameters).fetchone()  # type: ignore[arg-type]
    return row and row[0]


async def ask(query: str, *parameters: Any) -> Any:
    """Runs a query on a connection of its own."""
    async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as connection:
        row = await (await connection.execute(query, parameters)).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row[0]


async def are_active(count: int) -> bool:
    active = (
        "select count(*) from pg_stat_activity where application_name = %s and state = 'active'"
    )
    return await ask(active, NAME) == count


async def are_connected(count: int) -> bool:
    query = "select count(*) from pg_stat_activity where application_name = %s"
    return await ask(query, NAME) == count


SLEEP = "select pg_sleep(1000)"


def test_a_worker_keeps_its_connection_and_closes_it_when_it_ends() -> None:
    async def main() -> None:
        async with pool(4) as workers:
            processes = await asyncio.gather(
                *(
                    workers.run(run, "select pg_backend_pid() from pg_sleep(0.01)")
                    for _ in range(40)
                )
            )
            assert await are_connected(len(set(processes)))
            assert 1 <= len(set(processes)) <= 4
        await until(lambda: are_connected(0))

    asyncio.run(main())


def test_the_loop_is_free_while_calls_are_blocked() -> None:
    """The calls wait for locks that only the loop can release."""

    async def main() -> None:
        lock = "select pg_advisory_lock_shared(77) is null"
        async with pool(8) as workers:
            async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as connection:
                await connection.execute("select pg_advisory_lock(77)")
                calls = [workers.run(run, lock) for _ in range(8)]
                await until(lambda: are_active(8))
                await connection.execute("select pg_advisory_unlock(77)")
                await asyncio.gather(*calls)

    asyncio.run(main())


def test_a_cancelled_query_ends_on_the_server() -> None:
    async def main() -> None:
        async with pool(1) as workers:
            process = await workers.run(run, "select pg_backend_pid()")
            call = asyncio.ensure_future(workers.run(run, SLEEP))
            await until(lambda: are_active(1))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: are_active(0))
            assert await workers.run(run, "select pg_backend_pid()") == process

    asyncio.run(main())


def test_a_query_that_is_out_of_time_ends_on_the_server() -> None:
    async def main() -> None:
        async with pool(1) as workers:
            with pytest.raises(offloop.RunTimeout):
                await workers.options(timeout=0.3).run(run, SLEEP)
            await until(lambda: are_active(0))
            assert await workers.run(run, "select 1") == 1

    asyncio.run(main())


def test_queries_end_on_the_server_when_their_pool_is_aborted() -> None:
    async def main() -> None:
        async def work() -> None:
            async with pool(3) as workers:
                await asyncio.gather(*(workers.run(run, SLEEP) for _ in range(3)))

        working = asyncio.create_task(work())
        await until(lambda: are_active(3))
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        await until(lambda: are_connected(0))

    asyncio.run(main())


def test_a_query_that_begins_after_its_cancel_was_sent_is_cancelled_again() -> None:
    sent, began = threading.Event(), threading.Event()

    def begin_late() -> None:
        connection: postgres.Connection = offloop.worker_state()

        def cancel() -> None:
            connection.cancel_safe()
            sent.set()

        with offloop.on_cancel(cancel, repeat=0.1):
            began.set()
            assert sent.wait(100)
            connection.execute(SLEEP)

    async def main() -> None:
        async with pool(1) as workers:
            call = workers.run(begin_late)
            await asyncio.to_thread(began.wait)
            call.cancel()
            assert await workers.run(run, "select 1") == 1

    asyncio.run(main())


def test_a_cancel_does_not_hit_the_next_query_of_its_connection() -> None:
    async def main() -> None:
        async with pool(1) as workers:
            for _ in range(100):
                # It ends at about the time when it is cancelled.
                call = workers.run(run, "select pg_sleep(0.005)")
                await asyncio.sleep(0.005)
                call.cancel()
                assert await workers.run(run, "select 1 from pg_sleep(0.002)") == 1

    asyncio.run(main())


def test_a_cancelled_transaction_leaves_nothing() -> None:
    def note() -> None:
        with postgres.worker_connection() as connection, connection.transaction():
            connection.execute("insert into offloop_notes values (1)")
            connection.execute(SLEEP)

    async def main() -> None:
        async with pool(1) as workers:
            call = asyncio.ensure_future(workers.run(note))
            await until(lambda: are_active(1))
            call.cancel()
            assert await workers.run(run, "select count(*) from offloop_notes") == 0

    with connect() as connection:
        connection.execute("drop table if exists offloop_notes")
        connection.execute("create table offloop_notes (note int)")
        asyncio.run(main())
        connection.execute("drop table offloop_notes")


def test_a_query_of_a_killed_process_ends_on_the_server() -> None:
    async def main() -> None:
        async with offloop.ProcessPoolExecutor(1, worker_state=connect_watched) as workers:
            call = asyncio.ensure_future(workers.run(run, SLEEP))
            await until(lambda: are_active(1))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: are_active(0))
            assert await workers.run(run, "select 1") == 1

    asyncio.run(main())


def test_workers_reconnect_after_the_server_was_restarted() -> None:
    async def main() -> None:
        async with pool(4) as workers:
            calls = [asyncio.ensure_future(workers.run(run, SLEEP)) for _ in range(3)]
            # One worker is idle, and notices the restart when it is used.
            await workers.run(run, "select 1")
            await until(lambda: are_active(3))
            await asyncio.to_thread(restart, "PostgreSQL", "OFFLOOP_POSTGRES_RESTART")
            for call in calls:
                with pytest.raises(psycopg.OperationalError):
                    await call
            answers = await asyncio.gather(
                *(workers.run(run, "select %s::int from pg_sleep(0.01)", n) for n in range(20))
            )
            assert answers == list(range(20))

    asyncio.run(main())


@pytest.mark.parametrize("code", programs("OFFLOOP_POSTGRES_URL"))
def test_a_program_of_the_guide_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(code)
    run_program(script)


def test_the_example_shows_all_ways() -> None:
    heading, *lines = run_program(EXAMPLES / "postgres.py")
    assert heading.startswith("200 calls of 50 ms")
    directly, *others = lines[:4]
    took, late = (float(word) for word in directly.split()[-4::2])
    assert late > 0.9 * took > 9000
    assert all(float(row.split()[-2]) < late / 2 for row in others)
    shown = [line.strip() for line in lines]
    assert "cancelled      the server runs 0" in shown
    assert any(line.startswith("out of time    the server runs 0: ") for line in shown)
    if os.environ.get("OFFLOOP_POSTGRES_RESTART"):
        assert shown[-1] == "from then on   all calls are answered"

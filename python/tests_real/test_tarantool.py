"""The guide's promises about a blocking connector, with Tarantool's synchronous one and a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from servers import EXAMPLES, need, programs, restart, run_program, until

need("Tarantool", "OFFLOOP_TARANTOOL_URL")

import tarantool_calls  # noqa: E402

import offloop  # noqa: E402


def pool(count: int) -> offloop.ThreadPoolExecutor:
    return offloop.ThreadPoolExecutor(
        count,
        worker_state=tarantool_calls.connect,
        close_worker_state=tarantool_calls.Connection.close,
    )


async def are_running(count: int) -> bool:
    """Asks the server through the other connector."""
    async with tarantool_calls.by_asynctnt() as call:
        return bool(await call("running") == count)


def connections() -> int:
    connection: tarantool_calls.Connection = offloop.worker_state()
    current = connection.eval("return box.stat.net().CONNECTIONS.current")
    return int(current[0])


def test_both_connectors_answer_the_same() -> None:
    async def main() -> None:
        async def answers(call: tarantool_calls.Call) -> list[Any]:
            return await asyncio.gather(*(call("slow", 0.01, value) for value in range(100)))

        async with tarantool_calls.on_offloop(8) as ours, tarantool_calls.by_asynctnt() as theirs:
            assert await answers(ours) == await answers(theirs) == list(range(100))

    asyncio.run(main())


def test_a_worker_keeps_its_connection_and_closes_it_when_it_ends() -> None:
    async def main() -> None:
        async with pool(1) as watching:
            before = await watching.run(connections)
            async with pool(4) as workers:
                calls = [workers.run(tarantool_calls.call, "slow", 0.2, n) for n in range(4)]
                await asyncio.gather(*calls)
                await asyncio.gather(
                    *(workers.run(tarantool_calls.call, "quick", 1) for _ in range(40))
                )
                assert await watching.run(connections) == before + 4

            async def are_closed() -> bool:
                return await watching.run(connections) == before

            await until(are_closed)

    asyncio.run(main())


def test_a_cancelled_call_ends_on_the_server_and_frees_its_worker() -> None:
    async def main() -> None:
        async with pool(1) as workers:
            call = asyncio.ensure_future(workers.run(tarantool_calls.call, "slow", 1000, 1))
            await until(lambda: are_running(1))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await workers.run(tarantool_calls.call, "quick", 1) == 2
            await until(lambda: are_running(0))

    asyncio.run(main())


def test_a_call_that_is_out_of_time_ends_on_the_server_and_frees_its_worker() -> None:
    async def main() -> None:
        async with pool(1) as workers:
            with pytest.raises(offloop.RunTimeout):
                await workers.options(timeout=0.3).run(tarantool_calls.call, "slow", 1000, 1)
            assert await workers.run(tarantool_calls.call, "quick", 1) == 2
            await until(lambda: are_running(0))

    asyncio.run(main())


def test_workers_reconnect_after_the_server_was_restarted() -> None:
    async def main() -> None:
        async with pool(4) as workers:
            calls = [
                asyncio.ensure_future(workers.run(tarantool_calls.call, "slow", 1000, n))
                for n in range(3)
            ]
            await workers.run(tarantool_calls.call, "quick", 1)
            await until(lambda: are_running(3))
            await asyncio.to_thread(restart, "Tarantool", "OFFLOOP_TARANTOOL_RESTART")
            for call in calls:
                with pytest.raises(tarantool_calls.tarantool.DatabaseError):
                    await call
            answers = await asyncio.gather(
                *(workers.run(tarantool_calls.call, "slow", 0.01, n) for n in range(20))
            )
            assert answers == list(range(20))

    asyncio.run(main())


@pytest.mark.parametrize("code", programs("OFFLOOP_TARANTOOL_URL"))
def test_a_program_of_the_guide_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(code)
    run_program(script)


def test_the_example_shows_all_ways_in_one_table() -> None:
    _, _, *rows, last = run_program(EXAMPLES / "tarantool_calls.py")
    assert [row[:24].strip() for row in rows] == list(tarantool_calls.WAYS)
    directly, *others = [float(row.split()[-9]) for row in rows]
    assert directly > 9000
    assert all(late < directly / 2 for late in others)
    assert last.startswith("lines of the connectors: tarantool ")

"""Typical uses, for the type checkers: the types of results are as asserted.

The file is not run. `mypy --strict` and `pyright` (strict) accept it. Because mypy refuses a `type: ignore` that
ignores nothing, each one here marks an error.
"""

import asyncio
import concurrent.futures
import os
from collections.abc import Iterator
from typing import assert_type

import offloop



def length(text: str, *, twice: bool = False) -> int:
    return len(text) * (2 if twice else 1)


def power(base: float, exponent: int) -> float:
    return base**exponent


def lines(count: int) -> Iterator[str]:
    yield from map(str, range(count))


class Connection:
    def ask(self, question: str) -> bytes:
        return question.encode()

    def close(self) -> None:
        pass


def submit(threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor) -> None:
    assert_type(threads.submit(length, "four"), offloop.Future[int])
    assert_type(processes.submit(length, "four", twice=True), offloop.Future[int])
    assert_type(processes.submit(length, "four").result(timeout=1), int)
    assert_type(processes.submit(Connection().ask, "why").result(), bytes)
    assert_type(threads.submit(lambda: length("four")).result(), int)

    # As in the standard library, arguments are checked.
    threads.submit(length, 4)  # type: ignore[arg-type]
    processes.submit(length, 4)  # type: ignore[arg-type]
    processes.submit(length, "four", thrice=True)  # type: ignore[call-arg]


def take_the_place(
    threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor
) -> None:
    """Code that is written for the standard executors and futures takes these."""
    standard_threads: concurrent.futures.ThreadPoolExecutor = threads
    executors: list[concurrent.futures.Executor] = [standard_threads, processes]
    for executor in executors:
        assert_type(executor.submit(length, "four"), concurrent.futures.Future[int])
    futures = [processes.submit(length, text) for text in ("a", "b")]
    for future in concurrent.futures.as_completed(futures):
        assert_type(future.result(), int)
    done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert_type(done.pop().result(), int)


def maps(threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor) -> None:
    assert_type(list(threads.map(length, ["a", "b"])), list[int])
    results = processes.map(power, [1.5, 2.5], [1, 2], chunksize=2, buffersize=10, ordered=False)
    assert_type(list(results), list[float])
    for item in processes.stream(lines, 3, buffersize=2):
        assert_type(item, str)


async def on_a_loop(
    threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor
) -> None:
    loop = asyncio.get_running_loop()
    offloop.install()
    offloop.install(offloop.ThreadPoolExecutor(8))
    assert_type(await loop.run_in_executor(None, length, "four"), int)
    assert_type(await loop.run_in_executor(threads, length, "four"), int)
    assert_type(await loop.run_in_executor(processes, length, "four"), int)

    assert_type(await threads.run(length, "four", twice=True), int)
    assert_type(await processes.run(length, "four", timeout=1, priority=3), int)
    assert_type(await processes.run(length, "four", queue_timeout=0.5), int)
    assert_type(await offloop.run(os.getcwd), str)
    assert_type(await offloop.run_cpu(power, 2.0, 3, timeout=None), float)

    assert_type(await offloop.auto(length, "four", twice=True, timeout=1), int)
    assert_type(offloop.auto.explain(length), offloop.Placement)
    offloop.auto.pin(length, "moon")  # type: ignore[arg-type]

    job = processes.run(length, "four")
    future: asyncio.Future[int] = job
    assert_type(job.cancel(), bool)
    both = await asyncio.gather(future, processes.run(power, 2.0, exponent=3))
    assert_type(both, tuple[int, float])
    assert_type(await asyncio.wait_for(processes.run(length, "four"), 1), int)

    async for item in processes.map(length, ["a"]):
        assert_type(item, int)
    async for line in processes.stream(lines, 3):
        assert_type(line, str)
    async with processes.stream(lines, 3) as stream:
        assert_type([line async for line in stream], list[str])


async def managers() -> None:
    with offloop.ThreadPoolExecutor(2, "name", print, ("hello",)) as threads:
        assert_type(threads, offloop.ThreadPoolExecutor)
    async with offloop.ThreadPoolExecutor(
        on_full="shed_oldest", worker_state=Connection, close_worker_state=Connection.close
    ) as threads:
        assert_type(threads, offloop.ThreadPoolExecutor)
    async with offloop.ProcessPoolExecutor(
        2, preload=["json"], on_crash="break", max_rss=1 << 30, env={"LANG": "C"}
    ) as processes:
        assert_type(processes, offloop.ProcessPoolExecutor)

    offloop.ThreadPoolExecutor(on_full="never")  # type: ignore[arg-type]
    offloop.ProcessPoolExecutor(on_crash="restart")  # type: ignore[arg-type]
    offloop.ProcesPoolExecutor()  # type: ignore[attr-defined]


def errors(future: offloop.Future[int]) -> None:
    try:
        future.result()
    except offloop.WorkerDied as died:
        assert_type(died.pid, int)
        assert_type(died.exitcode, int | None)
        assert_type(died.stderr, str)
    except (offloop.RunTimeout, offloop.QueueTimeout) as late:
        timeout: TimeoutError = late
        raise timeout from None


def in_a_job() -> bytes | None:
    offloop.check_cancelled()
    if offloop.is_cancelled():
        return None
    connection: Connection = offloop.worker_state()
    try:
        with offloop.on_cancel(connection.close, repeat=1):
            return connection.ask("why")
    except OSError:
        offloop.discard_worker_state()
        raise

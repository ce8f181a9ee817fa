"""Typical uses, for the type checkers: the types of results are as asserted.

The file is not run. `mypy --strict` and `pyright` (strict) accept it. Both refuse a comment that ignores nothing
(pyright by the setting below), so each one marks a call that both must refuse.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
import concurrent.futures
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, assert_type

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

    limited: concurrent.futures.Executor = threads.options(timeout=1)
    assert_type(limited.submit(length, "four").result(), int)
    assert_type(threads.options(timeout=1).submit(length, "four").result(), int)


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
    assert_type(list(threads.options(timeout=1).map(length, ["a"])), list[int])
    for item in processes.options(buffersize=2).stream(lines, 3):
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
    assert_type(await processes.options(timeout=1, priority=3).run(length, "four"), int)
    assert_type(await processes.options(queue_timeout=0.5).run(length, "four"), int)
    assert_type(await offloop.run(os.getcwd), str)
    assert_type(await offloop.run_cpu(power, 2.0, exponent=3), float)
    assert_type(await offloop.options(timeout=1).run(length, "four", twice=True), int)
    assert_type(await offloop.options(retries=1, name="powers").run_cpu(power, 2.0, 3), float)

    assert_type(await offloop.auto(length, "four", twice=True), int)
    assert_type(await offloop.auto.options(timeout=1)(length, "four", twice=True), int)
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


async def asynchronous(text: str) -> int:
    return len(text)


async def generator(text: str) -> AsyncGenerator[str, None]:
    yield text


def wrong_submissions(
    threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor
) -> None:
    threads.submit(length, 4)  # type: ignore[call-overload]
    threads.submit(length)  # type: ignore[call-overload]
    processes.submit(length, 4)  # type: ignore[call-overload]
    processes.submit(length, "four", thrice=True)  # type: ignore[call-arg,arg-type]
    processes.submit(length, "four", timeout=5)  # type: ignore[call-arg,arg-type]
    processes.stream(lines, "three")  # type: ignore[arg-type]
    processes.stream(asynchronous, "three")  # type: ignore[arg-type]
    processes.options(timeout=5).stream(lines)  # type: ignore[call-arg]
    threads.options(timeout=5).submit(length, 4)  # type: ignore[call-overload]
    threads.options(timeout="5")  # type: ignore[arg-type]
    threads.options(limit=5)  # type: ignore[call-arg]
    threads.submit(asynchronous, "four").result()  # type: ignore[attr-defined]
    processes.submit(asynchronous, "four").result()  # type: ignore[attr-defined]
    processes.options(timeout=5).submit(asynchronous, "four").result()  # type: ignore[attr-defined]


async def wrong_calls(
    threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor
) -> None:
    await offloop.run(length, 4)  # type: ignore[call-overload]
    await offloop.run(power, "wrong", 3)  # type: ignore[call-overload]
    await offloop.run(length)  # type: ignore[call-overload]
    await offloop.run(length, "four", timeout=5)  # type: ignore[call-arg,arg-type]
    await offloop.run_cpu(power, 2.0)  # type: ignore[call-overload]
    await offloop.auto(length, 4)  # type: ignore[call-overload]
    await threads.run(length)  # type: ignore[call-overload]
    await processes.run(length, "four", "five")  # type: ignore[call-overload]
    await offloop.options(timeout=5).run(length, 4)  # type: ignore[call-overload]
    await offloop.options(timeout=5).run_cpu(length, 4)  # type: ignore[call-overload]
    await threads.options(timeout=5).run(length)  # type: ignore[call-overload]
    await offloop.auto.options(timeout=5)(length, 4)  # type: ignore[call-overload]

    await offloop.run(asynchronous, "four")  # type: ignore[misc]
    await offloop.run_cpu(asynchronous, "four")  # type: ignore[misc]
    await offloop.auto(asynchronous, "four")  # type: ignore[misc]
    await threads.run(asynchronous, "four")  # type: ignore[misc]
    await processes.run(asynchronous, "four")  # type: ignore[misc]
    await offloop.options(timeout=5).run(asynchronous, "four")  # type: ignore[misc]
    await offloop.options(timeout=5).run_cpu(asynchronous, "four")  # type: ignore[misc]
    await threads.options(timeout=5).run(asynchronous, "four")  # type: ignore[misc]
    await offloop.auto.options(timeout=5)(asynchronous, "four")  # type: ignore[misc]
    await offloop.run(generator, "four")  # type: ignore[misc]
    await asyncio.gather(offloop.run(asynchronous, "four"))  # type: ignore[call-overload]
    await asyncio.wait_for(processes.run(asynchronous, "four"), 1)  # type: ignore[arg-type]


async def ends(
    threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor
) -> None:
    assert_type(threads.shutdown(drain=5), offloop.ShutdownReport)
    assert_type(processes.shutdown(drain=5).stuck, tuple[offloop.StuckJob, ...])
    assert_type(await processes.aclose(drain=5), offloop.ShutdownReport)
    processes.shutdown(timeout=5, kill_workers=True)
    processes.kill_workers()
    processes.resize(processes.max_workers + 1)
    threads.resize(threads.max_workers + 1)
    assert_type(list(threads.stream(lines, 3)), list[str])
    await threads.run(length, "four").accepted()
    threads.shutdown(drain=5, timeout=5)  # type: ignore[call-overload]
    threads.stream(lines, "three")  # type: ignore[arg-type]
    processes.resize("two")  # type: ignore[arg-type]


def looks() -> None:
    snapshot = offloop.observe()
    assert_type(snapshot, offloop.Snapshot)
    assert_type(snapshot["pools"][0]["jobs"][0]["request"], str | None)
    assert_type(snapshot["loops"][0]["late_now"], float)
    snapshot["pool"]  # type: ignore[typeddict-item]
    with offloop.serve_observe("service", http="127.0.0.1:0", token="t", allow_cancel=True) as server:
        assert_type(server.http_address, str | None)
    assert_type(offloop.request_id.get(), str | None)
    offloop.options(request=3)  # type: ignore[arg-type]


async def untyped(loads: Any, call: Callable[..., Any], callback: Callable[[int], Any]) -> None:
    """Functions whose result may be anything are not taken for async ones."""
    assert_type(await offloop.run(json.loads, "1"), Any)
    assert_type(await offloop.run(call, 1, a=2), Any)
    assert_type(await offloop.run(callback, 1), Any)
    await offloop.run(loads, "1")

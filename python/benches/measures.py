"""The measures of a turn. Each returns its results by name.

Times are as the event loop sees them: from the call to the line after `await`.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import jobs
from contenders import BARE, BARE_VIEW, Builder, Call, Kind, together

Results = dict[str, float]
Measure = Callable[[Builder, bool], Awaitable[Results]]

WORKERS = 2
MIB = 1 << 20
CORES = len(os.sched_getaffinity(0))
# Slow contenders repeat less often.
ENOUGH = 2.0
PATIENCE = 10.0

now = time.perf_counter


def repeated(times: int) -> Iterator[int]:
    """Counts to `times`, or ends after `ENOUGH` seconds."""
    begin = now()
    for number in range(times):
        yield number
        if now() - begin > ENOUGH:
            return


async def started(build: Builder, workers: int = WORKERS) -> Call:
    """Gives a pool whose workers have all run a job."""
    call = build(workers)
    await together(call, [(jobs.noop,)] * 50)
    return call


async def no_ops(build: Builder, quick: bool) -> Results:
    """Measures round trips one after another, in µs, and bursts, in jobs per second."""
    call = await started(build)
    results = await trips(lambda: call(jobs.noop), quick)
    return results | await bursts(lambda size: together(call, [(jobs.noop,)] * size), quick, 30, 5)


async def trips(trip: Callable[[], Awaitable[object]], quick: bool) -> Results:
    took = []
    for _ in repeated(100 if quick else 1000):
        begin = now()
        await trip()
        took.append(now() - begin)
    took.sort()
    return {
        "p50": took[len(took) // 2] * 1e6,
        "p99": took[min(len(took) * 99 // 100, len(took) - 1)] * 1e6,
    }


async def bursts(
    burst: Callable[[int], Awaitable[object]], quick: bool, of_32: int, of_1000: int
) -> Results:
    results = {}
    for size, times in ((32, of_32), (1000, of_1000)):
        rates = []
        for _ in repeated(1 if quick else times):
            begin = now()
            await burst(size)
            rates.append(size / (now() - begin))
        results[f"burst of {size}"] = statistics.median(rates)
    return results


async def payloads(build: Builder, quick: bool) -> Results:
    """Measures the round trip of one large argument or result, in ms."""
    call = await started(build)
    some_bytes = jobs.some_bytes
    results = await there_and_back(call, "1 MiB bytes", some_bytes, MIB, 1 if quick else 20)
    return results | await there_and_back(call, "64 MiB bytes", some_bytes, 64 * MIB, 1 if quick else 3)


async def arrays(build: Builder, quick: bool) -> Results:
    """Measures the same of an array of numpy, which not all workers can import."""
    call = await started(build)
    return await there_and_back(call, "64 MiB array", jobs.some_array, 64 * MIB, 1 if quick else 3)


async def there_and_back(
    call: Call, name: str, make: Callable[[int], Any], length: int, times: int
) -> Results:
    payload = make(length)
    pages = length // jobs.PAGE

    async def as_argument() -> None:
        assert await call(jobs.count_pages, payload) == pages

    async def as_result() -> None:
        assert jobs.count_pages(await call(make, length)) == pages

    results = {}
    for way, job, trip in (
        ("argument", (jobs.count_pages, payload), as_argument),
        ("result", (make, length), as_result),
    ):
        # After this, each worker has made its result, and memory to reuse exists.
        await together(call, [job] * WORKERS)
        seconds = []
        for _ in repeated(times):
            begin = now()
            await trip()
            seconds.append(now() - begin)
        results[f"{name} as {way}"] = statistics.median(seconds) * 1e3
    return results


def bare_copy(kind: Kind, quick: bool) -> Results:
    """Measures one copy of an array into memory that has been written to before, and the reading of it, in ms."""
    import numpy

    return copied(lambda shared: numpy.frombuffer(shared), quick)


def bare_view(kind: Kind, quick: bool) -> Results:
    """Measures the same where the copy is read through a private view, in which a reader may write, of its own."""
    import numpy

    def view(shared: mmap.mmap) -> Any:
        return numpy.frombuffer(mmap.mmap(file, len(shared), flags=mmap.MAP_PRIVATE))

    file = os.memfd_create("copies")
    return copied(view, quick, file)


def copied(view: Callable[[mmap.mmap], Any], quick: bool, file: int = -1) -> Results:
    import numpy

    payload = jobs.some_array(64 * MIB)
    if file >= 0:
        os.ftruncate(file, payload.nbytes)
    shared = mmap.mmap(file, payload.nbytes)
    target = numpy.frombuffer(shared)
    target[:] = 0
    pages = payload.nbytes // jobs.PAGE
    seconds = []
    for _ in repeated(1 if quick else 5):
        begin = now()
        numpy.copyto(target, payload)
        assert jobs.count_pages(view(shared)) == pages
        seconds.append(now() - begin)
    took = statistics.median(seconds) * 1e3
    return {f"64 MiB array as {way}": took for way in ("argument", "result")}


def bare_trips(kind: Kind, quick: bool) -> Results:
    """Measures round trips of a byte, through pipes, to a thread or a process that sends it back, in µs; and bursts of
    futures that a callback of the loop ends, without any call, per second."""
    there, back = os.pipe(), os.pipe()

    def send_back() -> None:
        while byte := os.read(there[0], 1):
            os.write(back[1], byte)

    if kind == "thread":
        threading.Thread(target=send_back, daemon=True).start()
    elif os.fork() == 0:
        os.close(there[1])
        send_back()
        os._exit(0)
    waiting: list[asyncio.Future[bytes]] = []

    async def trip() -> None:
        waiting.append(asyncio.get_running_loop().create_future())
        os.write(there[1], b"x")
        await waiting[-1]

    def take() -> None:
        waiting.pop().set_result(os.read(back[0], 1))

    async def burst(size: int) -> None:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(size)]

        def end() -> None:
            for future in futures:
                future.set_result(None)

        loop.call_soon(end)
        await asyncio.gather(*futures)

    async def both() -> Results:
        asyncio.get_running_loop().add_reader(back[0], take)
        return await trips(trip, quick) | await bursts(burst, quick, 300, 50)

    return asyncio.run(both())


def bare_start(kind: Kind, quick: bool) -> Results:
    """Measures the start and the end of an interpreter that does nothing, with the flags of a template, in ms."""
    begin = now()
    subprocess.run([sys.executable, "-P", "-c", "pass"], check=True)
    return {"first": (now() - begin) * 1e3}


async def life(build: Builder, quick: bool) -> Results:
    """Measures a pool of one worker: its first result (ms), its memory at rest (KiB), the loss of its worker (ms).

    A worker that is a part of this process has neither memory of its own nor an end of its own.
    """
    begin = now()
    call = build(1)
    worker = await call(jobs.process_id)
    first = now() - begin
    if worker == os.getpid():
        return {"first": first * 1e3}
    # The worker still goes from the job to its rest.
    await asyncio.sleep(0.1)
    memory = proportional_set_size(worker)
    os.kill(worker, signal.SIGKILL)
    begin = now()
    failures = 0
    while True:
        try:
            if await asyncio.wait_for(call(jobs.process_id), PATIENCE) != worker:
                break
        except Exception:
            failures += 1
            # The first failure may be that of the job that was lost with the worker; after a second one a
            # new pool is made.
            if failures > 1:
                call = build(1)
    recovery = "rebuilt" if failures > 1 else "recovery"
    return {"first": first * 1e3, "memory": memory, recovery: (now() - begin) * 1e3}


async def first_call(build: Builder, quick: bool) -> Results:
    """Measures the longest turn of the loop (in ms) between a program's first call, with the making of what the call needs,
    and its result; and the CPU time of the turn that computes longest."""
    loop = asyncio.get_running_loop()
    # Only the longest ones are kept: a list would grow, and the garbage collector would search it during a turn.
    elapsed = computing = 0.0
    last, last_cpu = now(), time.thread_time()
    is_over = False

    def turn() -> None:
        nonlocal elapsed, computing, last, last_cpu
        instant, cpu = now(), time.thread_time()
        elapsed, computing = max(elapsed, instant - last), max(computing, cpu - last_cpu)
        last, last_cpu = instant, cpu
        if not is_over:
            loop.call_soon(turn)

    turn()
    # The first turns of a loop take longer.
    await asyncio.sleep(0.05)
    elapsed = computing = 0.0
    await build(WORKERS)(jobs.noop)
    # The turn that has brought the result.
    await asyncio.sleep(0)
    is_over = True
    return {"longest turn": elapsed * 1e3, "longest turn, CPU time": computing * 1e3}


# The first pools need memory that the next ones use again.
FIRST_POOLS = 10
POOLS = 500


async def pools(build: Builder, quick: bool) -> Results:
    """Measures by how much the memory of the program (KiB) grows while many pools, each with one worker and one job, are
    made and shut down one after another."""

    async def make(number: int) -> float:
        for _ in range(number):
            await build(1)(jobs.noop)
            build.shut_down()
        return own_memory()

    before = await make(FIRST_POOLS)
    return {"growth": await make(10 if quick else POOLS) - before}


def proportional_set_size(process: int) -> float:
    """Returns a process's memory and its shares of what it has in common with others, in KiB."""
    return memory(process, "Pss:")


def own_memory() -> float:
    """Returns the memory that only this process has, in KiB: it does not change when others come and go."""
    return memory(os.getpid(), "Private_Dirty:")


def memory(process: int, kind: str) -> float:
    with open(f"/proc/{process}/smaps_rollup") as rollup:
        return next(float(line.split()[1]) for line in rollup if line.startswith(kind))


async def lateness(build: Builder, quick: bool) -> Results:
    """Measures the lateness of a timer of 1 ms (p99, in ms) while each core has a job that computes."""
    call = await started(build, CORES)
    loop = asyncio.get_running_loop()
    job = (jobs.compute, 0.3 if quick else 1.0)
    computing = asyncio.ensure_future(together(call, [job] * CORES))
    late = []
    while not computing.done():
        due = loop.time() + 0.001
        await asyncio.sleep(0.001)
        late.append(loop.time() - due)
    await computing
    late.sort()
    return {"p99": late[min(len(late) * 99 // 100, len(late) - 1)] * 1e3}


# What is possible without a pool, by contender, for the measures of the same names.
BARE_MEASURES: dict[str, dict[str, Callable[[Kind, bool], Results]]] = {
    BARE: {"no_ops": bare_trips, "arrays": bare_copy, "life": bare_start},
    BARE_VIEW: {"arrays": bare_view},
}

MEASURES: dict[str, Measure] = {
    "no_ops": no_ops,
    "payloads": payloads,
    "arrays": arrays,
    "life": life,
    "lateness": lateness,
    "first_call": first_call,
    "pools": pools,
}

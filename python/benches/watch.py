"""The CPU time that it costs to watch an event loop.

    python python/benches/watch.py              # six minutes; results to quote
    python python/benches/watch.py --quick      # some seconds; results that are only a smoke test

A result is the CPU time of all threads of the process over the time that passes, in percent of one
core. One process for each line: in it, watched and unwatched take turns of two seconds, so that
they differ in nothing else. What is printed is the median of the turns, and in brackets the median
of what each watched turn took more than the unwatched one of its round. The loop is idle, or has a
steady load: 20 callbacks each millisecond, each of which computes a little.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time

LOOPS = ("asyncio", "uvloop")
LOADS = ("idle", "loaded")
THRESHOLDS = (0.0, 0.1, 0.02)
"""Seconds; 0 is unwatched."""


def work() -> None:
    for _ in range(50):
        pass


async def load(until: float) -> None:
    """Works at the same rate however long a turn of the loop takes."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while due < until:
        due += 0.001
        for _ in range(20):
            loop.call_soon(work)
        await asyncio.sleep(due - loop.time())


async def share(kind: str, threshold: float, seconds: float) -> float:
    """Returns the share of a core that this process uses."""
    watch = None
    if threshold:
        import offloop

        watch = offloop.watch(threshold=threshold)
    await asyncio.sleep(seconds / 10)
    began, cpu = time.monotonic(), time.process_time()
    if kind == "idle":
        await asyncio.sleep(seconds)
    else:
        await load(asyncio.get_running_loop().time() + seconds)
    taken = (time.process_time() - cpu) / (time.monotonic() - began)
    if watch is not None:
        watch.stop()
    return taken


async def rounds(kind: str, count: int, seconds: float) -> list[list[float]]:
    """Returns for each round the shares, one for each of the thresholds."""
    return [[await share(kind, threshold, seconds) for threshold in THRESHOLDS] for _ in range(count)]


def measure(loop: str, kind: str, count: str, seconds: str) -> None:
    main = rounds(kind, int(count), float(seconds))
    if loop == "uvloop":
        import uvloop

        print(json.dumps(uvloop.run(main)))
    else:
        print(json.dumps(asyncio.run(main)))


def measured(loop: str, kind: str, count: int, seconds: float) -> list[list[float]]:
    words = [sys.executable, __file__, "--measure", loop, kind, str(count), str(seconds)]
    shares: list[list[float]] = json.loads(
        subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    return shares


def main() -> None:
    count, seconds = (1, 0.5) if "--quick" in sys.argv else (15, 2.0)
    watched = " | ".join(f"watched, {threshold * 1000:.0f} ms" for threshold in THRESHOLDS[1:])
    print(f"| loop | load | unwatched | {watched} |")
    print("| --- | --- " + "| ---: " * len(THRESHOLDS) + "|")
    for loop in LOOPS:
        for kind in LOADS:
            shares = measured(loop, kind, count, seconds)
            cells = []
            for turn in range(len(THRESHOLDS)):
                taken = statistics.median(row[turn] for row in shares)
                more = statistics.median(row[turn] - row[0] for row in shares)
                cells.append(f"{taken:.2%} ({more:+.2%})" if turn else f"{taken:.2%}")
            print(f"| {loop} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure(*sys.argv[sys.argv.index("--measure") + 1 :])
    else:
        main()

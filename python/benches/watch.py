"""What it costs to watch an event loop, in CPU time.

    python python/benches/watch.py              # two minutes; figures to quote
    python python/benches/watch.py --quick      # some seconds; figures to distrust

Each figure is that of a process of its own: the CPU time of all its threads over the time that
passes, in percent of one core. Watched and unwatched take turns, and what is printed is the least
of the rounds: what else the machine does only ever adds to it. The loop is idle, or has a steady
load: 20 callbacks each millisecond, each of which computes a little.
"""

from __future__ import annotations

import asyncio
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
    """Works at the same pace however long a turn of the loop takes."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while due < until:
        due += 0.001
        for _ in range(20):
            loop.call_soon(work)
        await asyncio.sleep(due - loop.time())


async def measured(kind: str, threshold: float, seconds: float) -> float:
    """The share of a core that this process takes."""
    loop = asyncio.get_running_loop()
    watch = None
    if threshold:
        import offloop

        watch = offloop.watch(threshold=threshold)
    await asyncio.sleep(0.2)
    began, cpu = time.monotonic(), time.process_time()
    if kind == "idle":
        await asyncio.sleep(seconds)
    else:
        await load(loop.time() + seconds)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    if watch is not None:
        watch.stop()
    return share


def turn(loop: str, kind: str, threshold: str, seconds: str) -> None:
    main = measured(kind, float(threshold), float(seconds))
    if loop == "uvloop":
        import uvloop

        print(uvloop.run(main))
    else:
        print(asyncio.run(main))


def taken(loop: str, kind: str, threshold: float, seconds: float) -> float:
    words = [sys.executable, __file__, "--turn", loop, kind, str(threshold), str(seconds)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    quick = "--quick" in sys.argv
    rounds, seconds = (1, 0.5) if quick else (5, 2.0)
    watched = " | ".join(f"watched, {threshold * 1000:.0f} ms" for threshold in THRESHOLDS[1:])
    print(f"| loop | load | unwatched | {watched} |")
    print("| --- | --- " + "| ---: " * len(THRESHOLDS) + "|")
    for loop in LOOPS:
        for kind in LOADS:
            shares: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
            for _ in range(rounds):
                for threshold in THRESHOLDS:
                    shares[threshold].append(taken(loop, kind, threshold, seconds))
            base, *others = (min(shares[threshold]) for threshold in THRESHOLDS)
            cells = [f"{base:.2%}", *(f"{share:.2%} ({share - base:+.2%})" for share in others)]
            print(f"| {loop} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if "--turn" in sys.argv:
        turn(*sys.argv[sys.argv.index("--turn") + 1 :])
    else:
        main()

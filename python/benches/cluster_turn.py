"""One turn of a contender in Python: what is measured. Times are in seconds, rates a second, memory in KiB."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cluster_contenders import Contender
from processes import adopt_orphans, descendants, is_alive, memory

BURST = 1000
PAYLOAD = 64 << 20
# How long a job that was cancelled is watched. After that it counts as one that never ends.
PATIENCE = 10.0


def take(contender: Contender, quick: bool) -> dict[str, float]:
    adopt_orphans()
    results: dict[str, float] = {}
    # Imports that programs make at their start.
    contender.load()
    results["first"] = timed(contender.start)
    if not quick:
        # What the first job has left to do is done.
        time.sleep(3)
        results["memory"] = memory(descendants())
    for _ in range(20):
        contender.trip()
    times = [timed(contender.trip) for _ in range(20 if quick else 300)]
    results["trip"] = statistics.median(times)
    contender.burst(100)
    bursts = [timed(lambda: contender.burst(BURST)) for _ in range(1 if quick else 3)]
    results["burst"] = BURST / statistics.median(bursts)
    data = bytes([0xA5]) * (PAYLOAD // 64 if quick else PAYLOAD)
    if contender.echo is not None:
        echo = contender.echo
        assert len(echo(data)) == len(data)
        results["payload"] = statistics.median(timed(lambda: echo(data)) for _ in range(3))
    if contender.stay is not None:
        results["cancel"] = cancelled(contender.stay)
    return results


def cancelled(stay: Callable[[str], Callable[[], None]]) -> float:
    """Returns the time from a cancel until the job's process is dead."""
    file = Path(tempfile.gettempdir(), f"starts-{os.getpid()}")
    cancel = stay(str(file))
    begun = time.monotonic()
    while not file.exists() or not file.read_text().endswith("\n"):
        if time.monotonic() > begun + 60:
            raise RuntimeError("the job that is to be cancelled has not started")
        time.sleep(0.001)
    pid = int(file.read_text().split()[0])
    begun = time.perf_counter()
    cancel()
    while is_alive(pid):
        if time.perf_counter() > begun + PATIENCE:
            return float("inf")
        time.sleep(0.001)
    return time.perf_counter() - begun


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun

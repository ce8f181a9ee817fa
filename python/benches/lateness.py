"""The lateness of an event loop with a service's work on it, in threads, and with offloop.

    python python/benches/lateness.py [--quick] FILE.svg

Prints a table and draws FILE.svg. `cargo xtask bench lateness --write` puts both into the
documentation.

The same service three times, for ten seconds each, in an interpreter of its own: it parses JSON of
six megabytes and walks it, and it makes calls that wait. Beside them a heartbeat is due every 5 ms.
Each beat has its own lateness, those included that were due while the loop stood still, so a long
stall weighs as long as it lasts.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

BEAT = 0.005
"""Seconds."""
PARSE_EVERY, CALL_EVERY = 1.25, 0.25
"""Seconds."""
CALL = 0.05
"""Seconds that a call waits."""
JSON = 6_000_000
"""Bytes."""
FLOOR = 0.1
"""The plot begins at this number of milliseconds."""

Runner = Callable[..., Awaitable[Any]]


class Place(NamedTuple):
    """The place where the work is done, with its title and colour in the plot."""

    title: str
    color: str


PLACES = {
    "loop": Place("directly on the loop", "#d0453b"),
    "to_thread": Place("asyncio.to_thread, the standard library's threads", "#b97a00"),
    "offloop": Place("offloop: run for calls that wait, run_cpu for calls that compute", "#23915c"),
}
INK = "#7b8089"
"""A grey that can be read on white and on black."""


def made_up(length: int) -> bytes:
    """Returns a list of records as a service would get it."""
    record = {"name": "customer", "address": {"geo": {"lat": 1.5, "lon": 2.5}}, "tags": ["a", "b"]}
    one = json.dumps(record).encode()
    return b"[" + b",".join([one] * (length // len(one))) + b"]"


def parse_and_walk(text: bytes) -> int:
    """Computes: returns the number of keys."""
    keys, ahead = 0, [json.loads(text)]
    while ahead:
        value = ahead.pop()
        if isinstance(value, dict):
            keys += len(value)
            ahead.extend(value.values())
        elif isinstance(value, list):
            ahead.extend(value)
    return keys


def call() -> None:
    """Waits, as a driver does for its server."""
    time.sleep(CALL)


async def on_the_loop(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def runners(place: str) -> tuple[Runner, Runner]:
    """Gives the functions that run calls that wait, and calls that compute."""
    if place == "loop":
        return on_the_loop, on_the_loop
    if place == "to_thread":
        return asyncio.to_thread, asyncio.to_thread
    import offloop

    return offloop.run, offloop.run_cpu


async def measure(place: str, seconds: float) -> list[float]:
    """Returns the lateness of each beat."""
    run, run_cpu = runners(place)
    text = made_up(JSON)
    # The first calls do work that happens only once, which is not measured here.
    await run(call)
    await run_cpu(parse_and_walk, text)

    begin = time.perf_counter() + 0.1
    end = begin + seconds

    async def every(interval: float, offset: float, runner: Runner, *job: Any) -> None:
        due = begin + offset
        while due < end:
            await asyncio.sleep(due - time.perf_counter())
            await runner(*job)
            due += interval

    async def beat() -> list[float]:
        late: list[float] = []
        while (due := begin + len(late) * BEAT) < end:
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            late.append(max(0.0, time.perf_counter() - due))
        return late

    beats, *_ = await asyncio.gather(
        beat(),
        every(PARSE_EVERY, 0.5, run_cpu, parse_and_walk, text),
        every(CALL_EVERY, 0.1, run, call),
    )
    return beats


def in_its_own_interpreter(place: str, seconds: float) -> list[float]:
    command = [sys.executable, __file__, "--place", place, "--seconds", str(seconds)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300).stdout
    # In milliseconds.
    return [1000 * late for late in json.loads(printed)]


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def table(lateness: dict[str, list[float]]) -> list[str]:
    rows = ["| the work is done | p50, ms | p99, ms | max, ms |", "| --- | ---: | ---: | ---: |"]
    for place, late in lateness.items():
        numbers = " | ".join(f"{quantile(late, share):.3g}" for share in (0.5, 0.99, 1))
        rows.append(f"| {PLACES[place].title} | {numbers} |")
    return rows


def draw(lateness: dict[str, list[float]], seconds: float, file: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same results make the same file; text stays text.
    matplotlib.rcParams.update({
        "svg.hashsalt": "lateness",
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans", "sans-serif"],
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    })
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, panels = pyplot.subplots(len(lateness), sharex=True, sharey=True, figsize=(8, 6))
    # A few beats are drawn as one point, the worst of them.
    together = max(1, round(seconds / 250 / BEAT))
    for axes, (place, late) in zip(panels, lateness.items(), strict=True):
        worst = [max(late[at : at + together]) for at in range(0, len(late), together)]
        edges = [at * together * BEAT for at in range(len(worst) + 1)]
        title, color = PLACES[place]
        label = f"{title}: p99 {quantile(late, 0.99):.3g} ms, max {max(late):.3g} ms"
        axes.stairs(worst, edges, baseline=FLOOR, fill=True, color=color, label=label)
        axes.set_yscale("log")
        axes.set_ylim(FLOOR, 2000)
        axes.set_xlim(0, seconds)
        axes.set_yticks([0.1, 1, 10, 100, 1000])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", color=INK, alpha=0.35, linewidth=0.6)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.012, 0.98), frameon=False, labelcolor=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[-1].set_xlabel("time, s")
    figure.supylabel("how late a heartbeat comes that is due every 5 ms")
    figure.tight_layout(h_pad=0.3)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # Hundredths of a pixel are enough, and halve the file.
    lines = re.sub(r"(\.\d\d)\d+", r"\1", drawn.getvalue()).splitlines()
    Path(file).write_text("".join(f"{line.rstrip()}\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", help="where the plot goes")
    parser.add_argument("--quick", action="store_true", help="for two seconds instead of ten")
    parser.add_argument("--place", choices=PLACES, help="measure there and print each beat")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.place is not None:
        print(json.dumps(asyncio.run(measure(arguments.place, arguments.seconds))))
        return
    seconds = 2.0 if arguments.quick else 10.0
    lateness = {place: in_its_own_interpreter(place, seconds) for place in PLACES}
    print("\n".join(table(lateness)))
    if arguments.file is not None:
        draw(lateness, seconds, arguments.file)


if __name__ == "__main__":  # worker processes import this file
    main()

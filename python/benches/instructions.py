"""The instructions that one call through offloop's Python executors takes: numbers that do not depend on the neighbours.

    cargo xtask instructions              # counts, and fails if a number has grown by more than 5 %
    cargo xtask instructions --write      # counts, and writes the numbers to keep beside this file

Valgrind counts, on one interpreter of one Debian release. Each path is run for a burst of calls on one worker: what the
caller executes until all calls are submitted, what it executes to take all results once they are there, and what the
worker executes. The library's function `getpgrp` stands at the borders, where Valgrind writes down what it has counted. Of
several rounds the least one counts, as now and then another thread has its turn.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import jobs

NUMBERS = Path(__file__).with_suffix(".toml")
TOLERANCE = 0.05
AGAIN = 2
"""The number of times that all is counted once more if a number has grown, or is to be kept."""
CALLS = 300
ROUNDS = 4
BORDER = os.getpgrp
"""Ends a section of the calling thread. A call of this function in a worker ends one there."""

Counts = dict[str, int]


def noop() -> None:
    pass


def settle(pool: Any) -> None:
    """Waits until the workers have done everything and sleep."""
    while (metrics := pool.metrics()).running or metrics.queued:
        time.sleep(0.01)
    time.sleep(0.1)


async def run_calls(pool: Any) -> None:
    """Makes calls through `run`, which are awaited on the loop."""
    await asyncio.gather(*[pool.run(jobs.noop) for _ in range(CALLS)])
    for _ in range(ROUNDS):
        settle(pool)
        BORDER()
        futures = [pool.run(jobs.noop) for _ in range(CALLS)]
        BORDER()
        settle(pool)
        BORDER()
        for future in reversed(futures):
            await future
        BORDER()
    for _ in range(ROUNDS):
        functions = [BORDER, *[jobs.noop] * CALLS, BORDER]
        await asyncio.gather(*[pool.run(function) for function in functions])


def submit_calls(pool: Any) -> None:
    """Makes calls through `submit`, whose results are waited for. The function is one of the main module."""
    for future in [pool.submit(noop) for _ in range(CALLS)]:
        future.result()
    for _ in range(ROUNDS):
        settle(pool)
        BORDER()
        futures = [pool.submit(noop) for _ in range(CALLS)]
        BORDER()
        settle(pool)
        BORDER()
        for future in reversed(futures):
            future.result()
        BORDER()
    for _ in range(ROUNDS):
        functions = [BORDER, *[noop] * CALLS, BORDER]
        for future in [pool.submit(function) for function in functions]:
            future.result()


WAYS = "run", "submit"
"""The ways in which calls are made, in the order of `execute`."""


def execute(kind: str, worker: str) -> None:
    """Makes the calls. `worker` is the program that a worker process is started as."""
    import offloop

    # Valgrind has little address space, of which memory for payloads then takes less.
    resource.setrlimit(resource.RLIMIT_AS, (1 << 37, 1 << 37))
    # The caller keeps the interpreter until it waits.
    sys.setswitchinterval(1000)
    # Whether a collection falls into a section depends on how many objects were made before it.
    gc.disable()
    pool: Any
    if kind == "threads":
        pool = offloop.ThreadPoolExecutor(1)
    else:
        if worker:
            multiprocessing.set_executable(worker)
        pool = offloop.ProcessPoolExecutor(1, start_timeout=600)
    asyncio.run(run_calls(pool))
    submit_calls(pool)
    pool.shutdown()
    # Otherwise the interpreter's end would be counted, for nothing.
    os._exit(0)


def sections(directory: str) -> tuple[list[int], list[int]]:
    """Returns the counts that Valgrind has written, in their order: for the first thread of a program, and for another
    thread or for a worker process, which is a fork of one."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for path in Path(directory).iterdir():
        # A file without a number of its own has what came after the last border.
        name = re.fullmatch(r"counts\.(\d+)\.(\d+)-(\d+)", path.name)
        summary = re.search(r"^(?:totals|summary): (\d+)", path.read_text(errors="replace"), re.MULTILINE)
        if name and summary:
            process, number, thread = map(int, name.groups())
            found.setdefault((process, thread), []).append((number, int(summary[1])))
    counted = {thread: [count for _, count in sorted(counts)] for (_, thread), counts in found.items()}
    others = [counts for thread, counts in counted.items() if thread != 1]
    return counted.get(1, []), others[0] if others else []


def count(kind: str, counts_worker: bool = False) -> tuple[list[int], list[int]]:
    """Runs the calls under Valgrind: the program, or its worker process."""
    with tempfile.TemporaryDirectory() as directory:
        valgrind = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--separate-threads=yes",
            f"--dump-before={BORDER.__name__}",
            f"--callgrind-out-file={directory}/counts.%p",
            sys.executable,
        ]
        command = valgrind
        worker = ""
        if counts_worker:
            command = [sys.executable]
            worker = f"{directory}/worker"
            Path(worker).write_text(f'#!/bin/sh\nexec {" ".join(valgrind)} "$@"\n')
            os.chmod(worker, 0o755)
        # One hash seed, so that dictionaries collide alike in each run.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run([*command, __file__, "--execute", kind, worker], check=True, env=environment)
        return sections(directory)


def count_all() -> Counts:
    """Counts each path. Returns the instructions for one call."""
    counts: Counts = {}
    for kind in ("threads", "processes"):
        caller, worker = count(kind)
        if kind == "processes":
            worker, _ = count(kind, counts_worker=True)
        for at, way in enumerate(WAYS):
            # Each round has its sections, and before these what lies between it and the round before, or the start.
            rounds = slice(at * ROUNDS, (at + 1) * ROUNDS)
            for name, part in ("submit", caller[1::4]), ("deliver", caller[3::4]), ("worker", worker[1::2]):
                counts[f"{kind}: {way}: {name}"] = min(part[rounds]) // CALLS
    return counts


def grown(before: Counts, now: Counts) -> list[str]:
    """Returns the paths that take more instructions than they may."""
    return [path for path, number in now.items() if number > before.get(path, number) * (1 + TOLERANCE)]


def main() -> None:
    if "--execute" in sys.argv:
        execute(*sys.argv[sys.argv.index("--execute") + 1 :])
        return
    before: Counts = tomllib.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    now = count_all()
    for _ in range(AGAIN):
        if "--write" not in sys.argv and not grown(before, now):
            break
        # A busy machine may have kept a thread waiting in every round, which costs instructions.
        again = count_all()
        now = {path: min(number, again[path]) for path, number in now.items()}
    for path, number in now.items():
        known = before.get(path, number)
        print(f"{path:28} {number:8}  {(number - known) / known:+.1%}")
    if "--write" in sys.argv:
        lines = "".join(f'"{path}" = {number}\n' for path, number in now.items())
        NUMBERS.write_text(f"# The instructions of one call. Written by `cargo xtask instructions --write`.\n{lines}")
    elif paths := grown(before, now):
        raise SystemExit(
            f"more than {TOLERANCE:.0%} more instructions than in {NUMBERS.name}: {', '.join(paths)}. If that is "
            "what a change costs that is worth it, write the new numbers: cargo xtask instructions --write"
        )


if __name__ == "__main__":
    main()

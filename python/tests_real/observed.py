"""A program whose alerts are tested: it serves its metrics, and does what the lines of its standard input say.

It prints the address of its live view first, which has the metrics, and a line for each thing that it has done.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import numpy

import offloop


def compute() -> None:
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass


async def use_everything(threads: offloop.ThreadPoolExecutor, processes: offloop.ProcessPoolExecutor) -> None:
    """Brings each metric about."""
    for _ in range(30):
        await threads.run(compute)
    await processes.run(numpy.sum, numpy.zeros(1 << 20))


async def main() -> None:
    offloop.watch(threshold=0.05)
    with (
        offloop.ThreadPoolExecutor(2, thread_name_prefix="files", activity="waits") as threads,
        offloop.ProcessPoolExecutor(1, name="documents") as processes,
        offloop.serve_observe(http="127.0.0.1:0") as server,
    ):
        await use_everything(threads, processes)
        print(server.http_address, flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if line == "worker":
                print(await processes.run(os.getpid), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

"""A program that the tests watch: it does what the lines of its standard input say.

Its first line of output is the address of its live view. After that it answers each line with one of its own. Its
arguments are the port to listen on, or 0, the name of its service, and the token that viewers need, if they do.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

import offloop

released = threading.Event()


def hold() -> str:
    """Waits until the program releases it, or until it is asked to stop."""
    while not released.wait(0.02):
        offloop.check_cancelled()
    return "released"


def walk_keys(seconds: float) -> None:
    time.sleep(seconds)


def die_with_last_words() -> None:
    print("the disk is on fire", file=sys.stderr, flush=True)
    os.abort()


def load_orders(seconds: float) -> None:
    """Blocks the loop that calls it."""
    time.sleep(seconds)


class Program:
    def __init__(self) -> None:
        self.threads = offloop.ThreadPoolExecutor(4, thread_name_prefix="files", queue_capacity=64)
        self.processes = offloop.ProcessPoolExecutor(2, name="documents", grace=0.1)
        self.jobs: list[Any] = []

    def put(self, job: Any) -> None:
        self.jobs.append(asyncio.ensure_future(job))

    async def do(self, command: str, *words: str) -> str:
        match command:
            case "hold":
                released.clear()
                name = " ".join(words) or "hold"
                self.put(self.threads.options(name=name, request="req-7").run(hold))
            case "release":
                released.set()
            case "walk":
                self.put(self.processes.options(timeout=600).run(walk_keys, float(words[0])))
            case "die":
                self.put(self.processes.run(die_with_last_words))
            case "load":
                released.set()
                for number in range(int(words[0])):
                    self.put(self.threads.run(time.sleep, 0.002 * (number % 5)))
                    self.put(self.processes.run(walk_keys, 0.001))
            case "stall":
                load_orders(float(words[0]))
            case "ended":
                ended, jobs = [job for job in self.jobs if job.done()], self.jobs
                self.jobs = [job for job in jobs if not job.done()]
                results = await asyncio.gather(*ended, return_exceptions=True)
                return " ".join(sorted({type(result).__name__ for result in results}))
            case _:
                raise ValueError(f"no command is called {command}")
        return "done"


def read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    """Passes lines on, an empty one at the end, also while the loop stands still."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(lines.put_nowait, line)
    loop.call_soon_threadsafe(lines.put_nowait, "")


async def main(port: str, service: str, token: str | None = None) -> None:
    program = Program()
    offloop.watch(threshold=0.1)
    with offloop.serve_observe(
        service=service, http=f"127.0.0.1:{port}", token=token, allow_cancel=True
    ) as server:
        await program.processes.run(int)
        print(f"http://{server.http_address}/", flush=True)
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()
        threading.Thread(target=read, args=(loop, lines), daemon=True).start()
        while line := await lines.get():
            print(await program.do(*line.split()), flush=True)
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Asks /health at its due times, in a process that does nothing else.

    python -m mercuriy.load.health URL RATE BEGIN SECONDS

BEGIN is a time of time.monotonic(), which all processes of a machine share. Prints the samples as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

from .client import Client
from .schedule import Sample, run


async def ask(url: str, rate: float, begin: float, seconds: float) -> list[Sample]:
    """Asks /health, and returns what became of it."""
    client = Client(url)

    async def send() -> int:
        return (await client.request("GET", "/health")).status

    samples = await run(rate, begin, seconds, send)
    client.close()
    return samples


async def ask_in_its_own_process(url: str, rate: float, begin: float, seconds: float) -> list[Sample]:
    """Asks /health from another process."""
    words = ["-m", "mercuriy.load.health", url, repr(rate), repr(begin), repr(seconds)]
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process that asks /health has failed: status {process.returncode}")
    return [Sample(*values) for values in json.loads(printed)]


if __name__ == "__main__":
    url, *numbers = sys.argv[1:]
    print(json.dumps(asyncio.run(ask(url, *map(float, numbers)))))

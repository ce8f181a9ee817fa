"""Four calls that freeze an event loop, and the watchdog's report of each.

python python/examples/watchdog.py
"""

import asyncio
import json
import re
import socket
import threading
import time

import offloop


async def handler_that_sleeps() -> None:
    time.sleep(0.5)


async def handler_that_parses(text: str) -> int:
    return len(json.loads(text))


def matches(text: str) -> bool:
    return re.fullmatch(r"(a|a)*b", text) is not None


async def handler_that_matches(text: str) -> bool:
    return matches(text)


async def handler_that_reads(connection: socket.socket) -> bytes:
    return connection.recv(100)


async def main() -> None:
    text = json.dumps([[{"key": ["value", 1.5, None]}] * 100] * 6000)
    ours, theirs = socket.socketpair()
    answer = threading.Timer(0.5, theirs.sendall, [b"an answer"])
    with ours, theirs, offloop.watch(on_stall=print, logger=None) as watch:
        await asyncio.sleep(0.2)
        await asyncio.create_task(handler_that_sleeps(), name="sleeps")
        await asyncio.sleep(0.2)
        await asyncio.create_task(handler_that_parses(text), name="parses")
        await asyncio.sleep(0.2)
        await asyncio.create_task(handler_that_matches("a" * 24), name="matches")
        await asyncio.sleep(0.2)
        answer.start()
        await asyncio.create_task(handler_that_reads(ours), name="reads")
        await asyncio.sleep(0.2)
    answer.join()
    print("\nin total:")
    for place in watch.stalls:
        print(f"  {place}")


if __name__ == "__main__":
    asyncio.run(main())

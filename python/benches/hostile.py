"""A program whose stacks are hard to read while it runs, sampled steadily: it must neither crash nor become slower.

    python python/benches/hostile.py [SECONDS]

Its threads make and end frames, generators, coroutines and threads, recurse deeply, compile functions that are freed at
once, raise through many frames, and switch between greenlets if that package is installed. Another thread reads their stacks in turn, ten times a second, more often than a
watch does of a loop that stands still. Rounds with and without it take turns of a second; the medians are compared.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from offloop._offloop import Stacks

try:
    greenlet: Any = importlib.import_module("greenlet")
except ImportError:
    greenlet = None

ROUND = 1.0


def recurses(levels: int) -> int:
    return 1 + recurses(levels - 1) if levels else 0


def generates(levels: int) -> Iterator[int]:
    if levels:
        yield from generates(levels - 1)
    yield levels


async def awaits(levels: int) -> None:
    if levels:
        await awaits(levels - 1)
    await asyncio.sleep(0)


class Thing:
    """Its end runs Python while a frame is cleared."""

    def __del__(self) -> None:
        len(repr(self))


def things() -> int:
    return len([Thing() for _ in range(20)])


def compiles(number: int) -> None:
    scope: dict[str, Any] = {}
    name = f"größe_{number}"
    exec(compile(f"def {name}(x):\n return [x for _ in range(9)]\n", f"<{name}>", "exec"), scope)
    sorted(scope[name](3), key=lambda one: -one)


def raises(levels: int) -> None:
    if not levels:
        raise LookupError
    raises(levels - 1)


def catches() -> None:
    try:
        raises(40)
    except LookupError as error:
        error.__traceback__ = None


def starts_threads() -> None:
    threads = [threading.Thread(target=recurses, args=(50,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def swapped(back: Any) -> None:
    """Runs in a greenlet, whose frames take the place of the thread's."""
    for _ in range(5):
        recurses(30)
        back.switch()


def swaps() -> None:
    if greenlet is None:
        return
    others = [greenlet.greenlet(swapped) for _ in range(3)]
    for _ in range(6):
        for other in others:
            other.switch(greenlet.getcurrent())


def works(number: int) -> None:
    recurses(400)
    swaps()
    sum(generates(60))
    set(map(lambda _: things(), range(3)))
    compiles(number)
    catches()
    if number % 20 == 0:
        starts_threads()
        asyncio.run(awaits(50))


class Sampler:
    """Reads the stacks of threads until it is stopped."""

    def __init__(self) -> None:
        self.stacks = Stacks()
        self.taken = 0
        self.missed = 0
        self._wanted: list[int] = []
        self.is_on = threading.Event()
        self.is_over = False
        self._thread = threading.Thread(target=self._sample)

    def start(self, threads: list[threading.Thread]) -> None:
        self._wanted = [thread.ident or 0 for thread in threads]
        self._thread.start()

    def stop(self) -> None:
        self.is_over = True
        self.is_on.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self.is_over:
            self.is_on.wait()
            frames = self.stacks.take(self._wanted[self.taken % len(self._wanted)])
            self.taken += 1
            if not frames:
                self.missed += 1
            else:
                assert frames[0].name in ("_bootstrap", "swapped"), frames[0].name
            time.sleep(0.1)


def main(seconds: float, write: Callable[[str], object] = print) -> None:
    turns = [0, 0]
    over = False

    def turn(at: int) -> None:
        number = 0
        while not over:
            number += 1
            works(number)
            turns[at] += 1

    sys.setswitchinterval(1e-3)
    threads = [threading.Thread(target=turn, args=(at,)) for at in range(len(turns))]
    for thread in threads:
        thread.start()
    sampler = Sampler()
    sampler.start(threads)
    rates: dict[bool, list[float]] = {False: [], True: []}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for sampled in (False, True):
            (sampler.is_on.set if sampled else sampler.is_on.clear)()
            before, began = sum(turns), time.process_time()
            time.sleep(ROUND)
            # By the time on a core: others may have the cores as well.
            rates[sampled].append((sum(turns) - before) / (time.process_time() - began))
    over = True
    sampler.stop()
    for thread in threads:
        thread.join()
    without, with_it = (statistics.median(rates[on]) for on in (False, True))
    write(
        f"{sum(turns)} turns in {seconds:g} s; {sampler.taken} stacks, {sampler.missed} of them not to be had; "
        f"turns a second of a core: {without:.1f} without, {with_it:.1f} sampled ({with_it / without - 1:+.2%})"
    )
    assert sampler.taken and sampler.missed < sampler.taken / 2


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 300.0)

"""Jobs that record when they begin and end, and what the record says of their pool."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from . import jobs


def _write(log: Path, event: str, number: int) -> None:
    # One system call, so lines of several processes do not mingle.
    with log.open("ab", buffering=0) as file:
        file.write(f"{event} {number} {os.getpid()}\n".encode())


def nap(log: Path, number: int, seconds: float = 0.01) -> int:
    """Records its begin, sleeps, and records its end: it runs at least as long as the record says."""
    _write(log, "begin", number)
    time.sleep(seconds)
    _write(log, "end", number)
    return number


def nap_or_crash(log: Path, number: int, every: int) -> int:
    """Naps, and then ends its process if its number is a multiple of `every`."""
    nap(log, number)
    if number % every == 0:
        os._exit(3)
    return number


def overrun(log: Path, number: int) -> NoReturn:
    """Never ends by itself, nor by SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _write(log, "begin", number)
    while True:
        time.sleep(60)


def items(log: Path, number: int, count: int) -> Iterator[int]:
    """Is a job until the last item has been sent."""
    _write(log, "begin", number)
    for item in range(count):
        time.sleep(0.002)
        yield item
    _write(log, "end", number)


class Record:
    """The begins and ends of a pool's jobs."""

    def __init__(self, log: Path) -> None:
        self.most_at_once = 0
        self.order: list[int] = []
        """The jobs as they began."""
        self.most_overtaken = 0
        """The largest number of jobs that had not begun when one with a larger number did."""
        self.processes: set[int] = set()
        running: dict[int, int] = {}
        for line in log.read_text().splitlines():
            event, number, process = line.split()
            if event == "begin":
                # A job that was killed has no end. The next one records which processes it found dead.
                running[int(number)] = int(process)
                self.order.append(int(number))
                self.processes.add(int(process))
                earlier = set(range(int(number))) - set(self.order)
                self.most_overtaken = max(self.most_overtaken, len(earlier))
            elif event == "end":
                del running[int(number)]
            else:
                running = {job: pid for job, pid in running.items() if pid != int(number)}
            self.most_at_once = max(self.most_at_once, len(running))


def nap_and_look(log: Path, number: int) -> int:
    """Records which processes of earlier jobs are gone, then naps."""
    for line in log.read_text().splitlines():
        _, _, process = line.split()
        if int(process) != os.getpid() and jobs.is_gone(int(process)):
            _write(log, "gone", int(process))
    return nap(log, number)

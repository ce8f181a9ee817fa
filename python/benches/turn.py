"""One turn: one contender, one measure, in an interpreter of its own.

So no contender's threads and timers disturb another's, nothing that one has started makes the next
one quicker, and one that hangs or breaks is reported and has harmed nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import measures
from contenders import CONTENDERS, Kind
from measures import Results

LIMIT = 30.0
# The measures that take longer.
LIMITS = {"no_ops": 60.0, "pools": 240.0}


class Failed(Exception):
    """A turn that has failed, with the reason."""


@dataclass(frozen=True)
class Turn:
    kind: Kind
    contender: str
    measure: str
    loop: str
    quick: bool

    @classmethod
    def from_words(cls, words: list[str]) -> Turn:
        kind, contender, measure, loop, effort = words
        return cls(
            "thread" if kind == "thread" else "process", contender, measure, loop, effort == "quick"
        )

    def words(self) -> list[str]:
        return [
            self.kind,
            self.contender,
            self.measure,
            self.loop,
            "quick" if self.quick else "full",
        ]


def take(turn: Turn) -> None:
    """Runs in the turn's own interpreter: measures, prints the results, and ends at once."""
    if turn.contender in measures.BARE_MEASURES:
        measure = measures.BARE_MEASURES[turn.contender][turn.measure]
        print(json.dumps(measure(turn.kind, turn.quick)), flush=True)
        os._exit(0)
    (contender,) = (it for it in CONTENDERS if (it.kind, it.name) == (turn.kind, turn.contender))
    if turn.loop == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    # Imports that programs make at their start, so that no measure counts them.
    build = contender.builder(of_first_call=turn.measure == "first_call")
    try:
        results = loop.run_until_complete(measures.MEASURES[turn.measure](build, turn.quick))
    except BaseException:
        # Its last line is the reason, which nothing that the interpreter says at its exit may follow.
        traceback.print_exc()
        os._exit(1)
    print(json.dumps(results), flush=True)
    os._exit(0)


def give(turn: Turn, packages: str | None = None) -> Results:
    """Starts an interpreter for the turn and returns its results. It finds modules in the folder `packages` first."""
    folder = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, folder, "--turn", *turn.words()]
    # Interpreters within the process do not know the folder of its program.
    paths = [folder] if packages is None else [packages, folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    limit = LIMITS.get(turn.measure, LIMIT)
    # Not pipes: workers that are left behind would keep them open.
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            command, env=environment, stdout=printed, stderr=said, start_new_session=True
        )
        try:
            status = child.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"no end within {limit:.0f} s") from None
        finally:
            # Kills the workers that it leaves behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        if status != 0:
            raise Failed((lines_of(said) or [f"status {status}"])[-1])
        results: Results = json.loads(lines_of(printed)[-1])
    return results


def lines_of(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().strip().splitlines()


@contextlib.contextmanager
def hogs() -> Iterator[None]:
    """Processes of normal priority that spin, one for each core but one."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(1, measures.CORES)
    ]
    try:
        yield
    finally:
        for hog in spinning:
            hog.kill()
            hog.wait()

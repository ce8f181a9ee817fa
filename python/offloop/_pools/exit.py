"""The pools' work at the interpreter's exit: accepted jobs are finished first."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import final

from .shutdown import ShutdownReport


class Kind(IntEnum):
    """The kinds of executors, in the order in which they are finished."""

    ELSEWHERE = 1
    """First, because the workers of an embedded cluster are process pools of this program."""
    PROCESSES = 2
    THREADS = 3


@final
class _ExitHandler:
    """Finishes the pools of all kinds before the interpreter is gone."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether the interpreter is exiting, so that pools take no more jobs. Set once, by `_run`."""
        self._finishers: dict[Kind, Callable[[float, bool], object]] = {}
        try:
            # Before the interpreter joins threads, as the standard pools do.
            threading._register_atexit(self._run)  # type: ignore[attr-defined] # pyright: ignore
        except AttributeError:
            atexit.register(self._run)

    def add(self, kind: Kind, finish: Callable[[float, bool], object]) -> None:
        """Calls `finish(begun, interrupted)` at the exit: the time when that began, and whether Ctrl-C is its reason."""
        self._finishers[kind] = finish

    def _run(self) -> None:
        self.has_begun = True
        begun = time.monotonic()
        interrupted = _ended_by_ctrl_c()
        for kind in sorted(self._finishers):
            self._finishers[kind](begun, interrupted)


def _ended_by_ctrl_c() -> bool:
    """Returns whether Ctrl-C ends the interpreter, so that it waits for no jobs. At a prompt Ctrl-C ends only a line."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")


exit_handler = _ExitHandler()


def drain_at_exit(
    drain: Callable[[float | None], ShutdownReport],
    limit: float | None,
    begun: float,
    interrupted: bool,
    killed: str,
) -> bool:
    """Finishes the accepted jobs of one pool at the exit, until `limit` seconds after `begun` (None: forever). Then ends
    the others, and says so; `killed` is the name of those that ran.

    After Ctrl-C it waits for none. Returns whether there was one, before or now.
    """
    left = None if limit is None else max(0.0, begun + limit - time.monotonic())
    try:
        report = drain(0.0 if interrupted else left)
    except KeyboardInterrupt:
        interrupted = True
        report = drain(0.0)
    if report.cancelled or report.killed:
        why = "after Ctrl-C" if interrupted else f"after {limit} s (exit_timeout)"
        print(
            f"offloop: the interpreter exits {why}: {killed}: {report.killed}, queued ones cancelled: {report.cancelled}.",
            file=sys.stderr,
        )
    return interrupted

"""The watchdog as users hold it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from . import hook
from .events import Signal
from .loops import WatchedLoop
from .report import Stall, StallSummary
from .settings import DEFAULT

__all__ = ["Watch", "watch"]

LOGGER = "offloop.watch"
"""The name of the logger that gets the reports, unless another is given."""


class Watch:
    """Watches event loops until it is stopped. Made by `offloop.watch`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        threshold: float = DEFAULT,
        on_stall: Callable[[Stall], object] | None = None,
        logger: logging.Logger | str | None = LOGGER,
        signal: Signal = "auto",
        stderr_after: float | None = 1.0,
    ) -> None:
        if not 0.001 <= threshold < 1e9:
            raise ValueError(f"threshold is {threshold}; it must be a number of seconds from 0.001 on")
        self.threshold = threshold
        self.on_stall = on_stall
        self.logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self.signal: Signal = signal
        self.stderr_after = stderr_after
        self.unseen = 0
        """The number of stalls that were over before they could be looked at. Increased by the loops."""
        self._lock = threading.Lock()
        self._loops: dict[int, WatchedLoop] = {}
        self._summaries: dict[tuple[str, int, str], StallSummary] = {}
        self._is_stopped = False
        _watches.add(self)
        if loop is not None:
            self.loop_begins(loop)

    @property
    def stalls(self) -> list[StallSummary]:
        """The stalls so far, by place, the longest in total first."""
        with self._lock:
            found = list(self._summaries.values())
        return sorted(found, key=lambda summary: (summary.total, summary.longest), reverse=True)

    def stop(self) -> None:
        """Ends the watch. Blocks until the stalls so far are reported, for at most two seconds.

        Does nothing if the watch was stopped before.
        """
        hook.remove(self)
        with self._lock:
            self._is_stopped = True
            loops = list(self._loops.values())
            self._loops.clear()
        for loop in loops:
            loop.end()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def loop_begins(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches this loop as well. Called by `hook`."""
        with self._lock:
            if self._is_stopped or id(loop) in self._loops:
                return
            watched = self._loops[id(loop)] = WatchedLoop(self, loop)
        watched.begin(loop)

    def loop_ends(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches this loop no longer. Called by `hook`."""
        with self._lock:
            watched = self._loops.pop(id(loop), None)
        if watched is not None:
            watched.end()

    def summary(self, file: str, line: int, function: str) -> StallSummary:
        """Returns the summary of a place. Called by `loops`."""
        with self._lock:
            return self._summaries.setdefault(
                (file, line, function.rpartition(".")[2]), StallSummary(file, line, function)
            )

    def report(self, stall: Stall) -> None:
        """Calls `on_stall` and logs the stall. Called by `loops`."""
        if self.on_stall is not None:
            try:
                self.on_stall(stall)
            except BaseException:  # even SystemExit, which would end the thread that reports
                (self.logger or logging.getLogger(LOGGER)).exception("on_stall has raised an exception:")
        if self.logger is not None:
            self.logger.warning("%s", stall, extra={"stall": stall})

    def forget(self) -> None:
        """Forgets the loops in a child made by fork(), which does not run them. Loops that it starts are watched."""
        self._lock = threading.Lock()
        self._loops = {}


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def _reset_in_child() -> None:
    for watch in list(_watches):
        watch.forget()


os.register_at_fork(after_in_child=_reset_in_child)


def watch(
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    threshold: float = DEFAULT,
    on_stall: Callable[[Stall], object] | None = None,
    logger: logging.Logger | str | None = LOGGER,
    signal: Signal = "auto",
    stderr_after: float | None = 1.0,
) -> Watch:
    """Reports an event loop that stands still, while it does: the place, and what to do about it.

        with offloop.watch(threshold=0.05):
            ...

    The watch begins at once, and ends with the block or with `stop()`. Its `stalls` are the stalls
    so far, by place.

    loop: the loop to watch. Without it, the loop that runs on this thread; if there is none, each
    loop that starts to run from now on, in any thread.

    threshold: the seconds by which the loop's next turn may be late. The loop wakes four times in
    each such period, for some microseconds, and never waits for the watch.

    on_stall: called with a `Stall`, on a thread of the watch; what it raises is logged. A place is
    reported when it is first seen, and then at its 2nd, 4th, 8th, ... stall. A long stall is
    reported again when it has become ten times as long.

    logger: the logger that gets the reports as warnings, with the `Stall` as the record's `stall`;
    None: they are not logged.

    signal: a call that keeps the interpreter to itself (a regular expression, `json.loads`) can be
    seen only with a signal, at which the loop's thread writes down its own stack. "auto" takes the
    highest real-time signal that has no handler, if this interpreter is one that may be interrupted
    so (CPython 3.10 to 3.13 on x86-64 and ARM64); None: no signal.

    stderr_after: the seconds after which a short report goes straight to standard error, if the
    interpreter cannot be had to report more; None: never.
    """
    if loop is None and (loop := asyncio._get_running_loop()) is None:
        watch = Watch(None, threshold, on_stall, logger, signal, stderr_after)
        hook.add(watch)
        for running in list(hook.running.values()):
            watch.loop_begins(running)
        return watch
    return Watch(loop, threshold, on_stall, logger, signal, stderr_after)

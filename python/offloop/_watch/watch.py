"""What users hold of the watchdog."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from . import hook
from .loops import WatchedLoop
from .report import Stall, StallSummary
from .start import DEFAULT
from .station import Signal

LOGGER = "offloop.watch"


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
            raise ValueError(f"threshold is {threshold}; it is seconds, 0.001 or more")
        self.threshold = threshold
        self.on_stall = on_stall
        self.logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self.signal: Signal = signal
        self.stderr_after = stderr_after
        self.unseen = 0
        """Stalls that were over before anybody could look."""
        self._lock = threading.Lock()
        self._loops: dict[int, WatchedLoop] = {}
        self._summaries: dict[tuple[str, int, str], StallSummary] = {}
        self._is_stopped = False
        _watches.add(self)
        if loop is not None:
            self.loop_begins(loop)

    @property
    def stalls(self) -> list[StallSummary]:
        """What there was, by place, the longest in all first."""
        with self._lock:
            found = list(self._summaries.values())
        return sorted(found, key=lambda summary: (summary.total, summary.longest), reverse=True)

    def stop(self) -> None:
        """Ends the watch. Blocks until what was noticed is reported, for two seconds at most.

        Does nothing if it was stopped before.
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
        """Watches this loop, too. For `hook`."""
        with self._lock:
            if self._is_stopped or id(loop) in self._loops:
                return
            watched = self._loops[id(loop)] = WatchedLoop(self, loop)
        watched.begin(loop)

    def loop_ends(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches this loop no longer. For `hook`."""
        with self._lock:
            watched = self._loops.pop(id(loop), None)
        if watched is not None:
            watched.end()

    def summary(self, file: str, line: int, function: str) -> StallSummary:
        """The summary of a place. For `loops`."""
        with self._lock:
            return self._summaries.setdefault(
                (file, line, function.rpartition(".")[2]), StallSummary(file, line, function)
            )

    def report(self, stall: Stall) -> None:
        """Tells everybody who is to be told. For `loops`."""
        if self.on_stall is not None:
            try:
                self.on_stall(stall)
            except BaseException:  # also SystemExit, which would end the thread that reports
                (self.logger or logging.getLogger(LOGGER)).exception("on_stall has raised")
        if self.logger is not None:
            self.logger.warning("%s", stall, extra={"stall": stall})

    def forget(self) -> None:
        """In a child made by fork(): nothing watches there; loops that it starts are watched."""
        self._lock = threading.Lock()
        self._loops = {}


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def _forget() -> None:
    for watch in list(_watches):
        watch.forget()


os.register_at_fork(after_in_child=_forget)


def watch(
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    threshold: float = DEFAULT,
    on_stall: Callable[[Stall], object] | None = None,
    logger: logging.Logger | str | None = LOGGER,
    signal: Signal = "auto",
    stderr_after: float | None = 1.0,
) -> Watch:
    """Reports when an event loop stands still, while it does: where, and what to do about it.

        with offloop.watch(threshold=0.05):
            ...

    The watch begins at once, and ends with the block or with `stop()`. Its `stalls` tell by place
    what there was.

    loop: which one. Without it the one that is running here, and if none is, each that starts to
    run from now on, in any thread.

    threshold: seconds that its next turn may be late. The loop wakes four times in each to say that
    it comes round, for some microseconds, and waits for nobody.

    on_stall: called with a `Stall`, on a thread of the watch; what it raises is logged. A place is
    reported when it is first seen, and then at its 2nd, 4th, 8th, ... stall; a long stall again
    when it is ten times as long.

    logger: where the reports go as warnings, with the `Stall` as the record's `stall`; None:
    nowhere.

    signal: a call that keeps the interpreter to itself (a regular expression, `json.loads`) can
    only be seen with a signal, at which the loop's thread writes its own stack down. "auto" takes
    the highest real-time signal that has no handler, if it is known how this interpreter may be
    interrupted (CPython 3.10 to 3.13, x86-64 and ARM64); None: no signal.

    stderr_after: seconds after which, if nothing can be reported as the interpreter is not to be
    had, a short report goes straight to the standard error; None: never.
    """
    if loop is None and (loop := asyncio._get_running_loop()) is None:
        watch = Watch(None, threshold, on_stall, logger, signal, stderr_after)
        hook.add(watch)
        for running in list(hook.running.values()):
            watch.loop_begins(running)
        return watch
    return Watch(loop, threshold, on_stall, logger, signal, stderr_after)

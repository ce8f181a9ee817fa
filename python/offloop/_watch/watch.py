"""The watchdog as users hold it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType

from . import hook
from .loops import WatchedLoop
from .report import Stall, StallSummary, Starvation
from .settings import DEFAULT

__all__ = ["Watch", "watch"]

LOGGER = "offloop.watch"
"""The name of the logger that gets the reports, unless another is given."""

_QUIET = 60.0
"""The seconds for which a place has no second line in the log."""


class _Lines:
    """The lines in the log about one place, and what has happened there since the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: float | None = None
        """The time of the last line."""
        self._unlogged = Starvation()

    def log(self) -> bool:
        """Returns whether there may be a line now, and records that there is one if so."""
        with self._lock:
            return self._log()

    def _log(self) -> bool:
        now = time.monotonic()
        may = self._last is None or now - self._last >= _QUIET
        if may:
            self._last = now
        return may

    def add(self, seconds: float) -> None:
        """Adds a time that has had no line."""
        with self._lock:
            self._unlogged.add(seconds)

    def take(self, is_last: bool) -> Starvation | None:
        """Returns what had no line, if there is any and a line about it is due: always if there will be no later one."""
        with self._lock:
            if not self._unlogged.count or not (is_last or self._log()):
                return None
            taken, self._unlogged = self._unlogged, Starvation()
            return taken


class Watch:
    """Watches event loops until it is stopped. Made by `offloop.watch`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        threshold: float = DEFAULT,
        on_stall: Callable[[Stall], object] | None = None,
        logger: logging.Logger | str | None = LOGGER,
        stderr_after: float | None = 1.0,
    ) -> None:
        if not 0.001 <= threshold < 1e9:
            raise ValueError(f"threshold is {threshold}; it must be a number of seconds from 0.001 on")
        self.threshold = threshold
        self.on_stall = on_stall
        self.logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self.stderr_after = stderr_after
        self.unseen = 0
        """The number of stalls for which no line is to blame: they were over before they could be looked at, or the loop
        has made many short calls in one turn. Increased by the loops."""
        self.starvation = Starvation()
        """The times at which a loop was late because its thread had no core. They are no stalls."""
        self._lock = threading.Lock()
        self._loops: dict[int, WatchedLoop] = {}
        self._summaries: dict[tuple[str, int, str], StallSummary] = {}
        self._lines: dict[str, _Lines] = {}
        """The lines in the log by their places; those about starvation have none."""
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
        for watched in loops:
            watched.end()
            if (loop := watched.loop) is not None:
                _watch_for_view(loop)
        self.summarize(is_last=True)

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
        if self is _for_view and _is_watched(loop):
            return
        with self._lock:
            if self._is_stopped or id(loop) in self._loops:
                return
            watched = self._loops[id(loop)] = WatchedLoop(self, loop)
        watched.begin(loop)
        if _for_view is not None and self is not _for_view:
            _for_view.loop_ends(loop)

    def loop_ends(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches this loop no longer. Called by `hook`."""
        with self._lock:
            watched = self._loops.pop(id(loop), None)
        if watched is not None:
            watched.end()
            _watch_for_view(loop)

    def watches(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Returns whether it watches this loop now."""
        return id(loop) in self._loops

    def summary(self, file: str, line: int, function: str) -> StallSummary:
        """Returns the summary of a place. Called by `loops`."""
        with self._lock:
            return self._summaries.setdefault(
                (file, line, function.rpartition(".")[2]), StallSummary(file, line, function)
            )

    def report(self, stall: Stall) -> bool:
        """Calls `on_stall`, and logs the stall unless its place has had a line within a minute. Called by `loops`."""
        if self.on_stall is not None:
            try:
                self.on_stall(stall)
            except BaseException:  # even SystemExit, which would end the thread that reports
                (self.logger or logging.getLogger(LOGGER)).exception("on_stall has raised an exception:")
        if self.logger is None or not self._lines_of(stall.place).log():
            return False
        self.logger.warning("%s", stall, extra={"stall": stall})
        return True

    def ended(self, summary: StallSummary, seconds: float, was_logged: bool) -> None:
        """Records the end of a stall. Called by `loops`."""
        if not was_logged:
            self._lines_of(summary.place).add(seconds)
        if self.logger is not None:
            self.logger.debug("the event loop goes on after %.3g s: %s", seconds, summary.place)

    def starved(self, late: float, seconds: float) -> None:
        """Records that a loop was late for want of a core. Called by `loops`."""
        self.starvation.add(seconds)
        lines = self._lines_of("")
        if self.logger is None or not lines.log():
            lines.add(seconds)
            return
        self.logger.warning(
            "the event loop was late by %.3g s, and its thread had no core for %.3g s of it: other threads and programs "
            "had them, or a quota was used up; no line is to blame",
            late,
            seconds,
        )

    def summarize(self, is_last: bool = False) -> None:
        """Logs what had no line of its own, once a minute for each place. Called by `loops`."""
        if self.logger is None:
            return
        for place, lines in tuple(self._lines.items()):
            if (times := lines.take(is_last)) is None:
                continue
            count = "once more" if times.count == 1 else f"{times.count} more times"
            if place:
                self.logger.warning(
                    "the event loop has stood still %s at %s, for %.3g s in all, the longest %.3g s",
                    count,
                    place,
                    times.total,
                    times.longest,
                )
            else:
                self.logger.warning(
                    "the event loop was late for want of a core %s, for %.3g s in all, the longest %.3g s",
                    count,
                    times.total,
                    times.longest,
                )

    def _lines_of(self, place: str) -> _Lines:
        return self._lines.setdefault(place, _Lines())

    def forget(self) -> None:
        """Forgets the loops in a child made by fork(), which does not run them. Loops that it starts are watched."""
        self._lock = threading.Lock()
        self._loops = {}
        self._lines = {}


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()
_for_view: Watch | None = None
"""The watch of the loops that no other watch watches, for the live view. Set once, by `watch_for_view`."""
_view_lock = threading.Lock()
"""Held while that is set."""


def _is_watched(loop: asyncio.AbstractEventLoop) -> bool:
    """Returns whether a watch other than that of the live view watches the loop."""
    return any(watch.watches(loop) for watch in list(_watches) if watch is not _for_view)


def _watch_for_view(loop: asyncio.AbstractEventLoop) -> None:
    """Watches for the live view a loop that another watch has let go of, if it goes on."""
    if _for_view is not None and loop.is_running():
        _for_view.loop_begins(loop)


def watch_for_view() -> None:
    """Watches the loops that no other watch watches: the one that runs on this thread, those that are known to run, and all
    that begin later. The live view shows what is found, and nothing is logged. Does nothing if that was done.
    """
    global _for_view
    with _view_lock:
        if _for_view is None:
            _for_view = Watch(logger=None, stderr_after=None)
            hook.add(_for_view)
    hook.adopt(asyncio._get_running_loop())
    for running in list(hook.running.values()):
        _for_view.loop_begins(running)


def _reset_in_child() -> None:
    global _view_lock
    _view_lock = threading.Lock()
    for watch in list(_watches):
        watch.forget()


os.register_at_fork(after_in_child=_reset_in_child)


def watch(
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    threshold: float = DEFAULT,
    on_stall: Callable[[Stall], object] | None = None,
    logger: logging.Logger | str | None = LOGGER,
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

    on_stall: called with a `Stall`, on a thread of the watch; what it raises is logged. It gets each
    stall while it lasts, and a long one again when it has become ten times as long.

    logger: the logger that gets the reports as warnings, with the `Stall` as the record's `stall`;
    None: they are not logged. A place has at most one line a minute: what is not logged meanwhile is
    summed up in the next one.

    Time in which the loop's thread could have run but had no core does not count, as far as the system
    tells: it is in the watch's `starvation`. A line is blamed if the loop was in the same call at two
    looks, half a threshold apart. The thread that stands still is not disturbed: its stack is read from
    memory, even while it keeps the interpreter to itself (CPython 3.11 to 3.15). On another interpreter,
    such a call is seen only if it lets other threads run.

    stderr_after: the seconds after which a short report goes straight to standard error, if the
    interpreter cannot be had to report more; None: never.
    """
    if loop is None and (loop := asyncio._get_running_loop()) is None:
        watch = Watch(None, threshold, on_stall, logger, stderr_after)
        hook.add(watch)
        for running in list(hook.running.values()):
            watch.loop_begins(running)
        return watch
    return Watch(loop, threshold, on_stall, logger, stderr_after)

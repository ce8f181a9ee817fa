"""The thread that reports, and the signal: one of each, and only while there are watches."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
from typing import TYPE_CHECKING, Literal

from .._offloop import Notice, Post, Stacks

if TYPE_CHECKING:
    from .loops import WatchedLoop

Signal = int | Literal["auto"] | None

_PATIENCE = 2.0
"""For so many seconds the end of a watch waits for what is being reported."""

_lock = threading.Lock()
_station: Station | None = None
_stacks: Stacks | None = None
_stacks_users = 0


class Station:
    """Takes what the monitors notice to the loops that it is about."""

    def __init__(self) -> None:
        self.post = Post()
        self._loops: dict[int, WatchedLoop] = {}
        self._keys = itertools.count(1)
        self._thread = threading.Thread(target=self._serve, name="offloop-reports", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether this thread is the one that reports."""
        return threading.current_thread() is self._thread

    def settle(self) -> None:
        """Waits until what was noticed has been reported."""
        if not self.is_here:
            self.post.settle(_PATIENCE)

    def end(self) -> None:
        self.post.close()
        if not self.is_here:
            self._thread.join(_PATIENCE)

    def _serve(self) -> None:
        while (notice := self.post.next()) is not None:
            self._tell(notice)

    def _tell(self, notice: Notice) -> None:
        # In a function of its own, so that nothing of a loop is kept while there is nothing to do.
        if (loop := self._loops.get(notice.key)) is None:
            return
        try:
            loop.hear(notice)
        except Exception:
            logging.getLogger("offloop.watch").exception("a stall could not be reported")

    def add(self, loop: WatchedLoop) -> int:
        key = next(self._keys)
        self._loops[key] = loop
        return key

    def discard(self, key: int) -> int:
        """Says how many are left."""
        self._loops.pop(key, None)
        return len(self._loops)


def enter(loop: WatchedLoop) -> tuple[Station, int]:
    """The station, with this loop in it under a key."""
    global _station
    with _lock:
        if _station is None:
            _station = Station()
        return _station, _station.add(loop)


def leave(station: Station, key: int) -> None:
    """The last one to leave ends the thread."""
    global _station
    with _lock:
        if station.discard(key) or station is not _station:
            return
        _station = None
    station.end()


def stacks(signal: Signal) -> Stacks | None:
    """The stacks of threads, by a signal. ValueError if the process cannot have this one."""
    global _stacks, _stacks_users
    if signal is None:
        return None
    with _lock:
        if _stacks is None:
            try:
                _stacks = Stacks(None if signal == "auto" else signal)
            except (ValueError, RuntimeError, OSError):
                if signal != "auto":
                    raise
                return None
        elif signal not in ("auto", _stacks.signal):
            raise ValueError(f"the watches of this process use signal {_stacks.signal} already")
        _stacks_users += 1
        return _stacks


def release(stacks: Stacks) -> None:
    global _stacks, _stacks_users
    with _lock:
        if stacks is not _stacks:
            return
        _stacks_users -= 1
        if _stacks_users:
            return
        _stacks = None
        stacks.close()


def _exit() -> None:
    """Threads that wake while the interpreter goes down would hang."""
    if (station := _station) is not None:
        station.end()


def _forget() -> None:
    """In a child made by fork(): neither of the threads is there, and locks may be held."""
    global _lock, _station, _stacks, _stacks_users
    _lock = threading.Lock()
    if _stacks is not None:
        _stacks.forget()
    _station = _stacks = None
    _stacks_users = 0


atexit.register(_exit)
os.register_at_fork(after_in_child=_forget)

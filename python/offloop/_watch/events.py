"""The thread that hands the monitors' events to the loops, and the reader of stacks.

There is one of each, and only while there are watches.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
from typing import Protocol

from .._offloop import EventQueue, Stacks, StallEvent

_TICK = 10.0
"""The seconds after which the thread looks for summaries that are due."""

_TIMEOUT = 2.0
"""The seconds for which the end of a watch waits for reports that are being made."""

_lock = threading.Lock()
"""Guards the two below."""
_thread: EventThread | None = None
_stacks: Stacks | None = None
"""The reader of stacks. Made by the first watch."""


class Subscriber(Protocol):
    """A watched loop, which gets the events about it."""

    def on_event(self, event: StallEvent) -> None:
        """Is called with each event about the loop, on the thread that reports."""

    def on_tick(self) -> None:
        """Is called now and then, on the thread that reports."""


class EventThread:
    """The thread that takes the monitors' events and hands each to the loop that it is about."""

    def __init__(self) -> None:
        self.queue = EventQueue()
        self._subscribers: dict[int, Subscriber] = {}
        """The watched loops by their keys. Changed with the module's lock held."""
        self._keys = itertools.count(1)
        self._thread = threading.Thread(target=self._serve, name="offloop-reports", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def flush(self) -> None:
        """Waits until all events so far have been handled, for a limited time."""
        if not self.is_current:
            self.queue.flush(_TIMEOUT)

    def end(self) -> None:
        """Ends the thread, and waits for it for a limited time."""
        self.queue.close()
        if not self.is_current:
            self._thread.join(_TIMEOUT)

    def _serve(self) -> None:
        goes_on = True
        while goes_on:
            event, goes_on = self.queue.next(_TICK)
            if event is not None:
                self._handle(event)
            if goes_on:
                self._tick()
            # The thread must not keep the event's parts alive while it waits for the next one.
            del event

    def _handle(self, event: StallEvent) -> None:
        # In a function of its own, so that the thread does not keep a loop alive while it waits for the next event.
        if (subscriber := self._subscribers.get(event.key)) is None:
            return
        try:
            subscriber.on_event(event)
        except Exception:
            logging.getLogger("offloop.watch").exception("a stall could not be reported:")

    def _tick(self) -> None:
        for subscriber in tuple(self._subscribers.values()):
            try:
                subscriber.on_tick()
            except Exception:
                logging.getLogger("offloop.watch").exception("stalls could not be summarized:")

    def add(self, subscriber: Subscriber) -> int:
        """Adds a loop. Returns its key."""
        key = next(self._keys)
        self._subscribers[key] = subscriber
        return key

    def discard(self, key: int) -> int:
        """Removes a loop. Returns the number of those that are left."""
        self._subscribers.pop(key, None)
        return len(self._subscribers)


def subscribe(subscriber: Subscriber) -> tuple[EventThread, int]:
    """Returns the thread of events, which is started if needed, and the loop's key there."""
    global _thread
    with _lock:
        if _thread is None:
            _thread = EventThread()
        return _thread, _thread.add(subscriber)


def unsubscribe(thread: EventThread, key: int) -> None:
    """Removes a loop. Ends the thread if that was the last one."""
    global _thread
    with _lock:
        if thread.discard(key) or thread is not _thread:
            return
        _thread = None
    thread.end()


def stacks() -> Stacks | None:
    """Returns the reader of other threads' stacks; None if this interpreter's frames cannot be read."""
    global _stacks
    with _lock:
        if _stacks is None:
            try:
                _stacks = Stacks()
            except (RuntimeError, OSError):
                return None
        return _stacks


def _end_at_exit() -> None:
    """Ends the thread, because one that wakes while the interpreter is finalized would hang."""
    if (thread := _thread) is not None:
        thread.end()


def _reset_in_child() -> None:
    """Starts anew in a child made by fork(): it does not have the threads, and locks may be held."""
    global _lock, _thread, _stacks
    _lock = threading.Lock()
    _thread = _stacks = None


atexit.register(_end_at_exit)
os.register_at_fork(after_in_child=_reset_in_child)

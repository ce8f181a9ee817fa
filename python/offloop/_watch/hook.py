"""Calls listeners when an event loop begins to run, and when it ends.

Loops of all kinds call `asyncio._set_running_loop` as they begin and end to run, because
`asyncio.get_running_loop` would not work in them otherwise. So this module wraps that function. uvloop
keeps the function that was there when uvloop was imported; if that was the original, its `run_forever`
is wrapped as well.

The module is imported as the interpreter starts if the environment variable is set, so it imports
little.
"""

from __future__ import annotations

import functools
import os
import sys
from _thread import get_ident
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .._imports import when_imported

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class Listener(Protocol):
    """A listener for loops. Both methods are called on the loop's thread."""

    def loop_begins(self, loop: AbstractEventLoop) -> None:
        """Is called when the loop is about to run."""

    def loop_ends(self, loop: AbstractEventLoop) -> None:
        """Is called when the loop has ended to run."""


running: dict[int, AbstractEventLoop] = {}
"""The running loops that have begun since `install`, or that were adopted, by the ids of their threads."""

# A child made by fork() runs none of its parent's loops.
os.register_at_fork(after_in_child=running.clear)

_listeners: list[Listener] = []
_is_installed = False


def add(listener: Listener) -> None:
    """Calls the listener for each loop from now on."""
    _listeners.append(listener)
    install()


def remove(listener: Listener) -> None:
    """Calls the listener no more. Does nothing if it was not added."""
    if listener in _listeners:
        _listeners.remove(listener)


def adopt(loop: AbstractEventLoop | None) -> None:
    """Follows a loop that was running on this thread before `install`, if it is not None. Calls no listener."""
    if loop is not None:
        running.setdefault(get_ident(), loop)


def install() -> None:
    """Begins to follow which loops run.

    It cannot be undone, because another library may have wrapped the wrapper.
    """
    global _is_installed
    if _is_installed:
        return
    _is_installed = True
    # They have copies of the function, if they have been imported.
    if "asyncio.events" in sys.modules:
        if "asyncio" in sys.modules:
            _wrap(sys.modules["asyncio"])
        if "uvloop" in sys.modules:
            _wrap_uvloop(sys.modules["uvloop"])
    when_imported("asyncio.events", _wrap)


def _changed(loop: AbstractEventLoop | None) -> None:
    thread = get_ident()
    before = running.get(thread)
    if loop is before:
        return
    if loop is None:
        del running[thread]
    else:
        running[thread] = loop
    for listener in tuple(_listeners):
        try:
            if before is not None:
                listener.loop_ends(before)
            if loop is not None:
                listener.loop_begins(loop)
        except Exception:  # the loop must run even if it cannot be watched
            import logging

            logging.getLogger("offloop.watch").exception("an event loop could not be watched:")


def _wrap(module: Any) -> None:
    original: Callable[[AbstractEventLoop | None], None] = module._set_running_loop

    @functools.wraps(original)
    def set_running_loop(loop: AbstractEventLoop | None, /) -> None:
        original(loop)
        _changed(loop)

    module._set_running_loop = set_running_loop


def _wrap_uvloop(module: Any) -> None:
    original = module.Loop.run_forever

    @functools.wraps(original)
    def run_forever(loop: AbstractEventLoop) -> None:
        _changed(loop)
        try:
            original(loop)
        finally:
            _changed(None)

    module.Loop.run_forever = run_forever

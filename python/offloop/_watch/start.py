"""`OFFLOOP_WATCH=1` or `OFFLOOP_WATCH=50ms` watches all loops of any program.

A line in `offloop_watch.pth`, which is installed beside the package, calls `from_environment` as
the interpreter starts, if the variable is set. So this imports little.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from . import hook

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from .watch import Watch

VARIABLE = "OFFLOOP_WATCH"
DEFAULT = 0.1
"""Seconds."""

_OFF = ("", "0", "no", "off", "false")
_ON = ("1", "yes", "on", "true")


def seconds(text: str) -> float:
    """A length of time, as in `100ms`, `0.5s` or `0.5`. Raises ValueError."""
    text = text.strip().lower()
    number, scale = (text[:-2], 1e-3) if text.endswith("ms") else (text.removesuffix("s"), 1.0)
    value = float(number) * scale
    if not 0.001 <= value < 1e9:
        raise ValueError(f"{text!r} is no length of time of a millisecond or more")
    return value


def threshold(value: str) -> float | None:
    """What the variable says: seconds, or None for not to watch. Raises ValueError."""
    word = value.strip().lower()
    if word in _OFF:
        return None
    return DEFAULT if word in _ON else seconds(word)


class _Lazy:
    """Makes the watch when the first loop begins."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._watch: Watch | None = None

    def loop_begins(self, loop: AbstractEventLoop) -> None:
        if self._watch is None:
            from .watch import Watch

            self._watch = Watch(None, self._threshold)
        self._watch.loop_begins(loop)

    def loop_ends(self, loop: AbstractEventLoop) -> None:
        if self._watch is not None:
            self._watch.loop_ends(loop)


_has_begun = False


def from_environment() -> None:
    """Watches if the environment variable says so."""
    global _has_begun
    if _has_begun:  # in a virtual environment such lines are run twice
        return
    _has_begun = True
    value = os.environ.get(VARIABLE, "")
    try:
        limit = threshold(value)
    except ValueError:
        print(
            f"offloop: {VARIABLE} is {value!r}; it can be 1, 0 or a length of time such as 50ms",
            file=sys.stderr,
        )
        return
    if limit is not None:
        hook.add(_Lazy(limit))

"""`OFFLOOP_WATCH=1` or `OFFLOOP_WATCH=50ms` watches all loops of any program.

If the variable is set, a line in `offloop_watch.pth`, which is installed beside the package, calls
`from_environment` as the interpreter starts. So this module imports little.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from . import hook, settings

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from .watch import Watch

VARIABLE = "OFFLOOP_WATCH"


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
    """Watches all loops if the environment variable asks for it."""
    global _has_begun
    if _has_begun:  # in a virtual environment the line of the .pth file is run twice
        return
    _has_begun = True
    value = os.environ.get(VARIABLE, "")
    try:
        limit = settings.threshold(value)
    except ValueError as error:
        print(f"offloop: {VARIABLE} is {value!r}: {error}. 1 is for 100ms, 0 is off.", file=sys.stderr)
        return
    if limit is not None:
        hook.add(_Lazy(limit))

"""The part that executors share whose workers do not belong to this program: those on engines of others, and on clusters."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import weakref
from typing import Never

from .exit import Kind, drain_at_exit, exit_handler
from .outcomes import Unchanged
from .remote import RemotePool


class ElsewherePool(RemotePool):
    """An executor whose workers do not belong to this program."""

    _runner = ""
    """The name of what runs the jobs, for messages."""
    _translator = Unchanged()
    _closed = False

    def _finish_at_exit(self, timeout: float | None) -> None:
        """Makes the interpreter's exit wait for accepted jobs, for at most `timeout` seconds (None: forever)."""
        self._exit_timeout = timeout
        _pools.add(self)

    def _check_open(self) -> None:
        """Raises RuntimeError if the executor takes no calls."""
        if exit_handler.has_begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _counts(self) -> tuple[int, int]:
        """Returns the numbers of jobs that run, and that wait."""
        raise NotImplementedError

    def _end(self) -> list[str]:
        return ["shut down"] if self._closed else []

    def __repr__(self) -> str:
        running, queued = self._counts()
        return f"<{type(self).__name__}: {', '.join([f'{running} running', f'{queued} queued', *self._end()])}>"

    def __reduce__(self) -> Never:
        raise TypeError(f"{type(self).__name__} cannot be pickled: it belongs to the program that has made it")


_pools: weakref.WeakSet[ElsewherePool] = weakref.WeakSet()
"""The executors that may have jobs at the interpreter's exit."""


def _finish_all(begun: float, interrupted: bool) -> None:
    """Waits for accepted jobs for as long as each executor allows, then cancels them."""
    for pool in list(_pools):
        killed = f"jobs killed while {pool._runner} ran them"
        interrupted = drain_at_exit(pool._drain, pool._exit_timeout, begun, interrupted, killed)


exit_handler.add(Kind.ELSEWHERE, _finish_all)

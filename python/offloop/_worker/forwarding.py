"""A worker's log records on their way to the parent, apart from what takes `logging` itself.

Its import takes long, and most jobs do not need it. So a worker has a `Forwarder` from its start, and `logs.py` adds the
handler to it when the worker imports `logging`.
"""

from __future__ import annotations

import _thread
import os
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    Levels = Mapping[str, int]
    """The levels that are set, by the loggers' names. That of `logging.disable` has an empty name."""

    class Handler(Protocol):
        """What is in the way of the records in `logging`."""

        def apply(self, levels: Levels) -> None:
            """Sets the levels."""

        def keep(self, levels: Levels) -> None:
            """Sets the levels again, if others were set meanwhile."""

        def probe(self) -> tuple[dict[object, bool], object] | None:
            """Returns a dictionary, and what is in it for as long as `keep` does nothing; None if nothing says so."""


NAME = f"{__name__}:arriving"
"""The name by which workers find `arriving`, beside the context variables that travel by such names."""

ONCE = "offloop_once"
"""The field of records that are handled once: the key by which they are known."""

_PENDING_LIMIT = 10_000
"""The number of records that may wait for the next job; beyond that, the oldest are dropped."""


class Forwarder:
    """Sends records while the worker's main thread runs a job, when nothing else uses the link to the parent.

    Records from other threads, or from between two jobs, wait for the next job. The worker sets `job_runs` around
    each job, and calls `flush` at its end so that records arrive before the result.
    """

    job_runs = False
    """Whether the worker runs a job. Set by the engine's binding and by the initialisation."""

    def __init__(self, send: Callable[[bytes], None], levels: Levels) -> None:
        """Sends records by `send`. `levels` are those of the parent. Called on the worker's main thread."""
        self._send = send
        self.pending: deque[bytes] = deque(maxlen=_PENDING_LIMIT)
        """The records that were not sent."""
        self._sending = False
        # A process that user code forks has a copy of this forwarder, but must not use the link.
        self._pid = os.getpid()
        self._thread = _thread.get_ident()
        self._levels = levels
        self._handler: Handler | None = None
        self._without: dict[object, bool] = {self: True}
        """Has this for as long as there is no handler."""

    def begin(self, handler: Handler) -> None:
        """Takes the records of this handler from now on, and gives it the parent's levels."""
        self._handler = handler
        # The call that runs may have looked at the probe of before.
        self._without.clear()
        handler.apply(self._levels)

    def set_levels(self, levels: Levels) -> None:
        """Sets the levels of the parent."""
        before, self._levels = self._levels, levels
        if self._handler is not None:
            # Zero is `logging.NOTSET`.
            self._handler.apply({**dict.fromkeys(before, 0), **levels})

    def keep_levels(self) -> None:
        """Sets the levels of the parent again, if others were set meanwhile: by a module that was imported, say."""
        if self._handler is not None:
            self._handler.keep(self._levels)

    def probe(self) -> tuple[dict[object, bool], object] | None:
        """Returns a dictionary, and what is in it for as long as `keep_levels` does nothing; None if nothing says so. Others
        from `begin` on."""
        return (self._without, self) if self._handler is None else self._handler.probe()

    def take(self, record: bytes) -> None:
        """Sends a packed record, now or with the next job's."""
        self.pending.append(record)
        self.flush()

    def flush(self) -> None:
        """Sends the waiting records if this is the worker's main thread in a job; else does nothing."""
        # `_sending`: a signal handler that logs must not write into the middle of a record.
        if self._sending or not self.pending or not self._may_send():
            return
        self._sending = True
        try:
            while self.pending:
                self._send(self.pending.popleft())
        finally:
            self._sending = False

    def _may_send(self) -> bool:
        return self.job_runs and _thread.get_ident() == self._thread and os.getpid() == self._pid


class _Arriving:
    """Is set in a worker as context variables are, but holds for the whole process: the parent's levels."""

    def __init__(self) -> None:
        self.forwarder: Forwarder | None = None
        """That of this process, if it is a worker."""

    def set(self, levels: Levels) -> None:
        if self.forwarder is not None:
            self.forwarder.set_levels(levels)


arriving = _Arriving()


def advise(key: str, text: str) -> None:
    """Logs advice, from a worker. The parent handles the first one with this key, whichever worker it is from."""
    import logging

    extra: dict[str, Any] = {ONCE: key}
    logging.getLogger("offloop.advice").warning(text, extra=extra)

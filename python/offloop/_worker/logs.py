"""Records of `logging` in workers on their way to the handlers of the parent."""

import logging
import os
import pickle
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import _offloop

_PENDING_LIMIT = 10_000
"""The number of records that may wait for the next job; beyond that, the oldest are dropped."""


class Forwarder(logging.Handler):
    """Sends records while the worker's main thread runs a job, when nothing else uses the link to the parent.

    Records from other threads, or from between two jobs, wait for the next job. The worker sets `job_runs` around
    each job, and calls `flush` at its end so that records arrive before the result.
    """

    job_runs = False
    """Whether the worker runs a job. Set by `main.perform` and by the initialisation."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._send = send
        self._pending: deque[bytes] = deque(maxlen=_PENDING_LIMIT)
        self._sending = False
        # A process that user code forks has a copy of this handler, but must not use the link.
        self._pid = os.getpid()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._pending.append(_pack(record))
            self.flush()
        except Exception:  # for example because the arguments do not fit the message
            self.handleError(record)

    def flush(self) -> None:
        """Sends the waiting records if this is the worker's main thread in a job; else does nothing."""
        # `_sending`: a signal handler that logs must not write into the middle of a record.
        if self._sending or not self._pending or not self._may_send():
            return
        self._sending = True
        try:
            while self._pending:
                self._send(self._pending.popleft())
        finally:
            self._sending = False

    def _may_send(self) -> bool:
        return self.job_runs and threading.get_ident() == self._thread and os.getpid() == self._pid


def install(send: Callable[[bytes], None], level: int) -> Forwarder:
    """Forwards this worker's records of `level` and above through `send`. Called on its main thread.

    Called before any of the user's code runs, which may change `logging` as it likes afterwards.
    """
    forwarder = Forwarder(send)
    root = logging.getLogger()
    root.addHandler(forwarder)
    root.setLevel(level)
    return forwarder


def emit(data: bytes, trusts_worker: bool) -> None:
    """Hands a worker's record to the logger of its name, if that takes its level. Never raises.

    Unpickles nothing unless it trusts the worker. Called in the parent, by the engine's binding.
    """
    try:
        record = _unpack(data, trusts_worker)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:
        # `logging` does the same with the errors of handlers.
        if logging.raiseExceptions:
            traceback.print_exc(file=sys.stderr)


_PLAIN = (str, int, float, bool, type(None))


def _pack(record: logging.LogRecord) -> bytes:
    fields = record.__dict__.copy()
    # The message and the traceback travel as text, because their parts may not be picklable.
    fields["msg"] = record.getMessage()
    fields["args"] = None
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    fields["exc_info"] = None
    # The other fields are pickled one by one, so that one that fails does not affect the others.
    plain: dict[str, object] = {}
    pickled: dict[str, bytes] = {}
    for name, value in fields.items():
        if type(value) in _PLAIN:
            plain["".join((name,))] = value
        else:
            try:
                pickled["".join((name,))] = pickle.dumps(value, 5)
            except Exception:
                continue
    return _offloop.encode_data((plain, pickled), False)[0]


def _unpack(data: bytes, trusts_worker: bool) -> logging.LogRecord:
    fields: dict[str, Any]
    fields, pickled = _offloop.decode_data(data, ())
    if not trusts_worker:
        # Nothing but plain values, and none that would be formatted as something else.
        fields = {name: value for name, value in fields.items() if type(value) in _PLAIN}
        return logging.makeLogRecord({**fields, "args": None, "exc_info": None})
    for name, value in pickled.items():
        try:
            fields[name] = pickle.loads(value)
        except Exception:  # the value's class is in a module that only workers can import
            continue
    return logging.makeLogRecord(fields)

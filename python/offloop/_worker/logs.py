"""Records of `logging` in workers on their way to the handlers of the parent."""

import logging
import os
import pickle
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

from .. import _offloop

NAME = f"{__name__}:arriving"
"""The name by which workers find `arriving`, beside the context variables that travel by such names."""

Levels = Mapping[str, int]
"""The levels that are set, by the loggers' names. That of `logging.disable` has an empty name."""

_PENDING_LIMIT = 10_000
"""The number of records that may wait for the next job; beyond that, the oldest are dropped."""


class _Probe:
    """Finds out whether a level has been set since the last look, without asking all loggers.

    `logging` empties the caches of all loggers whenever that happens, and the probe is in one of them. A Python whose
    loggers have no cache is asked each time.
    """

    def __init__(self) -> None:
        self._cache: dict[object, bool] | None = getattr(logging.getLogger(), "_cache", None)

    def is_in_place(self) -> bool:
        return self._cache is not None and self in self._cache

    def put(self) -> None:
        if self._cache is not None:
            self._cache[self] = True

    def found(self) -> tuple[dict[object, bool], object] | None:
        """Returns the dictionary, and the key that is in it while the probe is in place."""
        return None if self._cache is None else (self._cache, self)


_probe = _Probe()
known_levels: Levels = {}
"""The levels at the last look. Replaced, never changed."""


def levels() -> Levels:
    """Returns the levels that are set in this process: the same object for as long as they are the same."""
    global known_levels
    if not _probe.is_in_place():
        # First, so that a change that comes meanwhile is found at the next look.
        _probe.put()
        found = _find_levels()
        if found != known_levels:
            known_levels = found
    return known_levels


def probe() -> tuple[dict[object, bool], object] | None:
    """Returns a dictionary, and what is in it for as long as `levels` returns the same object; None if nothing says so."""
    return _probe.found()


def _find_levels() -> Levels:
    root = logging.getLogger()
    found = {"": root.manager.disable, root.name: root.level}
    for name, logger in list(root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            found[name] = logger.level
    return found


def advise(key: str, text: str) -> None:
    """Logs advice, from a worker. The parent handles the first one with this key, whichever worker it is from."""
    logging.getLogger("offloop.advice").warning(text, extra={_ONCE: key})


_ONCE = "offloop_once"
"""The field of records that are handled once: the key by which they are known."""
_advised: set[str] = set()
"""The keys of such records that were handled here."""


class Forwarder(logging.Handler):
    """Sends records while the worker's main thread runs a job, when nothing else uses the link to the parent.

    Records from other threads, or from between two jobs, wait for the next job. The worker sets `job_runs` around
    each job, and calls `flush` at its end so that records arrive before the result.
    """

    job_runs = False
    """Whether the worker runs a job. Set by the engine's binding and by the initialisation."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._send = send
        self.pending: deque[bytes] = deque(maxlen=_PENDING_LIMIT)
        """The records that were not sent."""
        self._sending = False
        # A process that user code forks has a copy of this handler, but must not use the link.
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        self._levels: Levels = {}
        self._probe = _Probe()

    def set_levels(self, levels: Levels) -> None:
        """Sets the levels of the parent."""
        before, self._levels = self._levels, levels
        self._apply({**dict.fromkeys(before, logging.NOTSET), **levels})

    def keep_levels(self) -> None:
        """Sets the levels of the parent again, if others were set meanwhile: by a module that was imported, say."""
        if not self._probe.is_in_place():
            self._apply(self._levels)

    def probe(self) -> tuple[dict[object, bool], object] | None:
        """Returns a dictionary, and what is in it for as long as `keep_levels` does nothing; None if nothing says so."""
        return self._probe.found()

    def _apply(self, levels: Levels) -> None:
        root = logging.getLogger()
        # A program that has set up this process's logging by itself wants its own levels.
        if self in root.handlers:
            for name, level in levels.items():
                if name == "":
                    if root.manager.disable != level:
                        logging.disable(level)
                elif (logger := logging.getLogger(name)).level != level:
                    logger.setLevel(level)
        self._probe.put()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.pending.append(_pack(record, self._handled_here(record)))
            self.flush()
        except Exception:  # for example because the arguments do not fit the message
            self.handleError(record)

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

    def _handled_here(self, record: logging.LogRecord) -> list[tuple[str, str]]:
        """Returns the handlers of this process that handle the record: the names of their loggers and of their types."""
        return [
            (logger.name, _type_name(handler))
            for logger, handler in _handlers_of(logging.getLogger(record.name))
            if handler is not self
            and record.levelno >= handler.level
            and not isinstance(handler, logging.NullHandler)
        ]

    def _may_send(self) -> bool:
        return self.job_runs and threading.get_ident() == self._thread and os.getpid() == self._pid


def _handlers_of(logger: logging.Logger) -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """Yields the handlers that get a logger's records, and the loggers that have them."""
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            yield current, handler
        current = current.parent if current.propagate else None


def _type_name(handler: logging.Handler) -> str:
    return f"{type(handler).__module__}.{type(handler).__qualname__}"


def install(send: Callable[[bytes], None], levels: Levels) -> Forwarder:
    """Forwards this worker's records that the parent's loggers take through `send`. Called on its main thread.

    Called before any of the user's code runs, which may change `logging` as it likes afterwards.
    """
    forwarder = Forwarder(send)
    logging.getLogger().addHandler(forwarder)
    forwarder.set_levels(levels)
    return forwarder


def drop_handlers() -> None:
    """Removes the handlers that this process, a fork, has inherited: its parent handles the records.

    Loggers that do not pass their records on to the root do so from now on; those of the parent decide.
    """
    root = logging.getLogger()
    for logger in [root, *list(root.manager.loggerDict.values())]:
        if isinstance(logger, logging.Logger):
            logger.handlers = []
            logger.propagate = True


@final
class _Arriving:
    """Is set in a worker as context variables are, but holds for the whole process: the parent's levels."""

    def __init__(self) -> None:
        self.forwarder: Forwarder | None = None
        """That of this process, if it is a worker."""

    def set(self, levels: Levels) -> None:
        if self.forwarder is not None:
            self.forwarder.set_levels(levels)


arriving = _Arriving()


def emit(data: bytes, trusts_worker: bool, job: str | None = None) -> None:
    """Hands a worker's record to the logger of its name, if that takes its level. Never raises.

    Unpickles nothing unless it trusts the worker. Called in the parent, by the engine's binding. `job` is the id of the
    record's job, if that is one of a cluster.
    """
    try:
        record, handled = _unpack(data, trusts_worker)
        if job is not None:
            record.__dict__["job"] = job
        if trusts_worker and (key := record.__dict__.pop(_ONCE, None)) is not None:
            if key in _advised:
                return
            _advised.add(key)
        from .._requests import request_id

        # This runs in the context of the job's submission.
        if (request := request_id.get()) is not None:
            record.__dict__.setdefault("request", request)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            _handle(logger, record, handled)
    except Exception:
        # `logging` does the same with the errors of handlers.
        if logging.raiseExceptions:
            traceback.print_exc(file=sys.stderr)


def _handle(logger: logging.Logger, record: logging.LogRecord, handled: Sequence[object]) -> None:
    """Hands a record to the handlers that get the logger's records.

    A module that both processes import may give a logger a handler of its own, such as one that prints. Then the
    worker's has handled the record, and the one here must not do so again.
    """
    left = list(handled)
    done: list[logging.Handler] = []
    for owner, handler in _handlers_of(logger):
        if (copy := (owner.name, _type_name(handler))) in left:
            left.remove(copy)
            done.append(handler)
    if not done:
        logger.handle(record)
        return
    # The same as `Logger.handle` does with all handlers.
    taken: Any = not logger.disabled and logger.filter(record)
    if isinstance(taken, logging.LogRecord):  # since Python 3.12 a filter may replace the record
        record = taken
    if taken:
        for _, handler in _handlers_of(logger):
            if handler not in done and record.levelno >= handler.level:
                handler.handle(record)


_PLAIN = (str, int, float, bool, type(None))


def _pack(record: logging.LogRecord, handled: list[tuple[str, str]]) -> bytes:
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
    return _offloop.encode_data((plain, pickled, handled), False)[0]


def _unpack(data: bytes, trusts_worker: bool) -> tuple[logging.LogRecord, Sequence[object]]:
    """Returns a record, and the handlers in the worker that have handled it."""
    fields: dict[str, Any]
    fields, pickled, handled = _offloop.decode_data(data, ())
    if not trusts_worker:
        # Nothing but plain values, and none that would be formatted as something else.
        fields = {name: value for name, value in fields.items() if type(value) in _PLAIN}
        return logging.makeLogRecord({**fields, "args": None, "exc_info": None}), handled
    for name, value in pickled.items():
        try:
            fields[name] = pickle.loads(value)
        except Exception:  # the value's class is in a module that only workers can import
            continue
    return logging.makeLogRecord(fields), handled

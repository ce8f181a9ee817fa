"""Records of `logging` in workers on their way to the handlers of the parent.

A worker imports this when it imports `logging`: see `forwarding.py`.
"""

from __future__ import annotations

import logging
import pickle
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .. import _offloop
from .forwarding import ONCE, Forwarder

if TYPE_CHECKING:
    from .forwarding import Levels


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


_advised: set[str] = set()
"""The keys of the records to be handled once that were handled here."""


class Handler(logging.Handler):
    """Hands a worker's records to its forwarder."""

    def __init__(self, forwarder: Forwarder) -> None:
        super().__init__()
        self._forwarder = forwarder
        self._probe = _Probe()

    def apply(self, levels: Levels) -> None:
        """Sets the levels of the parent."""
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

    def keep(self, levels: Levels) -> None:
        """Sets the levels of the parent again, if others were set meanwhile."""
        if not self._probe.is_in_place():
            self.apply(levels)

    def probe(self) -> tuple[dict[object, bool], object] | None:
        """Returns a dictionary, and what is in it for as long as `keep` does nothing; None if nothing says so."""
        return self._probe.found()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._forwarder.take(_pack(record, self._handled_here(record)))
        except Exception:  # for example because the arguments do not fit the message
            self.handleError(record)

    def flush(self) -> None:
        """Sends the waiting records, if they may be sent now."""
        self._forwarder.flush()

    def _handled_here(self, record: logging.LogRecord) -> list[tuple[str, str]]:
        """Returns the handlers of this process that handle the record: the names of their loggers and of their types."""
        return [
            (logger.name, _type_name(handler))
            for logger, handler in _handlers_of(logging.getLogger(record.name))
            if handler is not self
            and record.levelno >= handler.level
            and not isinstance(handler, logging.NullHandler)
        ]


def _handlers_of(logger: logging.Logger) -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """Yields the handlers that get a logger's records, and the loggers that have them."""
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            yield current, handler
        current = current.parent if current.propagate else None


def _type_name(handler: logging.Handler) -> str:
    return f"{type(handler).__module__}.{type(handler).__qualname__}"


def install(forwarder: Forwarder) -> Handler:
    """Forwards this worker's records that the parent's loggers take.

    Called before any of the user's code has `logging`, which that may change as it likes afterwards.
    """
    handler = Handler(forwarder)
    logging.getLogger().addHandler(handler)
    forwarder.begin(handler)
    return handler


def drop_handlers() -> None:
    """Removes the handlers that this process, a fork, has inherited: its parent handles the records.

    Loggers that do not pass their records on to the root do so from now on; those of the parent decide.
    """
    root = logging.getLogger()
    for logger in [root, *list(root.manager.loggerDict.values())]:
        if isinstance(logger, logging.Logger):
            logger.handlers = []
            logger.propagate = True


def emit(data: bytes, trusts_worker: bool, job: str | None = None) -> None:
    """Hands a worker's record to the logger of its name, if that takes its level. Never raises.

    Unpickles nothing unless it trusts the worker. Called in the parent, by the engine's binding. `job` is the id of the
    record's job, if that is one of a cluster.
    """
    try:
        record, handled = _unpack(data, trusts_worker)
        if job is not None:
            record.__dict__["job"] = job
        if trusts_worker and (key := record.__dict__.pop(ONCE, None)) is not None:
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

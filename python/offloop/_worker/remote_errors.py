"""Exceptions on their way from a worker to the caller."""

import contextlib
import pickle
import sys
import traceback
from typing import Any

from offloop._worker import pickling as _pickling
from offloop._calls import name_of


class RemoteError(Exception):
    """Stands for an exception of a worker that could not travel.

    Its `__cause__` holds the traceback of the original, as for exceptions that could.
    """

    type_name: str
    """Module and name of the original's type."""
    text: str
    """What `str()` gave for the original."""
    reason: str
    """Why it could not travel."""

    def __init__(self, type_name: str, text: str, reason: str) -> None:
        super().__init__(type_name, text, reason)
        self.type_name = type_name
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.type_name}: {self.text} "
            f"(the exception itself could not leave the worker process: {self.reason})"
        )


def pack(exc: BaseException) -> bytes:
    """Makes bytes of an exception, its notes and its formatted traceback, for `unpack`.

    What cannot be pickled, or not unpickled again, becomes a RemoteError. Raises nothing but
    MemoryError: what the exception's own code raises meanwhile, even SystemExit, is the reason that
    the RemoteError gives.
    """
    type_name, text = _type_name(exc), _text(exc)
    pickled, _ = _pickle(exc)
    return pickle.dumps((pickled, type_name, text, _format(exc), _notes(exc)), 5)


def unpack(data: bytes) -> BaseException:
    """The exception that `pack` was given, with the remote traceback as its `__cause__`.

    If it cannot be unpickled in this process, it is a RemoteError that says why.
    """
    pickled, type_name, text, formatted, notes = pickle.loads(data)
    exc: BaseException
    try:
        exc = pickle.loads(pickled)
    except (Exception, SystemExit) as error:
        exc = RemoteError(type_name, text, f"here it does not unpickle: {_describe(error)}")
    # The type that callers look for.
    from concurrent.futures import process

    remote_traceback: Any = process._RemoteTraceback  # pyright: ignore
    # Not by assignment, which the exception's own `__setattr__` may forbid.
    BaseException.__setattr__(exc, "__cause__", remote_traceback(f'\n"""\n{formatted}"""'))
    if notes:
        BaseException.__setattr__(exc, "__notes__", notes)
    return exc


def _pickle(exc: BaseException) -> tuple[bytes, BaseException]:
    """`exc`, or as much of it as possible, pickled; and what that unpickles to."""
    try:
        pickled, _ = _pickling.dumps(exc, lambda buffer: False)
        back: object = pickle.loads(pickled)
        if isinstance(back, BaseException):
            return pickled, back
        reason = f"it unpickles to {name_of(type(back))}"
    except BaseException as error:
        reason = _describe(error)
    if sys.version_info >= (3, 11) and isinstance(exc, BaseExceptionGroup):
        with contextlib.suppress(BaseException):
            # Of no other class, so that this runs none of the user's code.
            group = BaseExceptionGroup(exc.message, [_pickle(part)[1] for part in exc.exceptions])
            for note in _notes(exc):
                group.add_note(note)
            return pickle.dumps(group, 5), group
    stand_in = RemoteError(_type_name(exc), _text(exc), reason)
    return pickle.dumps(stand_in, 5), stand_in


def _format(exc: BaseException) -> str:
    """The traceback with its chain of causes, without the frames of the worker that called."""
    frames = exc.__traceback__
    while frames is not None and _is_own(frames.tb_frame.f_globals.get("__name__")):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, frames))
    except BaseException:
        return f"{_type_name(exc)}: {_text(exc)}\n"


def _is_own(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == "offloop"


def _notes(exc: BaseException) -> list[str]:
    try:
        return [_text(note) for note in getattr(exc, "__notes__", ())]
    except BaseException:
        return []


def _describe(error: BaseException) -> str:
    return f"{_type_name(error)}: {_text(error)}"


def _type_name(exc: BaseException) -> str:
    return name_of(type(exc)).removeprefix("builtins.")


def _text(value: object) -> str:
    try:
        # Joined, it is a `str` even if `__str__` returns some subclass.
        return "".join((str(value),))
    except BaseException as error:
        return f"<str() raised {_type_name(error)}>"

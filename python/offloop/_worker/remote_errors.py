"""Exceptions on their way from a worker to the caller."""

from __future__ import annotations

from .. import _offloop
from .._calls import name_of
from . import pickling

__all__ = ["RemoteError"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    import pickle
    from typing import Any, TypeGuard, TypeVar

    _E = TypeVar("_E", bound=BaseException)
else:
    import _pickle as pickle


class RemoteError(Exception):
    """Stands for a worker's exception that could not be sent to the caller.

    Its `__cause__` holds the traceback of the original, as for exceptions that could be sent.
    """

    type_name: str
    """Module and name of the original's type."""
    text: str
    """`str()` of the original."""
    reason: str
    """Why the original could not be sent."""

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
    """Returns an exception, its notes and its formatted traceback as bytes, for `unpack`.

    An exception that cannot be pickled, or cannot be unpickled again, becomes a RemoteError. Raises nothing but
    MemoryError: if the exception's own code raises meanwhile, even SystemExit, the RemoteError gives that as the
    reason.
    """
    type_name, text = _type_name(exc), _text(exc)
    pickled, _ = _pickle(exc)
    return _offloop.encode_data((pickled, type_name, text, _format(exc), _notes(exc)), False)[0]


def unpack(data: bytes) -> BaseException:
    """Returns the exception that `pack` was given, with the remote traceback as its `__cause__`.

    If it cannot be unpickled in this process, returns a RemoteError that says why.
    """
    pickled, type_name, text, formatted, notes = _offloop.decode_data(data, ())
    exc: BaseException
    try:
        exc = pickle.loads(pickled)
    except (Exception, SystemExit) as error:
        exc = RemoteError(type_name, text, f"it cannot be unpickled in this process: {_describe(error)}")
    return _complete(exc, formatted, notes)


def unpack_data(data: bytes) -> RemoteError:
    """Returns the exception that `pack` was given as a RemoteError, with the remote traceback as its `__cause__`.

    Unpickles nothing. Raises ValueError if `pack` has not made the data.
    """
    match _offloop.decode_data(data, ()):
        case (bytes(), str(type_name), str(text), str(formatted), notes) if _are_texts(notes):
            error = RemoteError(type_name, text, 'the pool has results="data"')
            return _complete(error, formatted, notes)
        case _:
            raise ValueError("a worker sent malformed data: it is no exception")


def of_cluster(message: str, formatted: str) -> RemoteError:
    """Returns the exception that a task of a cluster has raised, with the remote traceback as its `__cause__`. Called by
    the engine's binding, with what `offloop._worker.cluster` has described."""
    first, *notes = message.split("\n")
    type_name, _, text = first.partition(": ")
    return _complete(RemoteError(type_name, text, "a call by name returns plain data"), formatted, notes)


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    texts: list[object] = value
    return type(texts) is list and all(type(text) is str for text in texts)


def _complete(exc: _E, formatted: str, notes: list[str]) -> _E:
    """Gives an exception its remote traceback and its notes. Returns it."""
    # Callers look for the standard library's type.
    from .._standard_errors import RemoteTraceback

    # The exception's own `__setattr__` may forbid an assignment.
    BaseException.__setattr__(exc, "__cause__", RemoteTraceback(f'\n"""\n{formatted}"""'))
    if notes:
        BaseException.__setattr__(exc, "__notes__", notes)
    return exc


def _pickle(exc: BaseException) -> tuple[bytes, BaseException]:
    """Returns `exc`, or as much of it as possible, pickled; and the exception that this unpickles to."""
    try:
        pickled, _ = pickling.dumps(exc, lambda buffer: False)
        back: object = pickle.loads(pickled)
        if isinstance(back, BaseException):
            return pickled, back
        reason = f"it unpickles to {name_of(type(back))}"
    except BaseException as error:
        reason = _describe(error)
    # Of a type that says nothing of its parts.
    whole: Any = exc
    if issubclass(type(exc), BaseExceptionGroup):
        parts: Sequence[BaseException] = whole.exceptions
        try:
            # A subclass could run the user's code, so the group becomes a plain one.
            group = BaseExceptionGroup(whole.message, [_pickle(part)[1] for part in parts])
            for note in _notes(exc):
                group.add_note(note)
            return pickle.dumps(group, 5), group
        except BaseException:
            pass
    stand_in = RemoteError(_type_name(exc), _text(exc), reason)
    return pickle.dumps(stand_in, 5), stand_in


def _format(exc: BaseException) -> str:
    """Returns the traceback with its chain of causes, without the frames of the worker's own code."""
    try:
        # Its import takes long, and most calls raise nothing.
        import traceback

        return "".join(traceback.format_exception(type(exc), exc, _users_frames(exc)))
    except BaseException:
        return f"{_type_name(exc)}: {_text(exc)}\n"


def without_own_frames(exc: _E) -> _E:
    """Removes the package's own frames from the beginning of an exception's traceback. Returns the exception.

    They say nothing to the user, and hold what an exception must not keep alive: the job's future, and its buffers.
    """
    BaseException.__setattr__(exc, "__traceback__", _users_frames(exc))
    return exc


def _users_frames(exc: BaseException) -> TracebackType | None:
    frames = exc.__traceback__
    while frames is not None and _is_own(frames.tb_frame.f_globals.get("__name__")):
        frames = frames.tb_next
    return frames


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
    # `join` makes a plain `str` even if the class's name is of a subclass.
    return "".join((name_of(type(exc)),)).removeprefix("builtins.")


def _text(value: object) -> str:
    try:
        # `join` makes a plain `str` even if `__str__` returns a subclass.
        return "".join((str(value),))
    except BaseException as error:
        return f"<str() raised {_type_name(error)}>"

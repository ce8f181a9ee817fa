"""Calls as they travel to worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pickle import PickleBuffer
from typing import Any, NamedTuple

from .. import _calls
from .._worker import main, pickling, remote_errors
from .._worker.culprit import name_culprit
from .executor import PicklingFailed


class PickledCall(NamedTuple):
    """A call that is pickled."""

    name: str
    """The name of the user's function."""
    body: bytes
    buffers: Sequence[PickleBuffer]
    """What travels beside the body: memory of the arguments, which the caller may change until the call is submitted."""

    def copied(self) -> PickledCall:
        """Returns the call with buffers of its own."""
        own = [PickleBuffer(bytes(buffer.raw())) for buffer in self.buffers]
        return self._replace(buffers=own)


def pickle_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    through: Callable[..., Any] | None = None,
    refusal: Exception | None = None,
) -> PickledCall:
    """Pickles a call, or the call `through(fn, args, kwargs)`, which runs on another machine. Raises PicklingFailed.

    `refusal` is what plain pickle has raised for the call, if it was tried already.
    """
    # Another machine cannot import this program's main module.
    dumps = partial(pickling.dumps, keep=main.travels_beside, has_main=through is None)
    try:
        args, kwargs = pickling.wrap_call(args, kwargs)
        call: main.Call = (fn, args, kwargs) if through is None else (through, (fn, args, kwargs), {})
        body, buffers = dumps(call, refusal=refusal)
    except BaseException as error:
        if isinstance(error, Exception):
            name, parts = _parts(fn, args, kwargs)
            name_culprit(error, parts, name, dumps)
        raise PicklingFailed(remote_errors.without_own_frames(error)) from None
    return PickledCall(name_of_call(fn, args), body, buffers)


def name_of_call(fn: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Returns the name of the user's function. The call of a map or a stream is named after the function that it calls."""
    return _calls.name_of(args[0] if fn is _calls.call_each or fn is main.send_items else fn)


def _parts(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, list[tuple[str, object]]]:
    """Returns the name of the user's function, and the named parts of its call."""
    kind = "argument"
    if fn is main.send_items:
        fn, args, kwargs, _ = args
    elif fn is _calls.call_each:
        fn, *items = args
        args, kind = tuple(items), "item"
    named = [(f"{kind} {index}", value) for index, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    return _calls.name_of(fn), [*named, ("the function", fn)]

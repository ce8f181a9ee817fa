"""Calls and replies as an engine carries them: pickled by this package, so that the engine unpickles nothing of the user's."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, NamedTuple, Self, SupportsIndex, final

from .. import _calls
from .._worker import main, pickling, remote_errors
from .._worker.replies import RAISED, RESULT

if TYPE_CHECKING:
    from typing_extensions import Buffer

FAILED = 10
"""The body is the error of a call that has no result, for a reason other than an exception of its own."""


class Parcel:
    """Pickled data, with large buffers beside the pickle. An engine that knows protocol 5 does not copy them."""

    def __init__(self, body: bytes, buffers: Sequence[Buffer]) -> None:
        self.body = body
        self.buffers = buffers

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[Self], tuple[Any, ...]]:
        # Dask uses an older protocol on some of its ways.
        wrap: Callable[[Buffer], object] = PickleBuffer if protocol.__index__() >= 5 else bytes
        return type(self), (*self._head(), self.body, [wrap(buffer) for buffer in self.buffers])

    def _head(self) -> tuple[Any, ...]:
        """Returns the arguments of the constructor that precede the body."""
        return ()

    @property
    def nbytes(self) -> int:
        """The size in bytes, for engines that ask how much memory an object takes."""
        return len(self.body) + sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def own_buffers(self) -> list[Buffer]:
        """Returns the buffers. Those that cannot be written to, or are shared with others, are copied."""
        views = [memoryview(buffer) for buffer in self.buffers]
        return [bytearray(view) if view.readonly else view for view in views]


class Terms(NamedTuple):
    """The terms on which a call runs where it arrives."""

    name: str
    """The name of the function."""
    timeout: float | None
    """The seconds for which it may run."""
    starts: int
    """The number of times that it may be started at most."""
    request: str | None
    """The id of the request that it works for."""


@final
class CallParcel(Parcel):
    """A call under way. Unpickling the body gives a call of `call_packed`."""

    def __init__(self, terms: Terms, body: bytes, buffers: Sequence[Buffer]) -> None:
        super().__init__(body, buffers)
        self.terms = terms

    def _head(self) -> tuple[Any, ...]:
        return (self.terms,)


@final
class Reply(Parcel):
    """The end of a call, under way. The codes are those of a worker's replies, and `FAILED`."""

    def __init__(self, code: int, body: bytes, buffers: Sequence[Buffer] = ()) -> None:
        super().__init__(body, buffers)
        self.code = code

    def _head(self) -> tuple[Any, ...]:
        return (self.code,)


def call_packed(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Reply:
    """Calls a function, and returns its result or its exception as a reply. Runs in a process of the engine's worker."""
    try:
        value = fn(*args, **kwargs)
        _calls.check_result(fn, value)
        return Reply(RESULT, *main.pickle_result(value, fn, args, None))
    except BaseException as error:
        return raised(error)


def raised(error: BaseException) -> Reply:
    """Returns the reply of a call that has raised `error`."""
    return Reply(RAISED, remote_errors.pack(error))


def failed(error: BaseException) -> Reply:
    """Returns the reply of a call that has no result for the reason `error`."""
    return Reply(FAILED, remote_errors.pack(error))


def load(parcel: Parcel, copy: bool) -> Any:
    """Unpickles a parcel. Without `copy`, arrays are read-only if the engine's memory is."""
    return pickling.loads(parcel.body, parcel.own_buffers() if copy else parcel.buffers)

"""Calls and results as bytes: by plain pickle, and by cloudpickle for values that plain pickle refuses.

All pickles have protocol 5, so that large buffers travel beside the pickle instead of inside it.
"""

from __future__ import annotations

import functools
import io
import sys
from collections import ChainMap
from types import FunctionType

from .._calls import name_of
from . import main_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Iterable
    from pickle import PickleBuffer, PicklingError
    from typing import Any

    from typing_extensions import Buffer
else:
    # The module `pickle` has all of this from here, and imports `re` and `enum` besides.
    import _pickle as pickle
    from _pickle import PickleBuffer, PicklingError

LARGE = 256 * 1024
"""The size in bytes from which `wrap_large` lets `bytes` and `bytearray` travel out of band."""


def dumps(
    value: object,
    keep: Callable[[PickleBuffer], bool],
    has_main: bool = True,
    refusal: Exception | None = None,
) -> tuple[bytes, list[PickleBuffer]]:
    """Pickles `value`. Buffers for which `keep` returns true are returned beside the pickle, in order.

    The reducers that are registered with multiprocessing's ForkingPickler, for sockets and tensors for example, are used
    as in the standard pool. Values that plain pickle refuses go by cloudpickle, and so do objects defined in a `__main__`
    that workers cannot import: with `has_main` false, as on another machine, they can import none. If cloudpickle is not
    installed, functions and classes that would need it raise PicklingError with advice. Exceptions of the user's own
    `__reduce__` and the like are raised unchanged.

    `refusal` is what plain pickle has raised for this value, if it was tried already.
    """
    buffers: list[PickleBuffer] = []

    def in_band(buffer: PickleBuffer) -> bool:
        if keep(buffer):
            buffers.append(buffer)
            return False
        return True

    try:
        if refusal is not None:
            raise refusal
        data = _dump_with_reducers(value, in_band) if has_reducers() else pickle.dumps(value, 5, buffer_callback=in_band)
    except (PicklingError, AttributeError, TypeError) as error:
        if isinstance(error, TypeError) and not has_reducers() and _may_be_reducible(error):
            # Plain pickle has no reducer for sockets and the like.
            buffers.clear()
            try:
                return _dump_with_reducers(value, in_band), buffers
            except Exception:
                pass
        if not _is_of_pickle(error):
            raise
        cloudpickle = _find_cloudpickle()
        if cloudpickle is None:
            if isinstance(error, TypeError):  # a lock or a file: cloudpickle refuses most of them as well
                raise
            raise PicklingError(f"{error}. {_ADVICE}") from error
        buffers.clear()
        return _dump_by_value(cloudpickle, value, in_band), buffers

    # `find`, because `in` takes several times as long for `bytes`.
    if data.find(b"multiprocessing.connection") >= 0 and not has_reducers():
        # Plain pickle would send only the number of the connection's file descriptor.
        buffers.clear()
        return _dump_with_reducers(value, in_band), buffers

    if main_module.needs_main(data) and not (has_main and main_module.is_importable()):
        cloudpickle = _find_cloudpickle()
        if cloudpickle is not None:
            buffers.clear()
            return _dump_by_value(cloudpickle, value, in_band), buffers
        _MainRefuser(io.BytesIO(), 5, buffer_callback=lambda buffer: None).dump(value)

    return data, buffers


def _is_of_pickle(error: BaseException) -> bool:
    """Returns whether pickle itself has raised an exception. It is C code, so no other code has a frame in the traceback."""
    frames = error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_globals is not globals():
            return False
        frames = frames.tb_next
    return True


def _may_be_reducible(error: BaseException) -> bool:
    """Returns whether pickle itself, or a module whose types multiprocessing can pickle, has raised an exception."""
    frames, last = error.__traceback__, globals()
    while frames is not None:
        last = frames.tb_frame.f_globals
        frames = frames.tb_next
    return last is globals() or str(last.get("__name__")).partition(".")[0] in _OWN_MODULES


_OWN_MODULES = {"builtins", "functools", "socket", "_socket", "multiprocessing", "_multiprocessing"}
"""The modules for whose types multiprocessing itself registers reducers. Plain pickle does the same with them, or refuses
them, but for the connections."""

_seen_reducers = 0
"""The number of reducers at the last look."""
_has_others = False
"""Whether there were others than multiprocessing's own."""


def has_reducers() -> bool:
    """Returns whether the program has registered reducers of its own with ForkingPickler, which must be preferred."""
    global _seen_reducers, _has_others
    reduction = sys.modules.get("multiprocessing.reduction")
    # While another thread imports the module, the attribute may be missing.
    pickler: Any = getattr(reduction, "ForkingPickler", None)
    if pickler is None:
        return False
    if len(reducers := pickler._extra_reducers) != _seen_reducers:
        _has_others = any(kind.__module__.partition(".")[0] not in _OWN_MODULES for kind in list(reducers))
        _seen_reducers = len(reducers)
    return _has_others


def _dump_with_reducers(value: object, in_band: Callable[[PickleBuffer], bool]) -> bytes:
    from multiprocessing.reduction import ForkingPickler

    stream = io.BytesIO()
    ForkingPickler(stream, 5, True, in_band).dump(value)
    return stream.getvalue()


def _dump_by_value(cloudpickle: Any, value: object, in_band: Callable[[PickleBuffer], bool]) -> bytes:
    """Pickles with cloudpickle, and with the reducers of ForkingPickler for what cloudpickle does not know."""
    stream = io.BytesIO()
    _by_value_pickler(cloudpickle.Pickler)(stream, 5, in_band).dump(value)
    return stream.getvalue()


@functools.cache
def _by_value_pickler(pickler: Any) -> Any:
    from multiprocessing.reduction import ForkingPickler

    reducers: Any = ForkingPickler
    table: Any = ChainMap(*pickler.dispatch_table.maps[:1], reducers._extra_reducers, *pickler.dispatch_table.maps[1:])
    return type("ByValuePickler", (pickler,), {"dispatch_table": table})


def loads(data: Buffer, buffers: Iterable[object]) -> Any:
    """Unpickles a value that `dumps` has pickled. Large arrays share the memory of their buffer."""
    return pickle.loads(data, buffers=buffers)


def wrap_large(value: object) -> object:
    """Wraps large `bytes` or a large `bytearray` so that it travels out of band; returns other values unchanged.

    Unpickling gives the value itself, after one copy out of the buffer.
    """
    if type(value) is bytes and len(value) >= LARGE:
        return _Large(value)
    if type(value) is bytearray and len(value) >= LARGE:
        return _Large(value)
    return value


def wrap_call(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Returns the arguments of a call, each through `wrap_large`; the same objects if none is large."""
    for value in args:
        if type(value) is bytes or type(value) is bytearray:
            args = tuple(map(wrap_large, args))
            break
    for value in kwargs.values():
        if type(value) is bytes or type(value) is bytearray:
            kwargs = {key: wrap_large(value) for key, value in kwargs.items()}
            break
    return args, kwargs


class _Large:
    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._value = value

    def __reduce_ex__(self, protocol: object) -> tuple[type, tuple[PickleBuffer]]:
        return type(self._value), (PickleBuffer(self._value),)


_ADVICE = "Define it at the top level of a module, or `pip install offloop[cloudpickle]`."


def _find_cloudpickle() -> Any:
    try:
        return __import__("cloudpickle")
    except ImportError:
        return None


class _MainRefuser(pickle.Pickler):
    """Raises PicklingError for a function or class of `__main__`, but not for a string of that name."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (FunctionType, type)) and obj.__module__ == "__main__":
            raise PicklingError(
                f"{name_of(obj)} cannot be sent to a worker process, which cannot import what was "
                f"typed at a prompt, in a notebook or after -c. {_ADVICE}"
            )
        return NotImplemented

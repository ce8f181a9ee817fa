"""Calls and results as bytes: by plain pickle, and by cloudpickle for values that plain pickle refuses.

All pickles have protocol 5, so that large buffers travel beside the pickle instead of inside it.
"""

import importlib
import io
import pickle
from collections.abc import Callable, Iterable
from pickle import PickleBuffer, PicklingError
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .._calls import name_of
from . import main_module

if TYPE_CHECKING:
    from typing_extensions import Buffer

LARGE = 256 * 1024
"""The size in bytes from which `wrap_large` lets `bytes` and `bytearray` travel out of band."""


def dumps(value: object, keep: Callable[[PickleBuffer], bool]) -> tuple[bytes, list[PickleBuffer]]:
    """Pickles `value`. Buffers for which `keep` returns true are returned beside the pickle, in order.

    Values that plain pickle refuses go by cloudpickle, and so do objects defined in a `__main__` that workers
    cannot import. If cloudpickle is not installed, functions and classes that would need it raise PicklingError
    with advice. Exceptions of the user's own `__reduce__` and the like are raised unchanged.
    """
    buffers: list[PickleBuffer] = []

    def in_band(buffer: PickleBuffer) -> bool:
        if keep(buffer):
            buffers.append(buffer)
            return False
        return True

    try:
        data = pickle.dumps(value, 5, buffer_callback=in_band)
    except (PicklingError, AttributeError, TypeError) as refusal:
        # Pickle is C code: its own exceptions come from this frame, those of the user's methods from a deeper one.
        if refusal.__traceback__ is None or refusal.__traceback__.tb_next is not None:
            raise
        cloudpickle = _find_cloudpickle()
        if cloudpickle is None:
            if isinstance(refusal, TypeError):  # a lock or a file: cloudpickle refuses most of them as well
                raise
            raise PicklingError(f"{refusal}. {_ADVICE}") from refusal
        buffers.clear()
        return cloudpickle.dumps(value, 5, buffer_callback=in_band), buffers

    # `find`, because `in` takes several times as long for `bytes`.
    if data.find(b"multiprocessing.connection") >= 0:
        from multiprocessing.reduction import ForkingPickler

        # Plain pickle would send only the number of the connection's file descriptor.
        buffers.clear()
        stream = io.BytesIO()
        ForkingPickler(stream, 5, True, in_band).dump(value)
        return stream.getvalue(), buffers

    if main_module.needs_main(data) and not main_module.is_importable():
        cloudpickle = _find_cloudpickle()
        if cloudpickle is not None:
            buffers.clear()
            return cloudpickle.dumps(value, 5, buffer_callback=in_band), buffers
        _MainRefuser(io.BytesIO(), 5, buffer_callback=lambda buffer: None).dump(value)

    return data, buffers


def loads(data: "Buffer", buffers: Iterable[object]) -> Any:
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
        return importlib.import_module("cloudpickle")
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

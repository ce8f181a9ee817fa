"""The jobs of a cluster, in a worker process.

A request says what to run: a byte of flags, and then either the name of a task, its length in four bytes before it, and
plain arguments, or a pickled call as a packet.

The answer begins with a byte. `PLAIN`: the result follows, as plain data or as a packet. `ERROR`: the error follows, as
the engine encodes it. `FAILED`: a packet with the exception of a pickled call follows.

A packet is pickled data with large buffers beside the pickle: a mark that begins no plain data, a code as those of
replies, the number of parts, their lengths, and the parts. The first one is the pickle.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import importlib
import inspect
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from .. import _calls, _offloop
from . import main, pickling, remote_errors, streams
from .replies import RAISED, RESULT

if TYPE_CHECKING:
    from typing_extensions import Buffer

PICKLED = 1
"""The flag of a request with a pickled call."""
STREAMED = 2
"""The flag of a request whose items are sent one by one, before the answer."""

PLAIN = b"\0"
ERROR = b"\1"
FAILED = b"\2"

MARK = 0xC1
"""The first byte of a packet. No value of MessagePack begins with it."""

_TRACEBACK = "Traceback (most recent call last):"

_HEAD = struct.Struct("<BBI")
_NAME = struct.Struct("<I")


def pack(code: int, body: Buffer, buffers: Sequence[PickleBuffer] = (), prefix: bytes = b"") -> bytes:
    """Returns a packet, behind some bytes."""
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    lengths = struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts))
    return b"".join((prefix, _HEAD.pack(MARK, code, len(parts)), lengths, *parts))


def unpack(packet: Buffer) -> tuple[int, memoryview, list[memoryview]]:
    """Returns the code, the body and the buffers of a packet. Raises ValueError if it is none."""
    view = memoryview(packet)
    try:
        mark, code, count = _HEAD.unpack_from(view)
        if mark != MARK or not 1 <= count <= view.nbytes // 8:
            raise ValueError("this is no packet")
        lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    except struct.error:
        raise ValueError("a packet is cut short") from None
    at = _HEAD.size + 8 * count
    if at + sum(lengths) != view.nbytes:
        raise ValueError("a packet has another length than its parts")
    parts: list[memoryview] = []
    for length in lengths:
        parts.append(view[at : at + length])
        at += length
    return code, parts[0], parts[1:]


def pickle_value(value: object, prefix: bytes = b"") -> bytes:
    """Returns a result or an item as a packet."""
    body, buffers = pickling.dumps(pickling.wrap_large(value), main.travels_beside)
    return pack(RESULT, body, buffers, prefix)


def called(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a function. Stands in a pickled call for a worker elsewhere, which cannot import this program's main module."""
    return fn(*args, **kwargs)


def run(request: bytearray) -> main.Encoded:
    """Runs a job, and returns its answer."""
    flags = request[0]
    try:
        fn, args, kwargs = _read(flags, memoryview(request)[1:])
        encode = pickle_value if flags & PICKLED else _encode_plain
        if flags & STREAMED:
            streams.send(
                lambda: _called(fn, args, kwargs), lambda item: _offloop.emit((RESULT, encode(item, b""), ()))
            )
            return main.Encoded(encode(None, PLAIN))
        return main.Encoded(encode(_called(fn, args, kwargs), PLAIN))
    except BaseException as error:
        if flags & PICKLED:
            return main.Encoded(pack(RAISED, remote_errors.pack(error), (), FAILED))
        return main.Encoded(ERROR + _describe(error))


def _called(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Returns the result of a call, which is nothing that runs on an event loop only."""
    value = fn(*args, **kwargs)
    _calls.check_result(fn, value)
    return value


def _read(flags: int, request: memoryview) -> main.Call:
    """Returns the call of a request."""
    if flags & PICKLED:
        _, body, buffers = unpack(request)
        main.prepare_to_load(body)
        return main.load_call(body, buffers)
    (length,) = _NAME.unpack_from(request)
    end = _NAME.size + length
    name = str(request[_NAME.size : end], "utf-8")
    return _find(name), _offloop.decode_plain_arguments(bytes(request[end:])), {}


def _encode_plain(value: object, prefix: bytes) -> bytes:
    return prefix + _offloop.encode_plain(value)


def _describe(error: BaseException) -> bytes:
    """Returns an exception as an error of the engine, which programs in other languages read, too."""
    _, type_name, text, formatted, notes = _offloop.decode_data(remote_errors.pack(error), ())
    # Its lines are told apart, so a text has none of its own.
    message = "\n".join((f"{type_name}: {text}".replace("\n", " "), *notes))
    # By this line the other side knows an exception of Python.
    if _TRACEBACK not in formatted:
        formatted = f"{_TRACEBACK}\n{formatted}"
    return _offloop.encode_plain(
        {"kind": "panicked", "message": message, "location": None, "backtrace": formatted}
    )


def _find(task: str) -> Callable[..., Any]:
    """Returns the function of a task. The agent has checked that the worker offers it."""
    module, _, qualname = task.partition(":")
    value: Any = sys.modules.get(module) or importlib.import_module(module)
    for name in qualname.split("."):
        value = getattr(value, name)
    function: Callable[..., Any] = value
    return function


def offers(modules: Iterable[str]) -> list[str]:
    """Returns the names of the tasks in these modules: their public functions, those of `__all__` if a module has it.

    Called in a worker process, so that the agent imports none of them.
    """
    return [f"{module}:{name}" for module in modules for name in _functions(module)]


def _functions(module: str) -> list[str]:
    loaded = importlib.import_module(module)
    names: Iterable[str] | None = getattr(loaded, "__all__", None)
    if names is None:
        names = [name for name in vars(loaded) if not name.startswith("_")]
    return [name for name in names if _is_task(getattr(loaded, name), module)]


def _is_task(value: Any, module: str) -> bool:
    """Returns whether a value is a function that the module defines, and that a worker can run."""
    if isinstance(value, type) or not callable(value) or getattr(value, "__module__", None) != module:
        return False
    return not inspect.iscoroutinefunction(value) and not inspect.isasyncgenfunction(value)

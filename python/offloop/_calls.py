"""Checks of the functions that pools are given: workers call sync functions, whose results are not coroutines."""

from __future__ import annotations

import functools
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FunctionType,
    MethodType,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from typing import Any, TypeVar

    _R = TypeVar("_R")

    AsyncResult = Coroutine[Any, Any, Any] | AsyncGenerator[Any, Any]
    """The results of the functions that workers do not run."""


class AsyncFunctionRefused:
    """The type of a call of an async function, for type checkers: it cannot be awaited, so they refuse the call.

    Workers run sync functions. Await the async function on the event loop, without the pool.
    """


# A call of such a function runs none of its code: it returns something to await or to iterate.
# The numbers are those of `inspect`, which takes long to import: CO_COROUTINE, CO_ITERABLE_COROUTINE,
# CO_ASYNC_GENERATOR.
_ASYNC_FLAGS = 0x80 | 0x100 | 0x200


def check_sync(fn: Callable[..., object]) -> None:
    """Raises TypeError if a call of `fn` runs an async function.

    Sees through partials, bound methods and objects with an async `__call__`. An async function behind
    another wrapper is found by its result: see `check_result`.
    """
    kind = type(fn)
    if kind is FunctionType:
        if not fn.__code__.co_flags & _ASYNC_FLAGS:
            return
    elif kind is BuiltinFunctionType or kind is type:
        return
    elif not callable(fn):
        raise _no_function(fn)
    elif not _flags(fn) & _ASYNC_FLAGS:
        return
    raise TypeError(
        f"{name_of(fn)} is an async function, and workers run sync functions: await it on the "
        f"event loop, or move its blocking part into a sync function and pass that. "
        f"{_RUN_ELSEWHERE}"
    )


def _no_function(given: object) -> TypeError:
    """Returns the exception for a value in the place of a function: often the result of a call."""
    if isinstance(given, CoroutineType):
        # It would be reported as never awaited.
        given.close()
        return TypeError(
            f"{given.__qualname__}() was called, and its coroutine was given in place of a function. Await a coroutine on "
            f"the event loop. Workers run sync functions: give the function, and its arguments after it."
        )
    return TypeError(
        f"a value of type {type(given).__name__} was given in place of a function: give the function, and its arguments after it, as "
        f"in `run(function, 1)`; `run(function(1))` calls it at once, here"
    )


def check_result(fn: Callable[..., object], value: object) -> None:
    """Raises TypeError if `fn` returned a coroutine or an async generator, which would never run."""
    kind = type(value)
    if kind is CoroutineType:
        coroutine: Any = value
        import inspect

        if inspect.getcoroutinestate(coroutine) == "CORO_CREATED":
            # Closing a coroutine that has not begun runs none of its code, and avoids the warning that it was
            # never awaited.
            coroutine.close()
        what = "a coroutine"
    elif kind is AsyncGeneratorType:
        what = "an async generator"
    else:
        return
    raise TypeError(
        f"{name_of(fn)} returned {what}, which can only run on the event loop it was made for: "
        f"call the function there, without the pool. {_RUN_ELSEWHERE}"
    )


def call_each(fn: Callable[..., _R], *items: tuple[object, ...]) -> list[_R]:
    """Calls `fn` with each of the items, and returns the results. The call that `map` submits."""
    values: list[_R] = []
    for item in items:
        value = fn(*item)
        check_result(fn, value)
        values.append(value)
    return values


def call_streamed(
    fn: Callable[..., _R], send: Callable[[_R], object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Calls `fn`, and sends what it returns. The call that `stream` submits to threads."""
    items = fn(*args, **kwargs)
    check_result(fn, items)
    send(items)


_RUN_ELSEWHERE = (
    "To run it in a worker nevertheless, pass a sync function that calls asyncio.run() on it, "
    "as in `lambda: asyncio.run(fn())`."
)


def name_of(fn: object) -> str:
    """Returns `module.qualname` of the function that a call of `fn` ends in, for messages. Never raises."""
    try:
        target = _unwrap(fn)
        return _dotted(target) or _dotted(type(target)) or object.__repr__(target)
    except Exception:  # attribute access on the user's object may raise anything
        return object.__repr__(fn)


def _dotted(target: object) -> str | None:
    name: object = getattr(target, "__qualname__", None) or getattr(target, "__name__", None)
    module: object = getattr(target, "__module__", None)
    if not isinstance(name, str):
        return None
    return f"{module}.{name}" if isinstance(module, str) else name


def _unwrap(fn: object) -> object:
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        else:
            return fn


def _flags(fn: object) -> int:
    target = _unwrap(fn)
    if not isinstance(target, FunctionType):
        target = _unwrap(getattr(type(target), "__call__", None))
    code: object = getattr(target, "__code__", None)
    return code.co_flags if isinstance(code, CodeType) else 0

"""Jobs that end with exceptions which mean something else elsewhere."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import Any, NoReturn

from offloop import WorkerStartError


class Oops(Exception):
    pass


def fails(*_: object) -> NoReturn:
    raise Oops


def ends_iteration(number: int = 99) -> int:
    """Raises StopIteration where nothing is found."""
    return next(iter([known for known in (10, 20, 30) if known > number]))


def ends_async_iteration(*_: object) -> NoReturn:
    raise StopAsyncIteration


class Stop(StopIteration):
    pass


def stops(*_: object) -> NoReturn:
    raise Stop


def items_then_stop() -> Iterator[int]:
    yield 1
    next(iter(()))


def cancelled_inside(*_: object) -> NoReturn:
    raise concurrent.futures.CancelledError("a future within the job")


def cancelled_loop_inside(*_: object) -> NoReturn:
    raise asyncio.CancelledError("a task within the job")


def cancelled_inside_after_an_item() -> Iterator[int]:
    yield 1
    cancelled_inside()


def start_error_inside() -> NoReturn:
    raise WorkerStartError("of a pool within the job")


class FailsToPickle:
    def __reduce__(self) -> NoReturn:
        raise Oops


def fails_here(*_: object) -> NoReturn:
    raise Oops


class FailsToUnpickle:
    def __reduce__(self) -> Any:
        return fails_here, (1,)


def returns_what_cannot_be_unpickled() -> object:
    return FailsToUnpickle()


def yields_what_cannot_be_unpickled() -> Iterator[object]:
    yield 1
    yield FailsToUnpickle()
    yield 2

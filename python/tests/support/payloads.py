"""Jobs on arrays and large bytes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def describe(array: Any) -> tuple[bool, bool, bool, tuple[int, ...], str, int]:
    flags = array.flags
    total = int(array.sum())
    return (
        flags.writeable,
        flags.c_contiguous,
        flags.f_contiguous,
        array.shape,
        str(array.dtype),
        total,
    )


def fill(array: Any, value: int) -> int:
    array.fill(value)
    return int(array.sum())


def increment(array: Any) -> Any:
    array += 1
    return array


def arrays(count: int, length: int) -> list[Any]:
    return [np.full(length, n) for n in range(count)]


def make(length: int) -> Any:
    return np.arange(length, dtype=np.int64)


def base(array: Any) -> Any:
    """Returns the object that owns an array's memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def owner(array: Any) -> str:
    return type(base(array)).__name__


_kept: list[Any] = []


def keep(array: Any) -> int:
    _kept.append(array)
    return os.getpid()


def kept_sums() -> tuple[int, list[int]]:
    return os.getpid(), [int(array.sum()) for array in _kept]


def kind_and_value(value: Any) -> tuple[str, bytes]:
    return type(value).__name__, bytes(value)


def of_kind(kind: str, data: bytes) -> Any:
    return {"bytes": bytes, "bytearray": bytearray}[kind](data)

"""`results="data"`: what plain values become, and that nothing of a worker that was taken over is unpickled."""

from __future__ import annotations

import array
import logging
import os
import pickle
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
from support import jobs

from offloop import ProcessPoolExecutor, RemoteError, WorkerStartError
from offloop._offloop import decode_data, encode_data
from offloop._worker.replies import LOG


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, results="data") as pool:
        yield pool


class Number(IntEnum):
    ONE = 1


def nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


PLAIN: list[object] = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**200),
    0.0,
    -1.5,
    float("inf"),
    "",
    "text \0 ü 🦀",
    "a name from the file system \udcff",
    b"",
    b"bytes",
    bytearray(b"more"),
    b"x" * 3_000_000,
    bytearray(b"y" * 3_000_000),
    "s" * 3_000_000,
    [],
    (),
    {},
    set(),
    frozenset(),
    [1, (2, [3.0, {"k": {4, 5}, (6,): frozenset({b"7"})}])],
    {None: None, True: 1, "a": b"b"},
    nested(128),
]


def alike(left: Any, right: Any) -> bool:
    """Compares values and their types, in containers as well."""
    if type(left) is not type(right):
        return False
    if type(left) in (list, tuple):
        return len(left) == len(right) and all(map(alike, left, right))
    if type(left) is dict:
        return alike(list(left.items()), list(right.items()))
    return bool(left == right)


def test_plain_values_arrive_as_they_are(pool: ProcessPoolExecutor) -> None:
    for value in PLAIN:
        assert alike(pool.submit(jobs.echo, value).result(60), value), repr(value)[:60]


def test_views_arrive_as_views_of_their_own(pool: ProcessPoolExecutor) -> None:
    for source in (
        numpy.arange(30_000, dtype=numpy.float64).reshape(3, 10_000),
        numpy.arange(7, dtype=numpy.int16),
        numpy.zeros(0, dtype=numpy.uint8),
        array.array("i", range(5)),
    ):
        view = pool.submit(memoryview, source).result(60)
        assert type(view) is memoryview and not view.readonly
        assert numpy.array_equal(numpy.asarray(view), numpy.asarray(source))
        assert view.format == memoryview(source).format


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object, "builtins.type"),
        (Number.ONE, "Number"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        ([{"deep": (1j,)}], "builtins.complex"),
        (numpy.float64(1), "numpy.float64"),
    ],
    ids=str,
)
def test_other_values_are_errors_that_name_their_type(
    pool: ProcessPoolExecutor, value: object, name: str
) -> None:
    error = pool.submit(jobs.echo, value).exception(60)
    assert isinstance(error, RemoteError)
    assert error.type_name == "TypeError" and f"{name}; make it one of these" in error.text


def return_a_cycle() -> object:
    value: list[object] = []
    value.append(value)
    return value


def test_values_that_are_too_deep_are_errors(pool: ProcessPoolExecutor) -> None:
    for fn, args in ((nested, (129,)), (nested, (100_000,)), (return_a_cycle, ())):
        error = pool.submit(fn, *args).exception(60)
        assert isinstance(error, RemoteError) and "nested more than 128 levels" in error.text


class Special(ValueError):
    pass


def fail() -> None:
    raise Special("the reason")


def test_an_exception_arrives_as_text(pool: ProcessPoolExecutor) -> None:
    error = pool.submit(fail).exception(60)
    assert type(error) is RemoteError
    assert (error.type_name, error.text) == (f"{__name__}.Special", "the reason")
    assert "in fail" in str(error.__cause__)
    assert 'results="data"' in str(error)


def numbers(count: int) -> Iterator[object]:
    for number in range(count):
        yield {"number": number}
    raise Special("no more")


def test_items_and_maps_are_data_too(pool: ProcessPoolExecutor) -> None:
    assert list(pool.map(jobs.double, range(10), chunksize=3)) == [2 * n for n in range(10)]
    stream = pool.stream(numbers, 2)
    assert [next(stream), next(stream)] == [{"number": 0}, {"number": 1}]
    with pytest.raises(RemoteError, match="no more"):
        next(stream)


def test_the_thread_that_runs_a_call_itself_gets_data_too() -> None:
    with ProcessPoolExecutor(1, results="data", queue_capacity=1, on_full="caller_runs") as pool:
        futures = [pool.submit(nap, 0.2, n) if n < 2 else pool.submit(jobs.echo, n) for n in range(6)]
        assert [future.result(60) for future in futures] == list(range(6))
        errors = [pool.submit(jobs.echo, 1j) for _ in range(4)]
        assert all(isinstance(future.exception(60), RemoteError) for future in errors)


def nap(seconds: float, value: object) -> object:
    time.sleep(seconds)
    return value


def refuse() -> None:
    raise Special("no licence")


def test_an_initializer_that_fails_is_reported() -> None:
    with ProcessPoolExecutor(1, results="data", initializer=refuse) as pool:
        error = pool.submit(jobs.double, 1).exception(60)
    assert isinstance(error, WorkerStartError) and "no licence" in str(error)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="results is 'json'; it must be 'pickle' or 'data'"):
        ProcessPoolExecutor(1, results="json")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


class Bomb:
    """Makes a directory where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return os.mkdir, (self.path,)


def take_over(code: int, bomb: bytes, body: bytes) -> None:
    """Makes this worker answer its next calls as an attacker might."""
    from offloop import _offloop

    def answer(*_: object) -> Any:
        _offloop.emit((LOG, bomb, ()))
        _offloop.emit((LOG, log, ()))
        return code, body, ()

    log = encode_data(({"name": "hostile", "levelno": 30, "msg": "%s", "args": ("x",)}, {"x": bomb}, [bomb]), False)[0]
    hostile: Any = ModuleType("hostile")
    hostile.awaits_main = hostile.awaits_multiprocessing = False
    hostile.run_in_context = None  # calling it raises
    hostile.failed = answer
    _offloop.set_performer(hostile, None)


def replies(bomb: bytes) -> list[tuple[int, bytes, type[BaseException]]]:
    remote_error = encode_data((bomb, "builtins.OSError", "text", "traceback", ["note"]), False)[0]
    return [
        (0, bomb, ValueError),
        (1, bomb, ValueError),
        (2, bomb, ValueError),
        (9, bomb, ValueError),
        (1, encode_data([bomb], False)[0], ValueError),
        (1, encode_data((bomb, "a", "b", "c", [1]), False)[0], ValueError),
        (1, remote_error, RemoteError),
        (2, remote_error, RemoteError),
        (9, remote_error, RemoteError),
    ]


@pytest.mark.parametrize("which", range(9))
def test_nothing_that_a_worker_has_sent_is_unpickled(
    tmp_path: Path, which: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    made = tmp_path / "made"
    bomb = pickle.dumps(Bomb(made))
    code, body, expected = replies(bomb)[which]
    with ProcessPoolExecutor(1, results="data") as pool:
        assert pool.submit(take_over, code, bomb, body).result(60) is None
        assert type(pool.submit(jobs.double, 1).exception(60)) is expected
        with pytest.raises(expected):
            list(pool.stream(numbers, 1))
        assert not made.exists()
    assert {(record.name, record.getMessage()) for record in caplog.records} == {("hostile", "%s")}


def test_with_pickle_a_worker_that_was_taken_over_has_the_parent(tmp_path: Path) -> None:
    # The guide says so, and why there is the other way.
    made = tmp_path / "made"
    with ProcessPoolExecutor(1) as pool:
        pool.submit(take_over, 0, b"", pickle.dumps(Bomb(made))).result(60)
        assert pool.submit(jobs.double, 1).exception(60) is None
    assert made.exists()


def random_value(source: random.Random, depth: int = 0) -> object:
    def some(hashable: bool) -> list[Any]:
        return [random_plain(source) if hashable else random_value(source, depth + 1) for _ in range(size)]

    size = source.randrange(5)
    kind = source.randrange(10) if depth < 6 else 9
    if kind == 0:
        return some(False)
    if kind == 1:
        return tuple(some(False))
    if kind == 2:
        return dict(zip(some(True), some(False), strict=True))
    if kind == 3:
        return set(some(True))
    if kind == 4:
        return frozenset(some(True))
    return random_plain(source)


def random_plain(source: random.Random) -> object:
    options: list[Callable[[], object]] = [
        lambda: None,
        lambda: source.random() < 0.5,
        lambda: source.randrange(-(2**90), 2**90),
        lambda: source.randrange(-1000, 1000),
        source.random,
        lambda: "".join(map(chr, source.choices(range(0x3000), k=source.randrange(9)))),
        lambda: source.randbytes(source.randrange(9)),
    ]
    return source.choice(options)()


def test_data_of_any_bytes_are_a_value_or_a_value_error() -> None:
    source = random.Random(5)
    for _ in range(20_000):
        value = random_value(source)
        body, buffers = encode_data(value, False)
        assert buffers == [] and alike(decode_data(body, ()), value)
        changed = bytearray(body)
        for _ in range(source.randrange(1, 4)):
            place = source.randrange(len(changed) + 1)
            changed[place : place + source.randrange(3)] = source.choice(
                [b"", source.randbytes(1), b"\0\0", b"\xff\xff\xff\xff", b"l\1\0\0\0", b"B", b"m"]
            )
        try:
            again = decode_data(bytes(changed), [b"12345678"])
        except ValueError:
            continue
        encode_data(again, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"NN",
        b"?",
        b"l\xff\xff\xff\xff",
        b"d\1\0\0\0l\0\0\0\0N",
        b"S\1\0\0\0l\0\0\0\0",
        b"s\2\0\0\0\xff\xff",
        b"b\5\0\0\0four",
        b"B",
        b"md\1" + b"\xff" * 8,
        b"md\2" + b"\xff" * 16,
        b"l\1\0\0\0" * 129 + b"N",
        b"l\1\0\0\0" * 1_000_000,
    ],
    ids=lambda body: repr(body)[:24],
)
def test_malformed_data_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="malformed data"):
        decode_data(body, ())

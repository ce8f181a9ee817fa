import functools
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from pickle import PickleBuffer, PicklingError
from typing import Any, NoReturn

import pytest

from offloop._worker import pickling
from offloop._worker.pickling import LARGE, dumps, loads, wrap_call, wrap_large


def beside(buffer: PickleBuffer) -> bool:
    return True


def inside(buffer: PickleBuffer) -> bool:
    return False


def round_trip(value: object) -> Any:
    data, buffers = dumps(value, beside)
    return loads(data, [bytes(buffer) for buffer in buffers])


@pytest.fixture
def no_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in `sys.modules` is the import system's mark for a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


needs_cloudpickle = pytest.mark.skipif(
    pickling._find_cloudpickle() is None,  # pyright: ignore[reportPrivateUsage]
    reason="cloudpickle is not installed",
)


def add(a: int, b: int) -> int:
    return a + b


def make_local(n: int) -> Callable[[int], int]:
    def local(x: int) -> int:
        return x + n

    return local


def test_a_call_comes_back_as_it_was() -> None:
    call = (add, (1, 2), {"b": functools.partial(add, 3)})
    fn, args, kwargs = round_trip(call)
    assert (fn, args) == (add, (1, 2))
    assert kwargs["b"](4) == 7


def test_keep_chooses_which_buffers_travel_beside() -> None:
    big, small = PickleBuffer(b"b" * 1000), PickleBuffer(b"s")
    data, buffers = dumps([big, small, big], lambda buffer: buffer.raw().nbytes > 10)
    assert [buffer.raw().nbytes for buffer in buffers] == [1000, 1000]
    assert b"b" * 1000 not in data
    assert loads(data, [b"1", b"2"]) == [b"1", b"s", b"2"]


# Local functions and the like, which need cloudpickle


@needs_cloudpickle
def test_lambdas_and_closures_travel_by_cloudpickle() -> None:
    assert round_trip(make_local(1))(2) == 3
    assert round_trip(lambda: 5)() == 5
    assert round_trip(sys) is sys


@needs_cloudpickle
def test_a_refused_first_attempt_leaves_no_buffers_behind() -> None:
    array = PickleBuffer(b"x" * 100)
    data, buffers = dumps((array, make_local(1)), beside)
    assert len(buffers) == 1
    assert loads(data, [b"y"])[0] == b"y"


@pytest.mark.usefixtures("no_cloudpickle")
@pytest.mark.parametrize(
    "value", [make_local(1), (add, (make_local(1),), {})], ids=["alone", "call"]
)
def test_without_cloudpickle_the_refusal_names_the_function_and_the_way_out(value: object) -> None:
    with pytest.raises(PicklingError) as refusal:
        dumps(value, beside)
    message = str(refusal.value)
    assert "make_local.<locals>.local" in message
    assert "top level of a module" in message
    assert "pip install offloop[cloudpickle]" in message
    assert isinstance(refusal.value.__cause__, (AttributeError, PicklingError))


@pytest.mark.usefixtures("no_cloudpickle")
def test_without_cloudpickle_a_lock_is_refused_as_pickle_refuses_it() -> None:
    with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object"):
        dumps(threading.Lock(), beside)


@needs_cloudpickle
def test_a_value_that_cloudpickle_refuses_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object"):
        dumps(threading.Lock(), beside)


# The user's own code


class Raises:
    count = 0

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        Raises.count += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        PicklingError("Error in pickle"),
        AttributeError("a"),
        TypeError("t"),
        SystemExit(3),
        OSError(),
    ],
    ids=repr,
)
def test_an_exception_of_reduce_is_raised_unchanged(error: BaseException) -> None:
    Raises.count = 0
    with pytest.raises(type(error)) as raised:
        dumps((add, (Raises(error),)), beside)
    assert raised.value is error
    assert raised.value.__cause__ is None
    assert Raises.count == 1


def test_an_exception_of_keep_is_raised_unchanged() -> None:
    error = TypeError("keep")

    def fails(buffer: PickleBuffer) -> bool:
        raise error

    with pytest.raises(TypeError) as raised:
        dumps(PickleBuffer(b"x"), fails)
    assert raised.value is error


# Large bytes


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_travel_beside_the_pickle_and_come_back_with_their_type(
    kind: type[bytes] | type[bytearray],
) -> None:
    value = kind(os.urandom(LARGE))
    data, buffers = dumps(wrap_large(value), beside)
    assert len(data) < 200
    assert len(buffers) == 1
    with buffers[0].raw() as raw, memoryview(value) as original:
        assert raw == original
    back = loads(data, [memoryview(bytes(value))])
    assert type(back) is kind
    assert back == value


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_may_also_travel_inside_the_pickle(kind: type[bytes] | type[bytearray]) -> None:
    value = kind(os.urandom(LARGE))
    data, buffers = dumps(wrap_large(value), inside)
    assert not buffers
    back = loads(data, [])
    assert type(back) is kind
    assert back == value


class Digest(bytes):
    pass


def test_only_large_bytes_are_wrapped() -> None:
    for value in [b"x" * (LARGE - 1), Digest(LARGE), "x" * LARGE, [b"x" * LARGE], None]:
        assert wrap_large(value) is value


def test_a_call_is_wrapped_only_where_it_is_large() -> None:
    args: tuple[object, ...] = (1, b"small")
    kwargs: dict[str, object] = {"a": "x" * LARGE}
    assert wrap_call(args, kwargs) == (args, kwargs)

    big = b"x" * LARGE
    call = (add, *wrap_call((1, big), {"a": 2, "b": bytearray(big)}))
    data, buffers = dumps(call, beside)
    assert len(buffers) == 2
    assert len(data) < 400
    assert round_trip(call) == (add, (1, big), {"a": 2, "b": bytearray(big)})


# A main module that workers cannot import


def at_a_prompt(code: str) -> str:
    prelude = "from offloop._worker.pickling import dumps, loads\ndef beside(b): return True\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def elsewhere(data: bytes) -> str:
    """Returns the result of the pickled function in a process with another main module."""
    code = f"import pickle; print(pickle.loads({data!r})())"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=True
    ).stdout.decode()


@needs_cloudpickle
def test_a_function_typed_at_a_prompt_travels_by_cloudpickle() -> None:
    printed = at_a_prompt("def f(): return 42\nprint(dumps(f, beside)[0])")
    assert elsewhere(eval(printed)) == "42\n"


@pytest.mark.parametrize("name", ["f", "C", "C()", "print_all.keywords['file']"])
def test_without_cloudpickle_a_name_typed_at_a_prompt_is_refused_at_once(name: str) -> None:
    printed = at_a_prompt(
        f"""
        import functools, pickle, sys
        sys.modules["cloudpickle"] = None
        def f(): return 42
        class C: pass
        print_all = functools.partial(print, file=C)
        try:
            dumps({name}, beside)
        except pickle.PicklingError as error:
            print(error)
        """
    )
    assert printed.startswith(("__main__.f cannot be sent", "__main__.C cannot be sent"))
    assert "pip install offloop[cloudpickle]" in printed


def test_without_cloudpickle_a_string_of_the_name_main_is_not_a_reference() -> None:
    at_a_prompt(
        """
        import datetime, json, sys
        sys.modules["cloudpickle"] = None
        value = (json.dumps, json.JSONEncoder, datetime.date(2020, 1, 1), "__main__")
        assert loads(*dumps(value, beside)) == value
        """
    )


# Objects that multiprocessing can send to a process


def test_a_connection_travels_with_its_file_descriptor(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    with here, there:
        data, buffers = dumps(there, beside)
        assert not buffers
        key = bytes(multiprocessing.current_process().authkey)
        code = f"""if True:
            import multiprocessing, pickle
            multiprocessing.current_process().authkey = {key!r}
            connection = pickle.loads({data!r})
            connection.send("hello")
        """
        subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
        assert here.poll(60)
        assert here.recv() == "hello"


def test_loads_shares_the_memory_of_the_buffers() -> None:
    numpy: Any = pytest.importorskip("numpy")
    array = numpy.arange(1000)
    data, _ = dumps(array, beside)
    memory = bytearray(array.nbytes)
    back = loads(data, [memory])
    memory[0] = 7
    assert back[0] == 7
    assert pickle.loads(data, buffers=[memory]).flags.writeable

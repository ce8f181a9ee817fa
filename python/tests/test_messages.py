"""Errors name the function, the argument or the option that they are about."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Iterator

import offloop
import pytest

GIVE_UP = 60

Pool = offloop.ThreadPoolExecutor | offloop.ProcessPoolExecutor


class Connection:
    def __init__(self) -> None:
        self.caches = {"users": [1, threading.Lock()]}


class Refuses:
    def __reduce__(self) -> str:
        raise ValueError("not for sale")


def load(*args: object, **kwargs: object) -> object:
    return None


def connect(*args: object) -> Connection:
    return Connection()


def connections() -> Iterator[Connection]:
    yield Connection()


@pytest.fixture
def processes() -> Iterator[offloop.ProcessPoolExecutor]:
    with offloop.ProcessPoolExecutor(1) as pool:
        yield pool


WHERE = r"at `\.caches\['users'\]\[1\]`"


def test_a_pickling_error_names_the_function_the_argument_and_the_place(
    processes: offloop.ProcessPoolExecutor,
) -> None:
    with pytest.raises(TypeError, match=rf"lock' object \(argument 2 of test_messages\.load, {WHERE}\)"):
        processes.submit(load, 1, Connection()).result(GIVE_UP)
    with pytest.raises(TypeError, match=r"\(argument 'connection' of test_messages\.load\)"):
        processes.submit(load, connection=threading.Lock()).result(GIVE_UP)
    with pytest.raises(TypeError, match=r"\(item 2 of test_messages\.load, at `\[0\]`\)"):
        list(processes.map(load, [1, threading.Lock()], chunksize=2))
    with pytest.raises(TypeError, match=r"\(argument 1 of test_messages\.load\)"):
        list(processes.stream(load, threading.Lock()))

    async def main() -> None:
        with pytest.raises(TypeError, match=rf"\(argument 1 of test_messages\.load, {WHERE}\)"):
            await processes.run(load, Connection())

    asyncio.run(main())


def test_an_exception_of_the_users_own_keeps_its_text_and_gets_a_note(
    processes: offloop.ProcessPoolExecutor,
) -> None:
    error = processes.submit(load, Refuses()).exception(GIVE_UP)
    assert isinstance(error, ValueError)
    assert error.args == ("not for sale",)
    # Since Python 3.14 pickle adds notes as well.
    assert "while pickling argument 1 of test_messages.load" in error.__notes__


def test_the_error_of_a_result_names_the_function_and_the_place(
    processes: offloop.ProcessPoolExecutor,
) -> None:
    with pytest.raises(TypeError, match=rf"\(the result of test_messages\.connect, {WHERE}\)"):
        processes.submit(connect).result(GIVE_UP)
    with pytest.raises(TypeError, match=r"\(the result of test_messages\.connect, at `\[0\]\.caches"):
        list(processes.map(connect, [1]))
    with pytest.raises(TypeError, match=rf"\(the result of test_messages\.connections, {WHERE}\)"):
        list(processes.stream(connections))


def test_a_payload_that_is_too_large_is_refused_by_the_name_of_the_option() -> None:
    with offloop.ProcessPoolExecutor(1, max_payload=100_000) as pool:
        for call in ((bytes, bytes(200_000)), (bytes, 200_000)):
            error = pool.submit(*call).exception(GIVE_UP)
            assert isinstance(error, offloop.OffloopError)
            assert "max_payload of 100000" in str(error)
            assert "builtins.bytes" in str(error)
            assert "message::" not in str(error)


async def asynchronous() -> None:
    pass


@pytest.mark.usefixtures("shared_pools_end")
def test_a_coroutine_in_place_of_a_function_is_refused_and_closed(
    processes: offloop.ProcessPoolExecutor,
) -> None:
    async def main(pool: Pool) -> None:
        for call in (pool.run, pool.options(timeout=1).run, pool.submit, pool.map):
            with pytest.raises(TypeError, match=r"asynchronous\(\) was called, and its coroutine"):
                call(asynchronous())  # type: ignore[operator]
        for call in (offloop.run, offloop.run_cpu, offloop.auto):
            with pytest.raises(TypeError, match=r"asynchronous\(\) was called, and its coroutine"):
                call(asynchronous())  # type: ignore[operator]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with offloop.ThreadPoolExecutor(1) as threads:
            asyncio.run(main(threads))
        asyncio.run(main(processes))
        gc.collect()


def test_the_result_of_a_call_in_place_of_a_function_is_refused(
    processes: offloop.ProcessPoolExecutor,
) -> None:
    for wrong in (3, None):
        with pytest.raises(TypeError, match="in place of a function"):
            processes.submit(wrong)  # type: ignore[call-overload]

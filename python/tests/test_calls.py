import asyncio
import functools
import re
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from offloop._calls import check_result, check_sync, name_of


def name(value: object) -> str:
    """Returns the name of a case, the same in each run."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


async def fetch() -> int:
    return 1


async def pages() -> AsyncIterator[int]:
    yield 1


def add(a: int, b: int = 0) -> int:
    return a + b


class Client:
    async def fetch(self) -> int:
        return 1

    @classmethod
    async def make(cls) -> "Client":
        return cls()

    @staticmethod
    async def ping() -> None: ...

    def read(self) -> int:
        return 1


class AsyncCallable:
    async def __call__(self) -> int:
        return 1


class SyncCallable:
    def __call__(self) -> int:
        return 1


ASYNC: list[Callable[..., object]] = [
    fetch,
    pages,
    Client().fetch,
    Client.fetch,
    Client.make,
    Client.ping,
    AsyncCallable(),
    functools.partial(fetch),
    functools.partial(functools.partial(fetch)),
    functools.partial(Client().fetch),
    functools.partial(AsyncCallable()),
    AsyncCallable().__call__,
]

SYNC: list[Callable[..., object]] = [
    add,
    time.sleep,
    len,
    "abc".upper,
    str.upper,
    int,
    AsyncCallable,
    Client().read,
    SyncCallable(),
    functools.partial(add, 1),
    functools.partial(time.sleep, 0),
    functools.lru_cache(add),
    lambda: None,
]


@pytest.mark.parametrize("fn", ASYNC, ids=name)
def test_an_async_function_is_refused_however_it_is_wrapped(fn: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="async function"):
        check_sync(fn)


@pytest.mark.parametrize("fn", SYNC, ids=name)
def test_a_sync_callable_passes(fn: Callable[..., object]) -> None:
    check_sync(fn)


def test_the_refusal_names_the_function_and_says_what_to_do() -> None:
    with pytest.raises(TypeError) as refusal:
        check_sync(functools.partial(Client().fetch))
    message = str(refusal.value)
    assert f"{__name__}.Client.fetch" in message
    assert "await it on the event loop" in message
    assert "asyncio.run" in message


def returns_coroutine() -> Coroutine[object, object, int]:
    return fetch()


def test_a_returned_coroutine_is_refused_and_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = returns_coroutine()
        with pytest.raises(TypeError, match="returns_coroutine returned a coroutine"):
            check_result(returns_coroutine, value)
        del value


def test_a_coroutine_that_has_begun_is_refused_without_running_its_code() -> None:
    ran: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ran.append("finally")

    coroutine = waits()
    coroutine.send(None)
    with pytest.raises(TypeError, match="returned a coroutine"):
        check_result(returns_coroutine, coroutine)
    assert not ran
    coroutine.close()


def test_a_returned_async_generator_is_refused_and_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="returned an async generator"):
            check_result(add, pages())


@pytest.mark.parametrize("value", [None, 1, b"", iter(()), object()], ids=name)
def test_other_results_pass(value: object) -> None:
    check_result(add, value)


class Hostile:
    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (add, f"{__name__}.add"),
        (functools.partial(functools.partial(add, 1), 2), f"{__name__}.add"),
        (Client().read, f"{__name__}.Client.read"),
        (SyncCallable(), f"{__name__}.SyncCallable"),
        (SyncCallable, f"{__name__}.SyncCallable"),
        (time.sleep, "time.sleep"),
        ("abc".upper, "str.upper"),
    ],
    ids=name,
)
def test_name_of_finds_the_function_under_the_wrappers(fn: object, name: str) -> None:
    assert name_of(fn) == name


def test_name_of_never_raises() -> None:
    assert "Hostile" in name_of(Hostile())

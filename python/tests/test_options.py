"""What a call is told beside its arguments: options, which take no argument of the function away."""

import asyncio
import concurrent.futures
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import offloop
import pytest
from offloop._offloop import CallOptions
from offloop._pools import default

GIVE_UP = 60

Pool = offloop.ThreadPoolExecutor | offloop.ProcessPoolExecutor


@pytest.fixture(params=[offloop.ThreadPoolExecutor, offloop.ProcessPoolExecutor])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with request.param(2) as pool:
        yield pool


@pytest.fixture
def shared_pools() -> Iterator[None]:
    """Ends the pools that the whole program shares, so that the next test has new ones."""
    yield
    for pool in (default._threads, default._processes):
        if pool is not None:
            pool.shutdown()
    default._reset_in_child()


def fetch(
    url: str, timeout: object = None, priority: object = None, **others: object
) -> dict[str, object]:
    return {"url": url, "timeout": timeout, "priority": priority, **others}


def fetches(url: str, **others: object) -> Iterator[dict[str, object]]:
    yield {"url": url, **others}


OWN = {"timeout": 5, "priority": "high", "queue_timeout": 1, "name": "n", "retries": 2, "buffersize": 3}
"""Keywords of a function that has the names of the options."""


def test_every_keyword_goes_to_the_function(pool: Pool, shared_pools: None) -> None:
    expected = {"url": "u", **OWN}

    async def main() -> list[dict[str, object]]:
        return [
            await pool.run(fetch, "u", **OWN),
            await pool.options(timeout=GIVE_UP, priority=1).run(fetch, "u", **OWN),
            await offloop.run(fetch, "u", **OWN),
            await offloop.run_cpu(fetch, "u", **OWN),
            await offloop.auto(fetch, "u", **OWN),
            await offloop.options(timeout=GIVE_UP, priority=1).run(fetch, "u", **OWN),
            await offloop.options(timeout=GIVE_UP, priority=1).run_cpu(fetch, "u", **OWN),
            await offloop.auto.options(timeout=GIVE_UP, priority=1)(fetch, "u", **OWN),
        ]

    assert asyncio.run(main()) == [expected] * 8
    assert pool.submit(fetch, "u", **OWN).result(GIVE_UP) == expected
    assert pool.options(priority=1).submit(fetch, "u", **OWN).result(GIVE_UP) == expected
    if isinstance(pool, offloop.ProcessPoolExecutor):
        assert list(pool.stream(fetches, "u", **OWN)) == [expected]
        assert list(pool.options(buffersize=1).stream(fetches, "u", **OWN)) == [expected]


def sleep_long() -> None:
    end = time.monotonic() + GIVE_UP
    while time.monotonic() < end and not offloop.is_cancelled():
        time.sleep(0.01)


def test_a_submitted_call_ends_when_its_time_is_over(pool: Pool) -> None:
    future = pool.options(timeout=0.05).submit(sleep_long)
    assert isinstance(future.exception(GIVE_UP), offloop.RunTimeout)
    assert not future.cancel()
    assert concurrent.futures.wait([future], GIVE_UP).done == {future}


def test_a_submitted_call_leaves_the_queue_when_its_queue_time_is_over() -> None:
    with offloop.ThreadPoolExecutor(1) as pool:
        gate = threading.Event()
        pool.submit(gate.wait, GIVE_UP)
        for options in ({}, {"timeout": GIVE_UP}):
            future = pool.options(queue_timeout=0.02, **options).submit(int)
            assert isinstance(future.exception(GIVE_UP), offloop.QueueTimeout)
        gate.set()


def test_a_submitted_call_with_limits_that_it_keeps_behaves_like_any_other(pool: Pool) -> None:
    limited = pool.options(timeout=GIVE_UP, queue_timeout=GIVE_UP)
    assert limited.submit(int, "3").result(GIVE_UP) == 3
    with pytest.raises(ValueError):
        limited.submit(int, "three").result(GIVE_UP)
    called: list[object] = []
    future = limited.submit(int)
    future.add_done_callback(called.append)
    concurrent.futures.wait([future], GIVE_UP)
    future.result()
    assert called == [future]


def test_a_limited_call_can_be_cancelled_while_it_is_queued() -> None:
    with offloop.ThreadPoolExecutor(1) as pool:
        gate = threading.Event()
        running = pool.options(timeout=GIVE_UP).submit(gate.wait, GIVE_UP)
        queued = pool.options(timeout=GIVE_UP).submit(int)
        assert queued.cancel()
        assert concurrent.futures.wait([queued], GIVE_UP).done == {queued}
        gate.set()
        assert running.result(GIVE_UP)


def test_a_function_that_stops_when_its_time_is_over_has_no_result() -> None:
    def stop() -> str:
        while not offloop.is_cancelled():
            pass
        return "stopped"

    with offloop.ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            future = pool.options(timeout=0.005).submit(stop)
            assert isinstance(future.exception(GIVE_UP), offloop.RunTimeout)


def test_the_result_of_a_call_that_goes_on_after_its_time_is_dropped(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with offloop.ThreadPoolExecutor(1) as pool:
        gate = threading.Event()
        future = pool.options(timeout=0.02).submit(gate.wait, GIVE_UP)
        error = future.exception(GIVE_UP)
        gate.set()
        assert pool.submit(int).result(GIVE_UP) == 0
        assert future.exception() is error
    assert capfd.readouterr().err == ""


def test_a_pool_with_options_is_an_executor_of_a_loop(pool: Pool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limited = pool.options(timeout=0.05)
        with pytest.raises(offloop.RunTimeout):
            await loop.run_in_executor(limited, sleep_long)
        assert await loop.run_in_executor(pool.options(timeout=GIVE_UP), int, "3") == 3

    asyncio.run(main())


def test_each_call_of_a_map_has_the_options(pool: Pool) -> None:
    assert list(pool.options(timeout=GIVE_UP).map(int, ["1", "2"])) == [1, 2]
    with pytest.raises(offloop.RunTimeout):
        list(pool.options(timeout=0.05).map(time.sleep, [0, GIVE_UP] if _kills(pool) else [0, 0.5]))


def _kills(pool: Pool) -> bool:
    return isinstance(pool, offloop.ProcessPoolExecutor)


def test_the_buffersize_of_the_options_is_that_of_a_map(pool: Pool) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    results = pool.options(buffersize=2).map(str, items())
    assert len(taken) == 2
    assert list(results) == [str(item) for item in range(10)]
    taken.clear()
    results = pool.options(buffersize=2).map(str, items(), buffersize=3)
    assert len(taken) == 3
    results.close()


def test_shutting_a_pool_with_options_down_shuts_the_pool_down(pool: Pool) -> None:
    with pool.options(timeout=GIVE_UP):
        pass
    with pytest.raises(RuntimeError):
        pool.submit(int)


def die_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os._exit(3)
    return "done"


def test_a_call_with_retries_is_given_to_another_worker_when_its_own_dies(tmp_path: Path) -> None:
    with offloop.ProcessPoolExecutor(1) as pool:

        async def main() -> None:
            assert await pool.options(retries=1).run(die_once, tmp_path / "run") == "done"
            with pytest.raises(offloop.WorkerDied):
                await pool.run(die_once, tmp_path / "no retry")

        asyncio.run(main())
        assert pool.options(retries=2).submit(die_once, tmp_path / "submit").result(GIVE_UP) == "done"
        with pytest.raises(ValueError, match="retries"):
            pool.options(retries=1).stream(fetches, "u")


def test_the_name_of_a_call_is_in_its_errors(pool: Pool) -> None:
    async def main() -> None:
        with pytest.raises(offloop.RunTimeout, match="nightly report"):
            await pool.options(timeout=0.05, name="nightly report").run(sleep_long)

    asyncio.run(main())
    if isinstance(pool, offloop.ProcessPoolExecutor):
        error = pool.options(name="nightly report").submit(os._exit, 3).exception(GIVE_UP)
        assert isinstance(error, offloop.WorkerDied)
        assert error.task == "nightly report"


MAKERS: list[Callable[..., Any]] = [offloop.options, offloop.auto.options]


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("timeout", -1, ValueError),
        ("timeout", float("nan"), ValueError),
        ("timeout", "5", TypeError),
        ("queue_timeout", -0.1, ValueError),
        ("priority", 128, ValueError),
        ("priority", 1.5, TypeError),
        ("name", 3, TypeError),
        ("retries", -1, ValueError),
        ("retries", 1.5, TypeError),
        ("buffersize", 0, ValueError),
        ("buffersize", 2.0, TypeError),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(
    pool: Pool, option: str, value: object, error: type[Exception]
) -> None:
    makers = [pool.options] if option == "buffersize" else [pool.options, *MAKERS]
    for make in makers:
        with pytest.raises(error, match=option):
            make(**{option: value})


def test_options_are_values(pool: Pool) -> None:
    for make in (*MAKERS, pool.options):
        options = make(timeout=5, name="n")
        assert options == make(timeout=5.0, name="n")
        assert options != make(timeout=6, name="n")
        assert hash(options) == hash(make(timeout=5.0, name="n"))
        assert "(timeout=5.0, name='n')" in repr(options)
    assert repr(offloop.options()) == "offloop.options()"
    given = CallOptions(timeout=1, queue_timeout=2, priority=3, name="n", retries=4, buffersize=5)
    assert (given.timeout, given.queue_timeout, given.priority) == (1.0, 2.0, 3)
    assert (given.name, given.retries, given.buffersize) == ("n", 4, 5)
    with pytest.raises(AttributeError):
        given.timeout = 3  # type: ignore[misc]


def test_all_ways_to_options_take_the_same_ones(pool: Pool) -> None:
    def names(make: Callable[..., Any]) -> dict[str, object]:
        parameters = inspect.signature(make).parameters.values()
        return {parameter.name: parameter.default for parameter in parameters}

    of_pools = names(pool.options)
    assert of_pools.pop("buffersize") is None
    for make in MAKERS:
        assert names(make) == of_pools

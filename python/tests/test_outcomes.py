"""Exceptions of jobs mean an error where their results are awaited or iterated over, and hold nothing in memory."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import outcomes, scripts

from offloop import ProcessPoolExecutor, ThreadPoolExecutor

Pool = Any
POOLS = [ThreadPoolExecutor, ProcessPoolExecutor]


@pytest.fixture(params=POOLS, ids=["threads", "processes"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with request.param(2) as pool:
        yield pool


def test_a_call_that_raises_stop_iteration_does_not_end_its_map(pool: Pool) -> None:
    results = pool.map(outcomes.ends_iteration, [5, 15, 99, 25])
    assert next(results) == 10
    assert next(results) == 20
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        next(results)
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("call", [outcomes.ends_iteration, outcomes.ends_async_iteration])
def test_a_call_does_not_end_an_async_loop_over_its_map(pool: Pool, call: Callable[..., Any]) -> None:
    async def main() -> list[Any]:
        return [value async for value in pool.map(call, [99, 99])]

    with pytest.raises(RuntimeError, match="Stop.*Iteration"):
        asyncio.run(main())


def test_progress_that_raises_stop_iteration_does_not_end_the_map(pool: Pool) -> None:
    def progress(_: int) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(pool.map(abs, [1, 2], progress=progress))


@pytest.mark.parametrize("call", [outcomes.ends_iteration, outcomes.ends_async_iteration])
def test_an_awaited_call_does_not_end_the_iterator_that_awaits_it(
    pool: Pool, call: Callable[..., Any]
) -> None:
    async def values() -> Any:
        yield 1
        yield await pool.run(call)

    async def main() -> list[Any]:
        return [value async for value in values()]

    with pytest.raises(RuntimeError, match="Stop.*Iteration"):
        asyncio.run(main())


@pytest.mark.parametrize("generator", [outcomes.ends_iteration, outcomes.ends_async_iteration])
def test_a_generator_function_that_raises_does_not_end_its_stream(generator: Callable[..., Any]) -> None:
    async def main(pool: ProcessPoolExecutor) -> list[Any]:
        return [item async for item in pool.stream(generator)]

    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="Stop.*Iteration"):
            list(pool.stream(generator))
        with pytest.raises(RuntimeError, match="Stop.*Iteration"):
            asyncio.run(main(pool))
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(pool.stream(outcomes.items_then_stop))


def test_an_item_that_cannot_be_unpickled_ends_its_stream_with_the_reason() -> None:
    with ProcessPoolExecutor(1) as pool:
        stream = pool.stream(outcomes.yields_what_cannot_be_unpickled)
        assert next(stream) == 1
        with pytest.raises(outcomes.Oops):
            next(stream)
        assert list(stream) == []
        assert pool.submit(abs, -1).result(30) == 1


def test_a_jobs_own_cancelled_error_is_its_exception(pool: Pool) -> None:
    future = pool.submit(outcomes.cancelled_inside)
    concurrent.futures.wait([future], 30)
    assert not future.cancelled()
    assert isinstance(future.exception(), concurrent.futures.CancelledError)


@pytest.mark.parametrize("call", [outcomes.cancelled_inside, outcomes.cancelled_loop_inside])
def test_a_jobs_own_cancelled_error_cancels_no_task(pool: Pool, call: Callable[..., Any]) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(step())

    async def step() -> None:
        await pool.run(call)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert caught.group_contains(concurrent.futures.CancelledError)


def test_a_jobs_own_cancelled_error_cancels_no_task_that_iterates(pool: Pool) -> None:
    async def main() -> None:
        async for _ in pool.map(outcomes.cancelled_loop_inside, [1]):
            pass

    with pytest.raises(concurrent.futures.CancelledError):
        asyncio.run(main())


def test_a_generators_own_cancelled_error_is_told_as_it_is() -> None:
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(concurrent.futures.CancelledError, match="a future within the job"):
            list(pool.stream(outcomes.cancelled_inside_after_an_item))


def test_an_engines_error_that_a_job_raises_itself_does_not_break_the_pool() -> None:
    with ProcessPoolExecutor(1, on_crash="break") as pool:
        error = pool.submit(outcomes.start_error_inside).exception(30)
        assert str(error) == "of a pool within the job"
        assert pool.submit(abs, -1).result(30) == 1


Way = Callable[[Pool], "weakref.ref[BaseException]"]


def by_submit(pool: Pool) -> weakref.ref[BaseException]:
    try:
        raise AssertionError(pool.submit(outcomes.fails).result(30))
    except outcomes.Oops as error:
        return weakref.ref(error)


def by_map(pool: Pool) -> weakref.ref[BaseException]:
    try:
        raise AssertionError(list(pool.map(outcomes.fails, [1])))
    except outcomes.Oops as error:
        return weakref.ref(error)


def by_map_of_stop_iteration(pool: Pool) -> weakref.ref[BaseException]:
    try:
        raise AssertionError(list(pool.map(outcomes.stops, [1])))
    except RuntimeError as error:
        assert error.__cause__ is not None
        return weakref.ref(error.__cause__)


def by_async_map(pool: Pool) -> weakref.ref[BaseException]:
    async def main() -> weakref.ref[BaseException]:
        try:
            raise AssertionError([value async for value in pool.map(outcomes.fails, [1])])
        except outcomes.Oops as error:
            return weakref.ref(error)

    return asyncio.run(main())


def by_run(pool: Pool) -> weakref.ref[BaseException]:
    async def main() -> weakref.ref[BaseException]:
        try:
            raise AssertionError(await pool.run(outcomes.fails))
        except outcomes.Oops as error:
            return weakref.ref(error)

    return asyncio.run(main())


def by_run_of_stop_iteration(pool: Pool) -> weakref.ref[BaseException]:
    async def main() -> weakref.ref[BaseException]:
        try:
            raise AssertionError(await pool.run(outcomes.stops))
        except RuntimeError as error:
            assert error.__cause__ is not None
            return weakref.ref(error.__cause__)

    return asyncio.run(main())


def by_stream(pool: Pool) -> weakref.ref[BaseException]:
    try:
        raise AssertionError(list(pool.stream(outcomes.fails)))
    except outcomes.Oops as error:
        return weakref.ref(error)


def by_pickling(pool: Pool) -> weakref.ref[BaseException]:
    try:
        raise AssertionError(pool.submit(abs, outcomes.FailsToPickle()).result(30))
    except outcomes.Oops as error:
        return weakref.ref(error)


def by_pickling_for_run(pool: Pool) -> weakref.ref[BaseException]:
    async def main() -> weakref.ref[BaseException]:
        try:
            raise AssertionError(await pool.run(abs, outcomes.FailsToPickle()))
        except outcomes.Oops as error:
            return weakref.ref(error)

    return asyncio.run(main())


def by_pickling_for_stream(pool: Pool) -> weakref.ref[BaseException]:
    try:
        raise AssertionError(list(pool.stream(abs, outcomes.FailsToPickle())))
    except outcomes.Oops as error:
        return weakref.ref(error)


def by_unpickling(pool: Pool) -> weakref.ref[BaseException]:
    try:
        raise AssertionError(pool.submit(outcomes.returns_what_cannot_be_unpickled).result(30))
    except outcomes.Oops as error:
        return weakref.ref(error)


IN_BOTH = [by_submit, by_map, by_map_of_stop_iteration, by_async_map, by_run, by_run_of_stop_iteration]
IN_PROCESSES = [by_stream, by_pickling, by_pickling_for_run, by_pickling_for_stream, by_unpickling]


@pytest.mark.parametrize(
    ("kind", "way"),
    [(kind, way) for kind in POOLS for way in IN_BOTH] + [(ProcessPoolExecutor, way) for way in IN_PROCESSES],
)
def test_an_exception_does_not_hold_itself(kind: Any, way: Way) -> None:
    with kind(1) as pool:
        gc.collect()
        gc.disable()
        try:
            left = way(pool)
            # The thread that has run the call may have it a little longer.
            deadline = time.monotonic() + 5
            while left() is not None:
                assert time.monotonic() < deadline, gc.get_referrers(left())
                time.sleep(0.005)
        finally:
            gc.enable()


NO_MEMORY = """
    import asyncio, resource, offloop

    UNLIMITED = resource.RLIM_INFINITY

    async def main(pool):
        return await asyncio.wait_for(pool.run(pow, 2, 3), 30)

    def attempt(call):
        try:
            return call() == 8
        except MemoryError:
            return True

    if __name__ == "__main__":
        with offloop.ProcessPoolExecutor(1) as processes, offloop.ThreadPoolExecutor(1) as threads:
            for pool in (processes, threads):
                pool.submit(pow, 2, 3).result(30)
                asyncio.run(main(pool))
            for _ in range(20):
                # Less than is in use, so that no further memory can be had.
                resource.setrlimit(resource.RLIMIT_AS, (50_000_000, UNLIMITED))
                ended = [attempt(lambda: pool.submit(pow, 2, 3).result(30)) for pool in (processes, threads)]
                resource.setrlimit(resource.RLIMIT_AS, (UNLIMITED, UNLIMITED))
                assert all(ended)
            print([pool.submit(pow, 2, 3).result(30) for pool in (processes, threads)])
            print(asyncio.run(main(processes)))
"""


def test_jobs_end_although_the_address_space_is_used_up(tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path / "program.py", NO_MEMORY))
    assert done.stdout == "[8, 8]\n8\n", done.stderr

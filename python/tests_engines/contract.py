"""The promises that hold on each engine: the contract of `concurrent.futures`, and what offloop's pools add to it.

The checks follow those that CPython has for its own executors, as far as they mean something when an engine runs the calls.
The files of the engines import them, so that each engine has a process of pytest-xdist for itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import operator
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import jobs
import numpy
import offloop
import pytest
from conftest import Executor, Trace
from waits import LIMIT, is_gone, until, until_gone

Make = Callable[..., Executor]


def start(pool: Executor, trace: Trace, count: int = 1) -> list[Any]:
    """Starts calls that run until they are killed, and waits until they run."""
    futures = [pool.submit(jobs.note_and_sleep, trace.path) for _ in range(count)]
    until(lambda: len(trace.pids()) == count, "the calls' begin")
    return futures


def fill(pool: Executor, trace: Trace) -> list[Any]:
    """Occupies all four places of the engine."""
    return start(pool, trace, 4)


# Submitting.


def test_a_call_returns_its_value(pool: Executor) -> None:
    assert pool.submit(pow, 2, 8).result(LIMIT) == 256
    assert pool.submit(jobs.add, 1, b=16).result(LIMIT) == 17
    assert pool.submit(dict, fn=1, self=2).result(LIMIT) == {"fn": 1, "self": 2}
    assert isinstance(pool, concurrent.futures.Executor)


def test_a_function_of_main_or_a_closure_travels_by_value(pool: Executor) -> None:
    offset = 5
    assert pool.submit(lambda number: number + offset, 2).result(LIMIT) == 7


def test_equal_calls_are_different_calls(pool: Executor, trace: Trace) -> None:
    futures = [pool.submit(jobs.note, trace.path) for _ in range(5)]
    assert sorted(future.result(LIMIT) for future in futures) == sorted(trace.pids())
    assert len(trace.pids()) == 5


def test_map_keeps_the_order_of_its_items(pool: Executor) -> None:
    assert list(pool.map(pow, range(10), range(10))) == [n**n for n in range(10)]
    assert list(pool.map(pow, range(7), range(7), chunksize=3)) == [n**n for n in range(7)]
    assert sorted(pool.map(operator.neg, range(9), ordered=False, buffersize=2)) == list(range(-8, 1))


def test_map_raises_the_exception_where_its_result_would_come(pool: Executor) -> None:
    results = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_ends_after_its_timeout(pool: Executor, trace: Trace) -> None:
    with pytest.raises(TimeoutError):
        list(pool.map(jobs.note_and_sleep, [trace.path], timeout=0.5))
    pool.submit(int).result(LIMIT)


def test_buffers_may_be_changed_after_submit_and_arrive_as_they_were(pool: Executor) -> None:
    data = bytearray(b"a" * 1_000_000)
    array = numpy.zeros(500_000)
    futures = [pool.submit(bytes, data), pool.submit(numpy.sum, array)]
    data[:] = b"b" * len(data)
    array += 1
    assert futures[0].result(LIMIT) == b"a" * 1_000_000
    assert futures[1].result(LIMIT) == 0


def test_large_arguments_and_results_arrive(pool: Executor) -> None:
    data = bytes(range(256)) * 40_000
    assert pool.submit(jobs.double, data).result(LIMIT) == data + data
    assert pool.submit(jobs.size, [data, data]).result(LIMIT) == 2


def test_nothing_is_kept_of_a_call_that_has_ended(pool: Executor) -> None:
    class Thing:
        pass

    thing = Thing()
    gone = threading.Event()
    weakref.finalize(thing, gone.set)
    future = pool.submit(id, thing)
    del thing
    future.result(LIMIT)
    gc.collect()
    assert gone.wait(LIMIT)


def test_done_callbacks_are_called_once(pool: Executor) -> None:
    called: list[Any] = []
    ended = threading.Event()
    future = pool.submit(jobs.add, 1)
    future.add_done_callback(called.append)
    future.add_done_callback(lambda _: ended.set())
    assert ended.wait(LIMIT)
    assert called == [future]


def test_an_async_function_is_refused(pool: Executor) -> None:
    with pytest.raises(TypeError, match="async function"):
        pool.submit(jobs.asynchronous)
    with pytest.raises(TypeError, match="returned a coroutine"):
        pool.submit(jobs.returns_coroutine).result(LIMIT)


# Exceptions.


def test_an_exception_arrives_by_its_own_type_with_the_remote_traceback(pool: Executor) -> None:
    error = pool.submit(jobs.fail, "value").exception(LIMIT)
    assert type(error) is ValueError and error.args == ("this value", 7)
    assert 'raise ValueError("this value", 7)' in str(error.__cause__)
    # Nothing of the engine's or of ours stands between.
    assert str(error.__cause__).count("File ") == 1
    error = pool.submit(jobs.fail, "own").exception(LIMIT)
    assert type(error) is jobs.OwnError and error.__notes__ == ["a note"]


def test_an_exception_that_cannot_be_unpickled_is_named(pool: Executor) -> None:
    error = pool.submit(jobs.fail, "unfit").exception(LIMIT)
    assert isinstance(error, offloop.RemoteError)
    assert error.type_name == "jobs.Unfit"
    assert "Unfit" in str(error.__cause__)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("base", BaseException), ("exit", SystemExit), ("interrupt", KeyboardInterrupt)],
)
def test_exceptions_that_would_end_a_program_end_the_call_alone(
    pool: Executor, kind: str, expected: type[BaseException]
) -> None:
    future = pool.submit(jobs.fail, kind)
    assert type(future.exception(LIMIT)) is expected
    assert pool.submit(jobs.add, 1).result(LIMIT) == 1


def test_what_cannot_be_pickled_ends_its_own_call(pool: Executor) -> None:
    error = pool.submit(jobs.add, threading.Lock()).exception(LIMIT)
    assert isinstance(error, TypeError) and "argument 1 of jobs.add" in str(error)
    error = pool.submit(jobs.result_that_cannot_be_pickled).exception(LIMIT)
    assert isinstance(error, TypeError) and "jobs.result_that_cannot_be_pickled" in str(error)
    assert pool.submit(jobs.add, 1).result(LIMIT) == 1


# Cancelling and limits.


def test_a_cancelled_queued_call_never_runs(pool: Executor, trace: Trace, tmp_path: Any) -> None:
    running = fill(pool, trace)
    other = Trace(tmp_path / "other")
    queued = pool.submit(jobs.note, other.path)
    assert queued.cancel() and queued.cancelled() and queued.done()
    for future in running:
        assert future.cancel()
    with pytest.raises(CancelledError):
        queued.result(LIMIT)
    assert pool.submit(jobs.add, 1).result(LIMIT) == 1
    assert other.pids() == []


def test_a_cancelled_running_call_is_killed(pool: Executor, trace: Trace) -> None:
    (future,) = start(pool, trace)
    until(future.running, "the report of the begin")
    assert future.cancel() and future.cancelled() and not future.running()
    with pytest.raises(CancelledError):
        future.result(LIMIT)
    until_gone(trace.pids()[0])
    assert pool.submit(jobs.add, 1).result(LIMIT) == 1


def test_a_hundred_cancelled_calls_end_and_leave_the_engine_free(pool: Executor, trace: Trace) -> None:
    futures = [pool.submit(jobs.note_and_sleep, trace.path) for _ in range(100)]
    until(trace.pids, "the begin of a call")
    assert all(future.cancel() for future in futures)
    done, not_done = concurrent.futures.wait(futures, LIMIT)
    assert len(done) == 100 and not not_done
    assert list(pool.map(jobs.add, range(8))) == list(range(8))
    for pid in trace.pids():
        until_gone(pid)


def test_a_call_that_has_ended_cannot_be_cancelled(pool: Executor) -> None:
    future = pool.submit(jobs.add, 1)
    assert future.result(LIMIT) == 1
    assert not future.cancel() and not future.cancelled()


def test_a_timeout_kills_the_call(pool: Executor, trace: Trace) -> None:
    future = pool.options(timeout=0.5, name="the slow one").submit(jobs.note_and_sleep, trace.path)
    with pytest.raises(offloop.RunTimeout, match="the slow one"):
        future.result(LIMIT)
    until_gone(trace.pids()[0])
    assert pool.options(timeout=60).submit(jobs.add, 1).result(LIMIT) == 1


def test_a_queue_timeout_ends_a_call_that_has_not_begun(pool: Executor, trace: Trace, tmp_path: Any) -> None:
    running = fill(pool, trace)
    other = Trace(tmp_path / "other")
    future = pool.options(queue_timeout=0.5).submit(jobs.note, other.path)
    with pytest.raises(offloop.QueueTimeout):
        future.result(LIMIT)
    for blocker in running:
        blocker.cancel()
    assert pool.options(queue_timeout=60).submit(jobs.add, 1).result(LIMIT) == 1
    assert other.pids() == []


def test_a_queue_timeout_does_not_end_a_call_that_runs(pool: Executor, trace: Trace, tmp_path: Any) -> None:
    go = tmp_path / "go"
    pool.submit(jobs.add, 1).result(LIMIT)
    # An engine may need seconds to start a call on a busy machine.
    future = pool.options(queue_timeout=10).submit(jobs.note_and_wait_for, trace.path, str(go))
    until(trace.pids, "the begin")
    time.sleep(10.2)
    go.touch()
    assert future.result(LIMIT) == "done"


# Crashes.


def test_a_crash_ends_one_call_after_one_run(pool: Executor, trace: Trace) -> None:
    others = [pool.submit(jobs.add, number) for number in range(20)]
    error = pool.submit(jobs.note_and_crash, trace.path).exception(LIMIT)
    assert isinstance(error, offloop.WorkerDied)
    assert isinstance(error, concurrent.futures.BrokenExecutor)
    assert error.task == "jobs.note_and_crash" and "jobs.note_and_crash" in str(error)
    assert [other.result(LIMIT) for other in others] == list(range(20))
    assert len(trace.pids()) == 1


def test_retries_start_a_crashed_call_again_and_no_more_often(pool: Executor, trace: Trace, tmp_path: Any) -> None:
    assert pool.options(retries=1).submit(jobs.crash_once, trace.path).result(LIMIT) == "survived"
    assert len(trace.pids()) == 2
    other = Trace(tmp_path / "other")
    error = pool.options(retries=2).submit(jobs.note_and_crash, other.path).exception(LIMIT)
    assert isinstance(error, offloop.WorkerDied)
    assert len(other.pids()) == 3


# On an event loop.


def test_calls_can_be_awaited_and_cancelled_on_a_loop(pool: Executor, trace: Trace) -> None:
    async def main() -> None:
        assert await pool.run(jobs.add, 1, 2) == 3
        assert await asyncio.gather(*(pool.run(jobs.add, number) for number in range(20))) == list(range(20))
        assert [item async for item in pool.map(jobs.add, range(5))] == list(range(5))
        with pytest.raises(ValueError):
            await pool.run(jobs.fail, "value")
        with pytest.raises(offloop.RunTimeout):
            await pool.options(timeout=0.3).run(time.sleep, 600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.run(jobs.note_and_sleep, trace.path)
        assert await asyncio.get_running_loop().run_in_executor(pool, jobs.add, 4) == 4

    asyncio.run(main())
    for pid in trace.pids():
        until_gone(pid)


def test_async_with_waits_for_accepted_calls(make: Make) -> None:
    async def main() -> None:
        async with make() as pool:
            future = pool.submit(jobs.add, 1)
        assert future.result(0) == 1
        with pytest.raises(RuntimeError):
            pool.run(jobs.add, 1)

    asyncio.run(main())


# The end.


def test_with_waits_for_accepted_calls(make: Make) -> None:
    with make() as pool:
        futures = [pool.submit(jobs.add, number) for number in range(10)]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(jobs.add, 1)
    pool.shutdown()
    assert "shut down" in repr(pool)


def test_ctrl_c_in_a_with_block_cancels_the_calls(make: Make, trace: Trace) -> None:
    with pytest.raises(KeyboardInterrupt), make() as pool:
        (future,) = start(pool, trace)
        raise KeyboardInterrupt
    assert future.cancelled()
    until_gone(trace.pids()[0])


def test_shutdown_without_wait_lets_the_calls_go_on(make: Make, trace: Trace, tmp_path: Any) -> None:
    pool = make()
    go = tmp_path / "go"
    future = pool.submit(jobs.note_and_wait_for, trace.path, str(go))
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        pool.submit(jobs.add, 1)
    with pytest.raises(TimeoutError):
        pool.shutdown(timeout=0.1)
    go.touch()
    assert future.result(LIMIT) == "done"


def test_cancel_futures_cancels_what_has_not_begun(make: Make, trace: Trace, tmp_path: Any) -> None:
    pool = make()
    go, other = tmp_path / "go", Trace(tmp_path / "other")
    running = [pool.submit(jobs.note_and_wait_for, trace.path, str(go)) for _ in range(4)]
    until(lambda: all(future.running() for future in running), "the report of the begin")
    until(lambda: len(trace.pids()) == 4, "the begin of the calls")
    queued = [pool.submit(jobs.note, other.path) for _ in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    # A cancel travels. This one follows the others, so it is the last to arrive.
    running.pop().cancel()
    until(lambda: any(map(is_gone, trace.pids())), "the end of the cancelled call")
    go.touch()
    pool.shutdown()
    assert [future.result(0) for future in running] == ["done"] * 3
    assert other.pids() == []


def test_drain_kills_what_is_left_and_reports_it(make: Make, trace: Trace) -> None:
    pool = make()
    running = start(pool, trace, 4)
    until(lambda: all(future.running() for future in running), "the begin of the calls")
    queued = pool.submit(jobs.add, 1)
    report = pool.shutdown(drain=0.2)
    assert (report.drained, report.cancelled, report.killed) == (0, 1, 4)
    assert all(future.cancelled() for future in [*running, queued])
    for pid in trace.pids():
        until_gone(pid)


def test_what_an_engine_does_not_offer_says_so(pool: Executor) -> None:
    with pytest.raises(NotImplementedError, match="stream"):
        pool.stream(range, 3)
    with pytest.raises(NotImplementedError, match="metrics"):
        pool.metrics()

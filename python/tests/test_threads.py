"""The promises of the thread pool within a program."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest

import offloop
from offloop import ThreadPoolExecutor

GIVE_UP = 30.0
"""The seconds after which an event that has not happened counts as a failure."""


def eventually(what: str, holds: Callable[[], object]) -> None:
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < GIVE_UP, f"it never happened: {what}"
        time.sleep(0.001)


class Gate:
    """A gate that is closed at first. A call that passes it waits until it is opened."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.waiting = 0

    def open(self) -> None:
        self._event.set()

    def pass_through(self) -> None:
        self.waiting += 1
        assert self._event.wait(GIVE_UP), "the gate stayed closed"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def occupy(pool: ThreadPoolExecutor, gate: Gate) -> concurrent.futures.Future[None]:
    """Holds a thread of `pool` until the gate is opened."""
    before = gate.waiting
    future = pool.submit(gate.pass_through)
    eventually("the call begins", lambda: gate.waiting > before)
    return future


# The threads on which calls run.


def test_it_is_a_standard_executor_whose_futures_are_standard_futures() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
        futures = [pool.submit(pow, 2, n) for n in range(10)]
        assert all(isinstance(future, concurrent.futures.Future) for future in futures)
        done, left = concurrent.futures.wait(futures, GIVE_UP)
        assert (len(done), len(left)) == (10, 0)
        assert sorted(future.result() for future in done) == [2**n for n in range(10)]
        completed = concurrent.futures.as_completed([pool.submit(pow, 3, 2)], GIVE_UP)
        assert [future.result() for future in completed] == [9]


def test_threads_are_pythons_own_with_names_and_their_locals_persist() -> None:
    local = threading.local()

    def count() -> tuple[str, int]:
        local.calls = getattr(local, "calls", 0) + 1
        assert threading.current_thread() in threading.enumerate()
        return threading.current_thread().name, local.calls

    with ThreadPoolExecutor(1, thread_name_prefix="named") as pool:
        assert [pool.submit(count).result(GIVE_UP) for _ in range(3)] == [
            ("named_0", 1),
            ("named_0", 2),
            ("named_0", 3),
        ]


def test_each_call_that_blocks_has_a_thread_at_once_up_to_max_workers(gate: Gate) -> None:
    with ThreadPoolExecutor(3) as pool:
        futures: list[Any] = []
        for expected in (1, 2, 3, 3, 3):
            futures.append(pool.submit(gate.pass_through))
            assert len(pool._threads) == expected
        eventually("three run", lambda: gate.waiting == 3)
        eventually("two wait", lambda: pool._work_queue.qsize() == 2)
        gate.open()


def test_a_pool_can_be_resized_while_calls_run_and_wait(gate: Gate) -> None:
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(gate.pass_through) for _ in range(6)]
        eventually("one runs", lambda: gate.waiting == 1)
        pool.resize(4)
        assert pool.max_workers == 4
        eventually("four run", lambda: gate.waiting == 4 and len(pool._threads) == 4)
        pool.resize(2)
        gate.open()
        for future in futures:
            future.result(GIVE_UP)
        eventually("the surplus threads leave", lambda: len(pool._threads) <= 2)
        with pytest.raises(ValueError, match="greater than 0"):
            pool.resize(0)


def test_calls_one_after_the_other_share_a_thread() -> None:
    with ThreadPoolExecutor(8) as pool:
        threads = {pool.submit(threading.get_ident).result(GIVE_UP) for _ in range(20)}
        assert (len(threads), len(pool._threads)) == (1, 1)


def test_idle_threads_end_and_new_ones_start() -> None:
    with ThreadPoolExecutor(2, idle_timeout=0.05) as pool:
        pool.submit(int).result(GIVE_UP)
        eventually("the thread leaves", lambda: not pool._threads)
        assert pool.submit(pow, 2, 3).result(GIVE_UP) == 8


def test_a_call_sees_its_submitters_context_and_keeps_its_own_changes() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    def change() -> str:
        before = variable.get()
        variable.set("changed in the call")
        return before

    with ThreadPoolExecutor(1) as pool:
        for value in ("first", "second"):
            variable.set(value)
            assert pool.submit(change).result(GIVE_UP) == value
        assert variable.get() == "second"


# The ends of calls.


def test_any_exception_reaches_the_caller_and_the_thread_lives_on() -> None:
    def fail(error: BaseException) -> None:
        raise error

    with ThreadPoolExecutor(1) as pool:
        for error in (ValueError("v"), SystemExit(3), KeyboardInterrupt(), StopIteration(1)):
            with pytest.raises(type(error)) as caught:
                pool.submit(fail, error).result(GIVE_UP)
            assert caught.value is error
        assert len(pool._threads) == 1


def test_a_call_that_waits_is_cancelled_and_leaves_the_queue_at_once(gate: Gate) -> None:
    class Argument:
        pass

    with ThreadPoolExecutor(1) as pool:
        first = occupy(pool, gate)
        argument = Argument()
        alive = weakref.ref(argument)
        queued = pool.submit(id, argument)
        del argument
        assert not first.cancel()
        assert queued.cancel() and queued.cancelled()
        assert pool._work_queue.qsize() == 0
        gc.collect()
        assert alive() is None
        # Other threads that wait for it learn of it as well.
        assert concurrent.futures.wait([queued], GIVE_UP).done == {queued}
        gate.open()


def test_nothing_of_a_call_is_kept_when_it_has_ended() -> None:
    class Argument:
        pass

    def fail(_: Argument) -> None:
        raise ValueError

    with ThreadPoolExecutor(1) as pool:
        for function in (id, fail):
            argument = Argument()
            alive = weakref.ref(argument)
            future = pool.submit(function, argument)
            error = future.exception(GIVE_UP)
            del argument, future, error
            # Without the garbage collector, as there is no cycle.
            eventually("it dies", lambda: alive() is None)


def test_a_call_may_wait_for_calls_of_its_own_pool(gate: Gate) -> None:
    with ThreadPoolExecutor(1) as pool:

        def nest(depth: int) -> int:
            return 0 if depth == 0 else 1 + pool.submit(nest, depth - 1).result(GIVE_UP)

        assert pool.submit(nest, 10).result(GIVE_UP) == 10
        assert isinstance(
            pool.submit(lambda: pool.submit(nest, "no number").exception(GIVE_UP)).result(GIVE_UP),  # type: ignore[arg-type]
            TypeError,
        )
        eventually("the others have left", lambda: len(pool._threads) == 1)


def test_a_done_callback_may_wait_for_the_pool() -> None:
    seen: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        ended = threading.Event()

        def then(_: object) -> None:
            seen.append(pool.submit(pow, 2, 3).result(GIVE_UP))
            ended.set()

        begin = threading.Event()
        future = pool.submit(begin.wait, GIVE_UP)
        future.add_done_callback(then)
        begin.set()
        assert ended.wait(GIVE_UP)
    assert seen == [8]


def test_async_functions_are_refused_with_advice() -> None:
    async def fetch() -> None: ...

    async def pages() -> AsyncGenerator[int, None]:
        yield 1

    class Fetcher:
        async def __call__(self) -> None: ...

    with ThreadPoolExecutor(1) as pool:
        for function in (fetch, functools.partial(fetch), Fetcher()):
            with pytest.raises(TypeError, match="sync function"):
                pool.submit(function)
        future = pool.submit(lambda: fetch())
        with pytest.raises(TypeError, match="returned a coroutine"):
            future.result(GIVE_UP)
        future = pool.submit(lambda: pages())
        with pytest.raises(TypeError, match="returned an async generator"):
            future.result(GIVE_UP)


# On an event loop.


def test_on_a_loop_it_serves_run_in_executor_and_run() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as pool:
            assert await loop.run_in_executor(pool, pow, 2, 3) == 8
            assert await pool.run(pow, 2, 4) == 16
            assert await pool.run(int, "ff", base=16) == 255
            results = await asyncio.gather(*[pool.run(pow, n, 2) for n in range(1000)])
            assert results == [n * n for n in range(1000)]
            with pytest.raises(ZeroDivisionError):
                await pool.run(divmod, 1, 0)
        loop.set_default_executor(pool := ThreadPoolExecutor(2))
        assert await asyncio.to_thread(pow, 2, 5) == 32
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)

    asyncio.run(asyncio.wait_for(main(), GIVE_UP))


def test_cancelling_an_awaited_call_removes_it_or_asks_it_to_stop(gate: Gate) -> None:
    ran: list[str] = []
    stopped = threading.Event()

    def cooperate() -> None:
        gate.pass_through()
        while not offloop.is_cancelled():
            time.sleep(0.001)
        with pytest.raises(concurrent.futures.CancelledError):
            offloop.check_cancelled()
        stopped.set()

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            running = pool.run(cooperate)
            while not gate.waiting:
                await asyncio.sleep(0.001)
            queued = pool.run(ran.append, "queued")
            queued.cancel()
            gate.open()
            running.cancel()
            for future in (running, queued):
                with pytest.raises(asyncio.CancelledError):
                    await future
            await pool.run(ran.append, "next")

    asyncio.run(asyncio.wait_for(main(), GIVE_UP))
    assert stopped.wait(GIVE_UP)
    assert ran == ["next"]


def test_limits_and_priorities_of_awaited_calls(gate: Gate) -> None:
    order: list[int] = []

    def until_told() -> None:
        while not offloop.is_cancelled():
            time.sleep(0.001)

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(offloop.RunTimeout):
                await pool.options(timeout=0.02).run(until_told)
            pool.submit(gate.pass_through)
            with pytest.raises(offloop.QueueTimeout):
                await pool.options(queue_timeout=0.02).run(order.append, 0)
            waiting = [pool.options(priority=n).run(order.append, n) for n in (1, 3, 2)]
            gate.open()
            await asyncio.gather(*waiting)

    asyncio.run(asyncio.wait_for(main(), GIVE_UP))
    assert order == [3, 2, 1]


# Full queues.


def test_a_full_queue_follows_its_policy(gate: Gate) -> None:
    def here() -> int:
        return threading.get_ident()

    me = threading.get_ident()
    for policy in ("wait", "reject", "caller_runs", "shed_oldest"):
        gate = Gate()
        with ThreadPoolExecutor(1, queue_capacity=1, on_full=policy) as pool:  # type: ignore[arg-type]
            occupy(pool, gate)
            older = pool.submit(here)
            if policy == "reject":
                with pytest.raises(offloop.QueueFull):
                    pool.submit(here)
            else:
                newer = pool.submit(here)
            if policy == "caller_runs":
                assert newer.result(0) == me
            if policy == "shed_oldest":
                with pytest.raises(offloop.JobShed):
                    older.result(GIVE_UP)
            gate.open()
            if policy != "shed_oldest":
                assert older.result(GIVE_UP) != me
            if policy in ("wait", "shed_oldest"):
                assert newer.result(GIVE_UP) != me


def test_a_call_that_runs_on_a_busy_worker_as_its_caller_ends_before_the_submit_does(gate: Gate) -> None:
    with ThreadPoolExecutor(1, queue_capacity=1, on_full="caller_runs") as pool:

        def outer() -> int:
            gate.pass_through()
            return pool.submit(pow, 2, 3).result(0)

        future = pool.submit(outer)
        eventually("it runs", lambda: gate.waiting)
        pool.submit(int)
        gate.open()
        assert future.result(GIVE_UP) == 8


# Settings.


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"initializer": 7}, TypeError, "initializer must be a callable"),
        ({"queue_capacity": 0}, ValueError, "queue_capacity is 0"),
        ({"on_full": "explode"}, ValueError, "shed_oldest"),
        ({"idle_timeout": -1.0}, ValueError, "idle_timeout is -1"),
    ],
)
def test_invalid_settings_are_refused(
    settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        ThreadPoolExecutor(**settings)


def test_the_initializer_runs_once_on_each_thread_before_its_first_call() -> None:
    local = threading.local()

    def begin(value: str) -> None:
        local.value = value

    with ThreadPoolExecutor(2, initializer=begin, initargs=("set",)) as pool:
        assert pool.submit(lambda: local.value).result(GIVE_UP) == "set"


def test_an_initializer_that_fails_breaks_the_pool(caplog: pytest.LogCaptureFixture) -> None:
    begin = threading.Event()

    def fail() -> None:
        begin.wait(GIVE_UP)
        raise ValueError("in the initializer")

    with ThreadPoolExecutor(2, initializer=fail) as pool:
        futures = [pool.submit(int) for _ in range(5)]
        begin.set()
        for future in futures:
            with pytest.raises(BrokenThreadPool):
                future.result(GIVE_UP)
        assert pool._broken
        with pytest.raises(BrokenThreadPool):
            pool.submit(int)
    records = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert records and records[0].getMessage() == "Exception in initializer:"


def test_each_worker_has_a_state_which_is_made_when_it_is_first_asked_for() -> None:
    made: list[str] = []

    def make() -> str:
        made.append(threading.current_thread().name)
        if len(made) == 1:
            raise ConnectionError
        return made[-1]

    with ThreadPoolExecutor(1, "stateful", worker_state=make) as pool:
        pool.submit(int).result(GIVE_UP)
        assert made == []
        with pytest.raises(ConnectionError):
            pool.submit(offloop.worker_state).result(GIVE_UP)
        for _ in range(2):
            assert pool.submit(offloop.worker_state).result(GIVE_UP) == "stateful_0"
        assert made == ["stateful_0"] * 2
    with pytest.raises(RuntimeError, match="give the pool a worker_state"):
        offloop.worker_state()


def test_a_state_is_closed_by_its_worker_when_the_worker_ends() -> None:
    closed: list[tuple[str, str]] = []

    def close(state: str) -> None:
        closed.append((state, threading.current_thread().name))

    def name() -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(
        2, "closing", worker_state=name, close_worker_state=close, idle_timeout=0.01
    ) as pool:
        pool.submit(int).result(GIVE_UP)
        pool.submit(offloop.worker_state).result(GIVE_UP)
        eventually("an idle worker leaves and closes", lambda: closed)
        assert closed == [(closed[0][0],) * 2]
        del closed[:]
    with ThreadPoolExecutor(1, "last", worker_state=name, close_worker_state=close) as pool:
        pool.submit(offloop.worker_state).result(GIVE_UP)
        assert not closed
    assert closed == [("last_0", "last_0")], "the shutdown waits for it"
    with ThreadPoolExecutor(1, worker_state=name, close_worker_state=close) as pool:
        pool.submit(int).result(GIVE_UP)
    assert len(closed) == 1, "what was never opened is not closed"


def test_a_state_that_is_discarded_is_closed_once(caplog: pytest.LogCaptureFixture) -> None:
    opened = iter(range(10))
    closed: list[int] = []

    def close(state: int) -> None:
        closed.append(state)
        raise ConnectionError("it was broken already")

    def use_twice() -> tuple[int, int]:
        first = offloop.worker_state()
        offloop.discard_worker_state()
        offloop.discard_worker_state()
        return first, offloop.worker_state()

    with ThreadPoolExecutor(1, worker_state=lambda: next(opened), close_worker_state=close) as pool:
        assert pool.submit(use_twice).result(GIVE_UP) == (0, 1)
        assert closed == [0]
    assert closed == [0, 1]
    messages = [record.getMessage() for record in caplog.records if record.name == "offloop"]
    assert messages == ["close_worker_state raised an exception; the worker's state is discarded nevertheless:"] * 2


# The end of a pool.


def test_leaving_the_block_waits_for_all_calls_and_threads(gate: Gate) -> None:
    ended: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        for n in range(50):
            pool.submit(ended.append, n)
    assert sorted(ended) == list(range(50))
    assert not any(thread.is_alive() for thread in pool._threads)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)
    pool.shutdown()


def test_a_dropped_pool_runs_its_calls_and_ends() -> None:
    pool = ThreadPoolExecutor(2)
    futures = [pool.submit(pow, 2, n) for n in range(50)]
    threads = pool._threads
    forgotten = weakref.ref(pool)
    del pool
    assert forgotten() is None
    assert [future.result(GIVE_UP) for future in futures] == [2**n for n in range(50)]
    for thread in threads:
        thread.join(GIVE_UP)
        assert not thread.is_alive()


def test_a_shutdown_can_cancel_queued_calls(gate: Gate) -> None:
    pool = ThreadPoolExecutor(1)
    first = occupy(pool, gate)
    queued = [pool.submit(int) for _ in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    assert concurrent.futures.wait(queued, GIVE_UP).not_done == set()
    gate.open()
    pool.shutdown()
    assert first.result(0) is None


def test_a_call_may_shut_its_pool_down() -> None:
    pool = ThreadPoolExecutor(2)
    pool.submit(pool.shutdown).result(GIVE_UP)
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_a_cancelled_task_leaves_the_block_without_waiting(gate: Gate) -> None:
    async def block(entered: asyncio.Event, futures: list[Any]) -> None:
        with ThreadPoolExecutor(1) as pool:
            futures += [pool.submit(gate.pass_through), pool.submit(int)]
            eventually("it runs", lambda: gate.waiting)
            entered.set()
            await asyncio.sleep(GIVE_UP)

    async def main() -> None:
        futures: list[Any] = []
        entered = asyncio.Event()
        task = asyncio.create_task(block(entered, futures))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert futures[1].cancelled()
        assert futures[0].running()
        gate.open()
        assert futures[0].result(GIVE_UP) is None

    asyncio.run(asyncio.wait_for(main(), GIVE_UP))

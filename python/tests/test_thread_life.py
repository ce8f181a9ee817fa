"""The end of a thread pool within a limit, its streams, and the wait for room in its queue."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from support import jobs

import offloop
from offloop import ShutdownReport, ThreadPoolExecutor


class Numbers:
    """A generator that records what becomes of it."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.closed_on: str | None = None

    def count(self, end: int) -> Iterator[int]:
        try:
            for number in range(end):
                self.made.append(number)
                yield number
        finally:
            self.closed_on = threading.current_thread().name


def fail_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise LookupError("enough")


# Streams


def test_a_stream_has_the_items_of_a_generator_in_order() -> None:
    with ThreadPoolExecutor(1, "worker") as pool:
        numbers = Numbers()
        assert list(pool.stream(numbers.count, 100)) == list(range(100))
        assert numbers.closed_on == "worker_0"
        assert list(pool.stream(sorted, [3, 1, 2])) == [1, 2, 3]


def test_a_stream_can_be_read_on_the_loop() -> None:
    async def main() -> None:
        async with ThreadPoolExecutor(1) as pool:
            stream = pool.stream(Numbers().count, 100)
            assert [number async for number in stream] == list(range(100))

    asyncio.run(main())


def test_a_generator_waits_for_its_reader() -> None:
    with ThreadPoolExecutor(1) as pool:
        numbers = Numbers()
        stream = pool.options(buffersize=2).stream(numbers.count, 100)
        jobs.until(lambda: len(numbers.made) == 3)
        assert next(stream) == 0
        jobs.until(lambda: len(numbers.made) == 4)
        stream.close()
        jobs.until(lambda: numbers.closed_on is not None, "the generator's end")
        assert len(numbers.made) == 4


def test_a_stream_that_is_dropped_ends_its_generator() -> None:
    with ThreadPoolExecutor(1) as pool:
        numbers = Numbers()
        for number in pool.stream(numbers.count, 1000):
            if number == 3:
                break
        jobs.until(lambda: numbers.closed_on is not None, "the generator's end")


def test_an_exception_of_the_generator_comes_after_its_items() -> None:
    with ThreadPoolExecutor(1) as pool:
        stream = pool.stream(fail_after, 3)
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(LookupError, match="enough"):
            next(stream)


def test_the_timeout_of_a_stream_includes_the_waits_for_the_reader() -> None:
    with ThreadPoolExecutor(1) as pool:
        numbers = Numbers()
        stream = pool.options(timeout=0.1).stream(numbers.count, 1000)
        jobs.until(lambda: numbers.closed_on is not None, "the generator's end")
        with pytest.raises(offloop.RunTimeout, match="count"):
            list(stream)


def test_a_job_can_read_a_stream_of_its_own_pool() -> None:
    with ThreadPoolExecutor(1) as pool:

        def read() -> list[int]:
            return list(pool.options(buffersize=1).stream(Numbers().count, 20))

        assert pool.submit(read).result(jobs.HANG) == list(range(20))


def test_a_stream_of_threads_cannot_be_retried() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="cannot be run again"):
        pool.options(retries=1).stream(fail_after, 1)


def test_a_stream_refuses_an_async_function() -> None:
    async def numbers() -> list[int]:
        return [1]

    with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError, match="async function"):
        pool.stream(numbers)  # type: ignore[arg-type]


# Ends


def test_a_shutdown_with_a_drain_reports_what_became_of_the_calls() -> None:
    pool = ThreadPoolExecutor(1)
    started, stop = threading.Event(), threading.Event()

    def run_until_cancelled() -> None:
        started.set()
        with offloop.on_cancel(stop.set):
            stop.wait()

    pool.submit(run_until_cancelled)
    queued = pool.submit(jobs.double, 1)
    assert started.wait(jobs.HANG)
    assert pool.shutdown(drain=0.1) == ShutdownReport(cancelled=2)
    assert queued.cancelled()


def test_a_call_that_does_not_stop_is_reported_as_stuck() -> None:
    pool = ThreadPoolExecutor(1, "worker")
    started, gate = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        gate.wait()

    pool.options(name="the stuck one").submit(hang)
    assert started.wait(jobs.HANG)
    (stuck,) = pool.shutdown(drain=0).stuck
    assert stuck.name == "the stuck one" and stuck.worker and stuck.running_for >= 0
    gate.set()
    pool.shutdown()


def test_a_thread_pool_can_be_closed_on_the_loop() -> None:
    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        calls = [pool.run(jobs.double, n) for n in range(3)]
        report = await pool.aclose(drain=600)
        assert report.cancelled == 0 and [await call for call in calls] == [0, 2, 4]

    asyncio.run(main())


def test_a_shutdown_with_a_timeout_gives_up_waiting() -> None:
    gate = threading.Event()
    pool = ThreadPoolExecutor(1)
    call = pool.submit(gate.wait)
    with pytest.raises(TimeoutError, match="still running jobs"):
        pool.shutdown(timeout=0.05)
    gate.set()
    pool.shutdown(timeout=60)
    assert call.result()


# Room in the queue


def test_a_task_can_wait_for_room_in_the_queue() -> None:
    async def main() -> None:
        gate = threading.Event()
        async with ThreadPoolExecutor(1, queue_capacity=1) as pool:
            calls = [pool.run(gate.wait) for _ in range(3)]
            room = asyncio.create_task(calls[2].accepted())
            await asyncio.sleep(0.05)
            assert not room.done()
            gate.set()
            await room
            assert all(await asyncio.gather(*calls))

    asyncio.run(main())

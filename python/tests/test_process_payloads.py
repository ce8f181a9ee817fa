"""Buffers beside the pickle: whole, writable, separate from the sender's, not copied, and released."""

import asyncio
import gc
import importlib.util
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import offloop
from offloop import ProcessPoolExecutor

np = pytest.importorskip("numpy")

from support import jobs, memory, payloads

MIB = 1 << 20


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool
        assert pool.submit(jobs.double, 2).result(60) == 4


def test_arrays_arrive_writable_both_ways(pool: ProcessPoolExecutor) -> None:
    for length in (0, 1, 100, 10_000, MIB):
        array = np.arange(length)
        writable, *_, total = pool.submit(payloads.describe, array).result(60)
        assert writable and total == array.sum()
        back = pool.submit(payloads.increment, array).result(60)
        assert back.flags.writeable and (back == array + 1).all()
        back += 1
        assert (back == array + 2).all()


def test_a_workers_writes_to_an_array_do_not_reach_the_caller(pool: ProcessPoolExecutor) -> None:
    array = np.zeros(MIB, dtype=np.int64)
    assert pool.submit(payloads.fill, array, 7).result(60) == 7 * MIB
    assert not array.any()


def test_the_callers_writes_after_submitting_do_not_reach_the_job(
    pool: ProcessPoolExecutor,
) -> None:
    array = np.ones(MIB, dtype=np.int64)
    calls = [pool.submit(payloads.describe, array) for _ in range(4)]
    array.fill(9)
    assert {call.result(60)[-1] for call in calls} == {MIB}


def test_each_call_has_its_own_copy_of_an_argument_of_many_calls(pool: ProcessPoolExecutor) -> None:
    array = np.zeros(MIB // 8, dtype=np.int64)
    results = [pool.submit(payloads.increment, array).result(60) for _ in range(4)]
    results[0].fill(5)
    assert all((result == 1).all() for result in results[1:])


def test_arrays_are_not_copied_on_arrival(pool: ProcessPoolExecutor) -> None:
    array = pool.submit(payloads.make, MIB).result(60)
    assert type(payloads.base(array)).__name__ == "Shared"
    assert pool.submit(payloads.owner, array).result(60) == "Shared"
    before = memory.own()
    large = pool.submit(payloads.make, 16 * MIB).result(60)  # 128 MiB
    assert large[-1] == 16 * MIB - 1
    assert memory.own() - before < 32 * MIB


def test_arrays_without_dimensions_arrive(pool: ProcessPoolExecutor) -> None:
    array = np.array(2.5)
    assert array.shape == ()
    back = pool.submit(payloads.increment, array).result(60)
    assert back.shape == () and back == 3.5


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_of_an_array_is_kept(pool: ProcessPoolExecutor, order: str) -> None:
    array = np.asarray(np.arange(100_000).reshape(100, 1000), order=order)
    _, c, f, shape, dtype, total = pool.submit(payloads.describe, array).result(60)
    assert (c, f, shape) == (order == "C", order == "F", (100, 1000))
    assert (dtype, total) == (str(array.dtype), array.sum())
    back = pool.submit(payloads.increment, array).result(60)
    assert back.flags.f_contiguous == (order == "F") and (back == array + 1).all()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(100_000)[::2],
        np.arange(100_000)[::-1],
        np.arange(100_000).reshape(100, 1000)[:, ::3],
        np.broadcast_to(np.arange(1000), (100, 1000)),
        np.array(["text", "x" * 10_000] * 5, dtype=object),
        np.zeros(5000, dtype=[("a", "i4"), ("b", "f8")]),
        np.array(3.0),
        np.zeros((0, 5)),
        np.zeros((3, 0, 100_000)),
        np.array(["2020-01-01"] * 5000, dtype="M8[D]"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}"[:20],
)
def test_arrays_of_every_kind_arrive_whole(pool: ProcessPoolExecutor, array: Any) -> None:
    back = pool.submit(jobs.echo, array).result(60)
    assert back.shape == array.shape and back.dtype == array.dtype
    assert (back == array).all()


def test_a_read_only_array_arrives_whole_and_leaves_the_callers_alone(
    pool: ProcessPoolExecutor,
) -> None:
    array = np.arange(100_000)
    array.flags.writeable = False
    back = pool.submit(jobs.echo, array).result(60)
    assert (back == array).all() and not array.flags.writeable


def test_many_arrays_of_one_call_arrive_in_order(pool: ProcessPoolExecutor) -> None:
    for count in (31, 32, 33, 300):
        arrays = pool.submit(payloads.arrays, count, 4000).result(60)
        assert [array[-1] for array in arrays] == list(range(count))
        back = pool.submit(jobs.echo, arrays).result(60)
        assert all((a == b).all() for a, b in zip(arrays, back))


@pytest.mark.parametrize("size", [0, 1, 1024, MIB, 64 * MIB], ids=str)
@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
def test_bytes_arrive_whole_both_ways(pool: ProcessPoolExecutor, kind: str, size: int) -> None:
    value = payloads.of_kind(kind, os.urandom(min(size, MIB)) * (size // MIB or 1))
    back = pool.submit(jobs.echo, value).result(60)
    assert type(back) is type(value) and back == value
    inside = pool.submit(jobs.echo, {"within": [value]}).result(60)
    assert inside["within"][0] == value
    by_name = pool.submit(payloads.kind_and_value, value=value).result(60)
    assert by_name == (kind, bytes(value))


def test_a_bytearray_of_one_call_can_grow(pool: ProcessPoolExecutor) -> None:
    back = pool.submit(jobs.echo, bytearray(MIB)).result(60)
    back.append(1)
    assert len(back) == MIB + 1


def test_one_object_twice_is_one_object_there(pool: ProcessPoolExecutor) -> None:
    value = np.arange(100_000)
    first, second = pool.submit(jobs.echo, (value, value)).result(60)
    assert first is second


def test_a_memoryview_arrives_as_bytes_where_cloudpickle_allows_it(
    pool: ProcessPoolExecutor,
) -> None:
    view = memoryview(b"x" * MIB)
    call = pool.submit(payloads.kind_and_value, view)
    if importlib.util.find_spec("cloudpickle"):
        assert call.result(60) == ("bytes", bytes(view))
    else:
        assert call.done() and isinstance(call.exception(), TypeError)


def test_a_pickle_buffer_travels_beside_the_pickle(pool: ProcessPoolExecutor) -> None:
    buffer = pickle.PickleBuffer(bytearray(b"x" * MIB))
    assert pool.submit(payloads.kind_and_value, buffer).result(60)[1] == b"x" * MIB


def test_an_array_outlives_the_pool_and_its_worker() -> None:
    with ProcessPoolExecutor(1) as pool:
        array = pool.submit(payloads.make, MIB).result(60)
        worker = pool.submit(jobs.pid).result(60)
    assert jobs.is_gone(worker)
    del pool
    gc.collect()
    assert (array == np.arange(MIB)).all()
    array += 1
    assert array[-1] == MIB


def test_an_array_that_a_job_keeps_stays_as_it_was(pool: ProcessPoolExecutor) -> None:
    for n in range(5):
        pool.submit(payloads.keep, np.full(MIB // 8, n)).result(60)
        # Other arrays come and go, which must be in other memory.
        pool.submit(payloads.fill, np.zeros(MIB // 8, dtype=np.int64), 77).result(60)
    assert pool.submit(payloads.kept_sums).result(60)[1] == [n * MIB // 8 for n in range(5)]


def test_an_array_of_a_result_can_be_an_argument(pool: ProcessPoolExecutor) -> None:
    array = pool.submit(payloads.make, MIB).result(60)
    for _ in range(5):
        array = pool.submit(payloads.increment, array).result(60)
    assert (array == np.arange(MIB) + 5).all()


def test_a_view_keeps_the_memory_of_its_array(pool: ProcessPoolExecutor) -> None:
    view = pool.submit(payloads.make, MIB).result(60)[100:200]
    for _ in range(10):
        pool.submit(payloads.make, MIB).result(60)
    gc.collect()
    assert (view == np.arange(100, 200)).all()


def test_memory_is_reused_when_arrays_are_dropped() -> None:
    """Neither this process nor the worker grows with the number of round trips."""
    with ProcessPoolExecutor(1) as pool:
        array = np.ones(8 * MIB, dtype=np.int64)  # 64 MiB
        worker = pool.submit(payloads.keep, None).result(60)

        def measure(trips: int) -> list[int]:
            for _ in range(trips):
                assert pool.submit(payloads.increment, array).result(60)[0] == 2
            pids: list[int | str] = ["self", worker]
            return [f(pid) for f in (memory.shared, memory.own) for pid in pids]

        before = measure(6)
        after = measure(24)
    for was, is_now in zip(before, after):
        assert is_now - was < 80 * MIB, (before, after)


def test_memory_is_returned_to_the_system_when_the_pool_is_idle() -> None:
    with ProcessPoolExecutor(1) as pool:
        worker = pool.submit(payloads.keep, None).result(60)
        array = np.ones(8 * MIB, dtype=np.int64)
        back = pool.submit(payloads.increment, array).result(60)
        del back
        jobs.until(lambda: memory.shared() < 16 * MIB, "giving memory back here")
        jobs.until(lambda: memory.shared(worker) < 16 * MIB, "giving it back there")


def test_arrays_are_awaited_without_blocking_the_loop_for_long() -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            arrays = await asyncio.gather(*[pool.run(payloads.make, MIB) for _ in range(8)])
            assert all(array[-1] == MIB - 1 for array in arrays)

    asyncio.run(main())


def test_a_cancelled_job_releases_its_arguments(tmp_path: Any) -> None:
    with ProcessPoolExecutor(1) as pool:
        gate = tmp_path / "gate"
        pool.submit(jobs.hold, tmp_path / "started", gate)
        jobs.wait_for(tmp_path / "started")
        array = np.ones(8 * MIB, dtype=np.int64)
        for _ in range(16):  # 1 GiB, if they were kept
            assert pool.submit(payloads.describe, array).cancel()
        gate.touch()
        assert memory.shared() < 400 * MIB


def test_a_payload_that_is_too_large_is_the_jobs_error() -> None:
    with ProcessPoolExecutor(1) as pool:
        call = pool.submit(len, np.zeros((1 << 30) + (1 << 20), dtype=np.uint8))
        with pytest.raises(offloop.OffloopError, match="1074790[0-9]* bytes, more than"):
            call.result(60)
        assert pool.submit(jobs.double, 2).result(60) == 4

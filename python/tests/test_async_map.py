"""Maps over worker processes, in loops with and without `async`."""

import asyncio
import io
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import pytest
from support import jobs, scripts

from offloop import ProcessPoolExecutor, WorkerDied


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as pool:
        yield pool
        assert list(pool.map(jobs.double, range(3))) == [0, 2, 4]


def collected(results: Any, how: str) -> list[Any]:
    """Returns the items of an iteration, in a loop with or without `async`."""
    if how == "sync":
        return list(results())

    async def main() -> list[Any]:
        return [value async for value in results()]

    return asyncio.run(main())


both = pytest.mark.parametrize("how", ["sync", "async"])


@both
@pytest.mark.parametrize("chunksize", [1, 3, 1000])
@pytest.mark.parametrize("buffersize", [None, 1, 4, 1000])
def test_results_come_in_the_order_of_the_items(
    pool: ProcessPoolExecutor, how: str, chunksize: int, buffersize: int | None
) -> None:
    def results() -> Any:
        return pool.map(jobs.double, range(50), chunksize=chunksize, buffersize=buffersize)

    assert collected(results, how) == [2 * n for n in range(50)]


@both
@pytest.mark.parametrize("chunksize", [1, 3])
def test_unordered_results_all_come_once(
    pool: ProcessPoolExecutor, how: str, chunksize: int
) -> None:
    def results() -> Any:
        return pool.map(jobs.double, range(50), chunksize=chunksize, ordered=False, buffersize=5)

    assert sorted(collected(results, how)) == [2 * n for n in range(50)]


@both
def test_unordered_results_come_as_they_complete(
    pool: ProcessPoolExecutor, tmp_path: Path, how: str
) -> None:
    gate = tmp_path / "gate"
    seen: list[str] = []

    def results() -> Any:
        waits = [(tmp_path / "first", gate), (tmp_path / "second", tmp_path)]
        return pool.map(jobs.hold_named, *zip(*waits), ordered=False, timeout=60)

    def check(name: str) -> None:
        seen.append(name)
        gate.touch()

    if how == "sync":
        for name in results():
            check(name)
    else:

        async def main() -> None:
            async for name in results():
                check(name)

        asyncio.run(main())
    assert seen == ["second", "first"]


@both
def test_nothing_to_do_gives_nothing(pool: ProcessPoolExecutor, how: str) -> None:
    assert collected(lambda: pool.map(jobs.double, []), how) == []
    assert collected(lambda: pool.map(jobs.double), how) == []
    assert collected(lambda: pool.map(jobs.double, [], ordered=False, chunksize=5), how) == []


def test_the_shortest_iterable_ends_the_map(pool: ProcessPoolExecutor) -> None:
    assert list(pool.map(jobs.pair, range(3), "abcdef")) == [(0, "a"), (1, "b"), (2, "c")]
    assert list(pool.map(jobs.pair, itertools.count(), "ab", chunksize=5)) == [(0, "a"), (1, "b")]


@both
def test_a_buffered_map_reads_an_endless_iterable_as_needed(
    pool: ProcessPoolExecutor, how: str
) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for n in itertools.count():
            read.append(n)
            yield n

    if how == "sync":
        results = pool.map(jobs.double, items(), buffersize=4)
        assert len(read) == 4
        assert list(itertools.islice(results, 10)) == [2 * n for n in range(10)]
        assert len(read) == 14
        results.close()
        return

    async def main() -> None:
        results = pool.map(jobs.double, items(), buffersize=4)
        assert len(read) == 4
        for n in range(10):
            assert await results.__anext__() == 2 * n
        assert len(read) == 14
        results.close()

    asyncio.run(main())


def test_without_a_buffer_all_is_submitted_at_once(pool: ProcessPoolExecutor) -> None:
    items = iter(range(100))
    results = pool.map(jobs.double, items)
    assert next(items, None) is None
    assert list(results) == [2 * n for n in range(100)]


@both
@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_takes_too_long_ends(
    pool: ProcessPoolExecutor, tmp_path: Path, how: str, ordered: bool
) -> None:
    pool.submit(jobs.double, 1).result(60)
    with pytest.raises(FutureTimeout):
        collected(
            lambda: pool.map(
                jobs.hang, [tmp_path / "a", tmp_path / "b"], timeout=0.3, ordered=ordered
            ),
            how,
        )
    for name in "ab":
        path = tmp_path / name
        if path.exists():
            jobs.until(lambda: jobs.is_gone(int(path.read_text())))


@both
@pytest.mark.parametrize("ordered", [True, False])
def test_an_exception_comes_in_its_place_and_ends_the_map(
    pool: ProcessPoolExecutor, how: str, ordered: bool
) -> None:
    seen: list[int] = []

    async def run_async() -> None:
        async for value in results:
            seen.append(value)

    def run() -> None:
        seen.extend(iter(results.__next__, None))

    results = pool.map(jobs.fail_at, range(10), [5] * 10, ordered=ordered, buffersize=2)
    with pytest.raises(LookupError, match="five"):
        asyncio.run(run_async()) if how == "async" else run()
    assert 5 not in seen
    if ordered and how == "async":
        assert seen == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_an_exception_is_raised_and_is_not_logged_as_well(tmp_path: Path, ordered: bool) -> None:
    code = """
        import asyncio, sys
        from offloop import ProcessPoolExecutor
        from support import jobs

        async def main(ordered):
            async with ProcessPoolExecutor(1) as pool:
                try:
                    async for _ in pool.map(jobs.fail_at, range(9), [2] * 9, ordered=ordered):
                        pass
                except LookupError:
                    print("raised")

        if __name__ == "__main__":
            asyncio.run(main(sys.argv[1] == "True"))
    """
    done = scripts.run(scripts.write(tmp_path / "script.py", code), str(ordered))
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised\n", "")


@both
def test_an_exception_cancels_the_other_calls(
    pool: ProcessPoolExecutor, tmp_path: Path, how: str
) -> None:
    def items() -> Iterator[Any]:
        yield None, None
        yield tmp_path / "started", tmp_path / "written"
        for n in range(20):
            yield tmp_path / f"never{n}", None

    firsts, seconds = zip(*items())
    with pytest.raises(LookupError):
        collected(lambda: pool.map(jobs.fail_or_hang, firsts, seconds), how)
    jobs.until(lambda: pool._engine.outstanding() == 0)
    # The calls that had begun by then are killed.
    ran = [path for path in (tmp_path / f"never{n}" for n in range(20)) if path.exists()]
    for path in ran:
        jobs.until(lambda: jobs.is_gone(int(path.read_text())))


def test_a_crash_comes_in_its_place(pool: ProcessPoolExecutor) -> None:
    results = pool.map(jobs.exit_if_odd, [0, 2, 3, 4])
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(WorkerDied) as caught:
        next(results)
    assert caught.value.task == "support.jobs.exit_if_odd"


def test_an_async_function_is_refused_with_advice(pool: ProcessPoolExecutor) -> None:
    with pytest.raises(TypeError, match="async function"):
        pool.map(asyncio.sleep, [1])
    with pytest.raises(TypeError, match="returned a coroutine"):
        list(pool.map(jobs.call_async, [1]))


def test_an_iterable_that_raises_raises_where_it_is_read(pool: ProcessPoolExecutor) -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        raise LookupError("no more")

    with pytest.raises(LookupError):
        pool.map(jobs.double, items())
    results = pool.map(jobs.double, items(), buffersize=2)
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(LookupError):
        list(results)


def test_an_item_that_cannot_be_pickled_raises_in_its_place(pool: ProcessPoolExecutor) -> None:
    results = pool.map(jobs.echo, [1, threading.Lock(), 3])
    assert next(results) == 1
    with pytest.raises(TypeError):
        next(results)


def test_closing_a_map_kills_what_runs_and_forgets_the_rest(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    paths = [tmp_path / str(n) for n in range(10)]
    results = pool.map(jobs.hang, paths)
    jobs.wait_for(paths[0])
    results.close()
    results.close()
    assert list(results) == []
    jobs.until(lambda: jobs.is_gone(int(paths[0].read_text())))
    jobs.until(lambda: pool._engine.outstanding() == 0)
    assert not any(path.exists() for path in paths[2:])


def test_a_cancelled_async_map_cancels_its_calls(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    async def consume() -> None:
        async for _ in pool.map(jobs.hang, [tmp_path / "a", tmp_path / "b"]):
            pass

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        await asyncio.get_running_loop().run_in_executor(None, jobs.wait_for, tmp_path / "a")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        jobs.until(lambda: jobs.is_gone(int((tmp_path / "a").read_text())))
        jobs.until(lambda: pool._engine.outstanding() == 0)

    asyncio.run(main())


def test_the_loop_runs_while_a_map_is_awaited(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    async def main() -> None:
        results = pool.map(jobs.hold_named, [tmp_path / "x"], [tmp_path / "gate"])
        first = asyncio.ensure_future(results.__anext__())
        await asyncio.sleep(0)
        (tmp_path / "gate").touch()
        assert await first == "x"

    asyncio.run(main())


@both
@pytest.mark.parametrize("chunksize", [1, 7])
def test_progress_counts_every_item_once(
    pool: ProcessPoolExecutor, how: str, chunksize: int
) -> None:
    counts: list[int] = []

    def results() -> Any:
        return pool.map(
            jobs.double,
            range(50),
            chunksize=chunksize,
            ordered=False,
            progress=lambda n: counts.append(n),
        )

    assert len(collected(results, how)) == 50
    assert sum(counts) == 50


def test_a_tqdm_bar_follows(pool: ProcessPoolExecutor) -> None:
    tqdm = pytest.importorskip("tqdm")
    with tqdm.tqdm(total=30, file=io.StringIO()) as bar:
        assert sum(pool.map(jobs.double, range(30), progress=bar.update)) == 870
        assert bar.n == 30


@pytest.mark.parametrize(
    "options", [{"chunksize": 0}, {"chunksize": -1}, {"buffersize": 0}], ids=str
)
def test_invalid_sizes_are_refused(
    pool: ProcessPoolExecutor, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError):
        pool.map(jobs.double, [1], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("buffersize", ["foo", 2.0])
def test_a_buffersize_that_is_no_integer_is_refused_as_by_the_standard_executors(
    pool: ProcessPoolExecutor, buffersize: Any
) -> None:
    with pytest.raises(TypeError, match="^buffersize must be an integer or None$"):
        pool.map(jobs.double, [1], buffersize=buffersize)


def test_a_map_goes_on_when_its_pool_is_shut_down_meanwhile() -> None:
    with ProcessPoolExecutor(2) as pool:
        results = pool.map(jobs.double, range(100))
    assert list(results) == [2 * n for n in range(100)]


def test_a_buffered_map_raises_when_its_pool_is_shut_down() -> None:
    with ProcessPoolExecutor(2) as pool:
        results = pool.map(jobs.double, range(100), buffersize=3)
    with pytest.raises(RuntimeError):
        list(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_loop_may_end_in_the_middle_of_a_map(
    pool: ProcessPoolExecutor, ordered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Any:
        results = pool.map(jobs.double, range(300), ordered=ordered)
        assert await results.__anext__() in range(600)
        return results

    results = asyncio.run(main())
    jobs.until(lambda: pool._engine.outstanding() == 0)
    # The remaining results can be read without a loop, or on another one.
    assert next(results) in range(600)
    assert len(collected(lambda: results, "async")) == 298
    assert not caplog.records


def test_two_loops_iterate_over_maps_of_one_pool(pool: ProcessPoolExecutor) -> None:
    sums: list[int] = []

    async def main() -> None:
        sums.append(sum([value async for value in pool.map(jobs.double, range(100))]))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [9900, 9900]


def test_large_items_travel_in_a_map(pool: ProcessPoolExecutor) -> None:
    values = [bytes([n]) * 300_000 for n in range(20)]
    assert list(pool.map(jobs.echo, values)) == values
    assert list(pool.map(jobs.echo, values, chunksize=6)) == values

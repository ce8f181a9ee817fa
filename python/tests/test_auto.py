"""The promises of `offloop.auto`. The functions really compute and wait; the process id shows where they ran."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import hashlib
import os
import pickle
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import offloop
import pytest
from offloop._pools import default
from offloop._auto.auto import HOLDS_GIL, auto
from offloop._auto.measured import GilProbe

HERE = os.getpid()
MANY = 100
"""A number of calls that is more than a change of a function's place ever takes."""

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


@pytest.fixture(autouse=True)
def pools_of_its_own() -> Iterator[None]:
    auto.forget()
    yield
    auto.forget()
    for pool in (default._threads, default._processes):
        if pool is not None:
            pool.shutdown()
    default._reset_in_child()


def burn(seconds: float = 0.02) -> int:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return os.getpid()


def note(path: Path) -> None:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")


def notes(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def until(place: str, fn: Callable[..., Any], *args: Any) -> None:
    for _ in range(MANY):
        if auto.explain(fn).place == place:
            return
        await offloop.auto(fn, *args)
    pytest.fail(f"after {MANY} calls: {auto.explain(fn)}")


def test_a_function_that_computes_moves_to_processes_and_explains_since_when() -> None:
    async def main() -> None:
        assert await offloop.auto(burn) == HERE
        await until("processes", burn)
        assert await offloop.auto(burn) != HERE
        placement = auto.explain(burn)
        assert placement.place == "processes"
        assert placement.cpu >= 0.02
        assert 0.3 < placement.share <= 1
        assert str(placement).startswith("processes: since call ")
        assert "it can be pickled" in placement.reason

    asyncio.run(main())


def test_a_function_that_waits_stays_in_threads() -> None:
    def nap() -> int:
        time.sleep(0.01)
        return os.getpid()

    async def main() -> None:
        assert str(auto.explain(nap)) == "threads: none of its calls has ended yet"
        assert [await offloop.auto(nap) for _ in range(12)] == [HERE] * 12
        assert auto.explain(nap).calls == 12
        assert "it waits" in str(auto.explain(nap))

    asyncio.run(main())


def test_short_calls_stay_in_threads() -> None:
    async def main() -> None:
        for _ in range(50):
            assert await offloop.auto(os.getpid) == HERE

    asyncio.run(main())


def test_waiting_for_the_gil_is_not_taken_for_waiting() -> None:
    async def main() -> None:
        for _ in range(8):
            cpu, wall = time.process_time(), time.perf_counter()
            # Each thread gets an eighth of the time.
            await asyncio.gather(*(offloop.auto(burn, 0.1) for _ in range(8)))
            if auto.explain(burn).place == "processes":
                return
            share = (time.process_time() - cpu) / (time.perf_counter() - wall)
        if share < 0.8:
            # Then the thread that has the GIL waits for a core, which is not measured.
            pytest.skip(f"the machine is busy: this process had {share:.0%} of a core")
        pytest.fail(str(auto.explain(burn)))

    asyncio.run(main())


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def test_a_function_that_releases_the_gil_stays_in_threads_and_the_reason_is_explained() -> None:
    async def main() -> None:
        text = bytes(40_000_000)
        # A machine that gives the probe no time to run makes any call look as if it held the GIL.
        for _ in range(10):
            auto.forget()
            for _ in range(5):
                await offloop.auto(digest, text)
            if auto.explain(digest).place == "threads":
                break
        assert "releases the GIL" in str(auto.explain(digest))

    asyncio.run(main())


def test_holding_the_gil_is_told_from_releasing_it_when_there_are_too_few_cores() -> None:
    core = min(os.sched_getaffinity(0))
    text, words = bytes(40_000_000), [str(n) for n in range(300_000)]
    held: dict[str, float] = {}

    def measure(name: str, call: Callable[[], object]) -> None:
        shares = []
        for _ in range(5):
            probe = GilProbe()
            probe.start()
            call()
            shares.append(probe.stop())
        held[name] = statistics.median(shares)

    def on_a_busy_core() -> None:
        os.sched_setaffinity(0, {core})  # of this thread, and of the probes that it starts
        measure("digest", lambda: digest(text))
        measure("sort", lambda: sorted(words, key=str))

    spin = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(3)]
    try:
        thread = threading.Thread(target=on_a_busy_core)
        thread.start()
        thread.join()
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert held["digest"] < HOLDS_GIL < held["sort"]


def burn_with(_: object) -> int:
    return burn()


def test_a_function_that_cannot_be_pickled_stays_in_threads_and_the_reason_is_explained() -> None:
    async def main() -> None:
        lock = threading.Lock()
        for _ in range(5):
            assert await offloop.auto(burn_with, lock) == HERE
        assert str(auto.explain(burn_with)).startswith("threads: CPU-bound, but it cannot be pickled")
        assert "lock" in str(auto.explain(burn_with))

    asyncio.run(main())


def burn_and_return(value: object) -> object:
    burn()
    return threading.Lock() if value == "lock" else value


def test_a_result_that_cannot_be_pickled_keeps_its_function_in_threads() -> None:
    async def main() -> None:
        for _ in range(5):
            await offloop.auto(burn_and_return, "lock")
        assert "its result cannot be pickled" in str(auto.explain(burn_and_return))

    asyncio.run(main())


def walk(tree: list[list[int]]) -> list[list[int]]:
    burn(0.003)
    return tree


def test_a_function_that_costs_more_to_send_than_to_compute_stays_in_threads() -> None:
    async def main() -> None:
        tree = [[n] for n in range(200_000)]
        for _ in range(5):
            await offloop.auto(walk, tree)
        assert "the pickling would take" in str(auto.explain(walk))

    asyncio.run(main())


def who(_: object) -> tuple[int, str]:
    return burn(), user.get()


def test_a_call_that_cannot_be_pickled_runs_in_a_thread_with_its_context() -> None:
    async def main() -> None:
        await until("processes", who, 1)
        user.set("ann")
        assert await offloop.auto(who, threading.Lock()) == (HERE, "ann")
        assert "it cannot be pickled" in str(auto.explain(who))

    asyncio.run(main())


class Local:
    """Can be pickled, but unpickled in the tests' process only."""

    def __reduce__(self) -> tuple[Any, ...]:
        return make_local, (HERE,)


def make_local(pid: int) -> Local:
    if pid != os.getpid():
        raise RuntimeError("this belongs to another process")
    return Local()


def burn_noting(path: Path, _: object) -> int:
    note(path)
    return burn()


def test_a_call_that_workers_cannot_unpickle_runs_once_in_a_thread(tmp_path: Path) -> None:
    async def main() -> None:
        await until("processes", burn_noting, tmp_path / "before", 1)
        assert await offloop.auto(burn_noting, tmp_path / "calls", Local()) == HERE
        assert notes(tmp_path / "calls") == [HERE]
        assert "cannot unpickle" in str(auto.explain(burn_noting))
        assert "belongs to another process" in str(auto.explain(burn_noting))

    asyncio.run(main())


def test_a_result_that_turns_out_not_to_be_picklable_is_an_error_and_the_call_is_not_repeated() -> None:
    async def main() -> None:
        await until("processes", burn_and_return, 1)
        with pytest.raises(TypeError, match="pickle"):
            await offloop.auto(burn_and_return, "lock")
        assert auto.explain(burn_and_return).place == "threads"
        # The next function has measurements of its own.
        assert isinstance(await offloop.auto(burn_and_return, "lock"), type(threading.Lock()))

    asyncio.run(main())


def test_a_result_that_cannot_be_unpickled_here_is_an_error_and_the_call_is_not_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        auto.pin(foreign, "processes")
        with pytest.raises(RuntimeError, match="not unpickle here"):
            await offloop.auto(foreign, tmp_path / "calls")
        assert len(notes(tmp_path / "calls")) == 1

    asyncio.run(main())


class Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def refuse() -> None:
    raise RuntimeError("not unpickle here")


def foreign(path: Path) -> Foreign:
    note(path)
    return Foreign()


def fail(path: Path, error: Exception) -> None:
    note(path)
    burn()
    raise error


@pytest.mark.parametrize("error", [ValueError("no"), pickle.PicklingError("no"), TypeError("cannot pickle")])
def test_a_call_that_raises_is_not_repeated(tmp_path: Path, error: Exception) -> None:
    async def main() -> None:
        for _ in range(6):
            with pytest.raises(type(error), match=str(error)):
                await offloop.auto(fail, tmp_path / "threads", error)
        assert notes(tmp_path / "threads") == [HERE] * 6

        auto.pin(fail, "processes")
        for _ in range(4):
            with pytest.raises(type(error), match=str(error)) as caught:
                await offloop.auto(fail, tmp_path / "processes", error)
            assert "in fail" in str(caught.value.__cause__)
        pids = notes(tmp_path / "processes")
        assert len(pids) == 4
        assert HERE not in pids

    asyncio.run(main())


def die(path: Path) -> None:
    note(path)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_call_whose_process_dies_is_not_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        auto.pin(die, "processes")
        with pytest.raises(offloop.WorkerDied, match="test_auto.die"):
            await offloop.auto(die, tmp_path / "calls")
        assert len(notes(tmp_path / "calls")) == 1

    asyncio.run(main())


def work(seconds: float, computes: bool) -> int:
    if computes:
        return burn(seconds)
    time.sleep(seconds)
    return os.getpid()


def test_a_function_that_comes_to_wait_comes_back_and_can_move_again() -> None:
    async def main() -> None:
        await until("processes", work, 0.02, True)
        await until("threads", work, 0.02, False)
        assert "in processes" in str(auto.explain(work))
        assert await offloop.auto(work, 0.02, True) == HERE
        await until("processes", work, 0.02, True)

    asyncio.run(main())


def contrary() -> None:
    """Waits in a worker and computes in a thread, so that it is always in the wrong place."""
    if threading.current_thread() is threading.main_thread():  # a worker's
        time.sleep(0.01)
    else:
        burn(0.01)


def test_a_function_does_not_move_back_and_forth() -> None:
    async def main() -> None:
        places = []
        for _ in range(80):
            await offloop.auto(contrary)
            places.append(auto.explain(contrary).place)
        moves = sum(before != after for before, after in zip(places, places[1:], strict=False))
        assert 2 <= moves <= 8

    asyncio.run(main())


released = threading.Event()


def burn_or_wait(path: Path, waits: bool) -> int:
    if not waits:
        return burn()
    note(path)
    released.wait()
    return os.getpid()


def test_a_running_call_is_never_moved(tmp_path: Path) -> None:
    async def main() -> None:
        released.clear()
        running = offloop.auto(burn_or_wait, tmp_path / "calls", True)
        while not notes(tmp_path / "calls"):
            await asyncio.sleep(0.001)
        await until("processes", burn_or_wait, tmp_path / "calls", False)
        assert await offloop.auto(burn_or_wait, tmp_path / "calls", False) != HERE
        released.set()
        assert await running == HERE
        assert notes(tmp_path / "calls") == [HERE]
        assert auto.explain(burn_or_wait).place == "processes"

    asyncio.run(main())


def test_concurrent_calls_of_many_loops_each_run_once(tmp_path: Path) -> None:
    async def main(path: Path) -> None:
        for _ in range(5):
            await asyncio.gather(*(offloop.auto(burn_noting, path, None) for _ in range(6)))

    def on_three_loops(path: Path) -> list[int]:
        loops = [threading.Thread(target=asyncio.run, args=(main(path),)) for _ in range(3)]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
        return notes(path)

    assert len(on_three_loops(tmp_path / "first")) == 3 * 5 * 6
    assert auto.explain(burn_noting).calls == 3 * 5 * 6
    asyncio.run(until("processes", burn_noting, tmp_path / "between", None))
    pids = on_three_loops(tmp_path / "then")
    assert len(pids) == 3 * 5 * 6
    assert HERE not in pids


class Adder:
    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, n: int, *, twice: bool = False) -> int:
        burn()
        return self.start + n * (2 if twice else 1)

    def __call__(self) -> int:
        return self.start


def test_arguments_and_results_are_the_same_in_both_places() -> None:
    async def main() -> None:
        large = bytes(1 << 20)
        await until("processes", Adder(1).add, 2)
        assert await offloop.auto(Adder(1).add, 2, twice=True) == 5
        assert await offloop.auto(functools.partial(Adder(2).add, twice=True), 2) == 6
        auto.pin(burn_and_return, "processes")
        assert await offloop.auto(burn_and_return, large) == large

    asyncio.run(main())


def test_limits_hold_in_both_places() -> None:
    async def main() -> None:
        for place in ("threads", "processes"):
            auto.pin(work, place)
            with pytest.raises(offloop.RunTimeout, match=r"test_auto\.work"):
                await offloop.auto.options(timeout=0.05)(work, 2, False)

    asyncio.run(main())


def test_a_pinned_function_stays_until_it_is_forgotten() -> None:
    async def main() -> None:
        auto.pin(burn, "threads")
        assert [await offloop.auto(burn) for _ in range(5)] == [HERE] * 5
        auto.pin(os.getpid, "processes")
        for _ in range(5):
            assert await offloop.auto(os.getpid) != HERE
        assert str(auto.explain(os.getpid)).startswith("processes: pinned; 5 calls")
        auto.forget(os.getpid)
        assert await offloop.auto(os.getpid) == HERE
        with pytest.raises(ValueError, match="'threads' or 'processes'"):
            auto.pin(burn, "moon")  # type: ignore[arg-type]

    asyncio.run(main())


def test_functions_are_told_apart_by_their_code() -> None:
    def closure(n: int) -> Callable[[], int]:
        return lambda: n

    @functools.wraps(burn)
    def decorated() -> int:
        return burn()

    async def main() -> None:
        same: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
            (closure(1), closure(2)),
            (Adder(1).add, Adder(2).add),
            (Adder(1), Adder(2)),
            (burn, functools.partial(burn, 1.0)),
            (burn, decorated),
            ([1].count, [2].count),
            (str.upper, str.upper),
        ]
        for one, other in same:
            auto.pin(one, "processes")
            assert auto.explain(other).place == "processes", other
        for unlike in (Adder, Adder.__init__, [1].index, str.lower, os.getppid):
            assert auto.explain(unlike).place == "threads", unlike

    asyncio.run(main())


def test_the_measurements_of_a_function_are_dropped_with_it() -> None:
    async def main() -> None:
        for n in range(20):
            names: dict[str, Any] = {}
            exec(f"def temporary(): return {n}", names)
            assert await offloop.auto(names["temporary"]) == n
        del names

    before = len(auto._records)
    asyncio.run(main())
    gc.collect()
    assert len(auto._records) <= before + 1


def test_an_async_function_is_refused() -> None:
    async def fetch() -> None: ...

    async def main() -> None:
        with pytest.raises(TypeError, match="async function"):
            offloop.auto(fetch)

    asyncio.run(main())

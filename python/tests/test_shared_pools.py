"""The pools that the whole program shares: their settings, their start, and what their workers see of the program."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import offloop
import pytest
from offloop._pools import default

from support import scripts

GIVE_UP = 60


pytestmark = pytest.mark.usefixtures("shared_pools_end")


def look(name: str = "OFFLOOP_TEST") -> tuple[int, str | None]:
    """Returns the process, and an environment variable of it."""
    return os.getpid(), os.environ.get(name)


def import_module(name: str) -> object:
    return getattr(__import__(name), "VALUE")


def current_threads() -> str:
    return threading.current_thread().name


def test_the_shared_pools_have_the_configured_numbers_of_workers() -> None:
    offloop.configure(threads=3, processes=1)

    async def main() -> None:
        await offloop.run(int)
        await offloop.run_cpu(int)

    asyncio.run(main())
    assert default.threads()._max_workers == 3
    assert default.processes()._max_workers == 1


def test_the_shared_pools_are_made_by_the_configured_functions() -> None:
    offloop.configure(
        threads=lambda: offloop.ThreadPoolExecutor(2, "mine"),
        processes=lambda: offloop.ProcessPoolExecutor(1, env={"OFFLOOP_TEST": "mine"}),
    )

    async def main() -> None:
        assert (await offloop.run(current_threads)).startswith("mine")
        assert (await offloop.run_cpu(look))[1] == "mine"

    asyncio.run(main())


def test_a_pool_that_is_in_use_finishes_its_calls_when_another_takes_its_place() -> None:
    async def main() -> None:
        offloop.configure(threads=1, processes=1)
        first = await offloop.run_cpu(look)
        gate = threading.Event()
        waiting = offloop.run(gate.wait, GIVE_UP)
        queued = offloop.run(int)
        slow = offloop.run_cpu(pow, 3, 100_000)
        offloop.configure(threads=1, processes=1)
        assert await offloop.run(int) == 0
        gate.set()
        assert await waiting and await queued == 0 and await slow
        assert (await offloop.run_cpu(look))[0] != first[0]

    asyncio.run(main())


@pytest.mark.parametrize("wrong", [0, -1, True, "4", offloop.ThreadPoolExecutor])
def test_a_wrong_setting_of_a_shared_pool_is_refused(wrong: object) -> None:
    given = wrong(1) if isinstance(wrong, type) else wrong
    with pytest.raises((TypeError, ValueError), match="processes"):
        offloop.configure(processes=given)  # type: ignore[arg-type]


def test_the_error_of_a_function_that_makes_a_pool_is_that_of_the_calls_and_the_next_one_tries_again() -> (
    None
):
    def make() -> offloop.ProcessPoolExecutor:
        raise OSError("no pool today")

    async def main() -> None:
        offloop.configure(processes=make)
        for _ in range(2):
            with pytest.raises(OSError, match="no pool today"):
                await offloop.run_cpu(int)
        offloop.configure(processes=lambda: 3)  # type: ignore[arg-type, return-value]
        with pytest.raises(TypeError, match="ProcessPoolExecutor"):
            await offloop.run_cpu(int)
        offloop.configure(processes=1)
        assert await offloop.run_cpu(int) == 0

    asyncio.run(main())


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, asyncio.CancelledError])
def test_a_function_that_makes_a_pool_ends_no_iteration_and_no_task_by_what_it_raises(
    kind: type[BaseException],
) -> None:
    def make() -> Any:
        raise kind("no pool today")

    offloop.configure(threads=make, processes=make)
    runners: list[Any] = [offloop.run, offloop.run_cpu]

    async def main() -> None:
        for runner, name in zip(runners, ("threads", "processes"), strict=True):
            for _ in range(2):
                # As in a `__next__`, which a StopIteration would end without a trace.
                with pytest.raises((RuntimeError, CancelledError), match=f"given as {name} raised") as caught:
                    await anext_of(runner)
                assert type(caught.value) is not asyncio.CancelledError
                assert isinstance(caught.value.__cause__, kind)

    async def anext_of(runner: Any) -> object:
        class Calls:
            def __iter__(self) -> Iterator[Any]:
                return self

            def __next__(self) -> Any:
                return runner(int)

        return [await call for call in Calls()]

    asyncio.run(main())
    offloop.configure(threads=1, processes=1)


def test_a_loop_does_not_wait_while_the_process_pool_is_made() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def make() -> offloop.ProcessPoolExecutor:
        begun.set()
        go_on.wait(GIVE_UP)
        return offloop.ProcessPoolExecutor(1)

    async def main() -> None:
        offloop.configure(processes=make)
        data = bytearray(b"x" * 1_000_000)
        calls = [offloop.run_cpu(bytes, data), offloop.run_cpu(str, 2), offloop.run_cpu(str, 3)]
        # The call has its arguments as they were when it was made.
        data[:] = b"y" * 1_000_000
        cancelled = offloop.run_cpu(str, 4)
        assert cancelled.cancel()
        with pytest.raises(Exception, match="pickle"):
            await offloop.run_cpu(str, threading.Lock())
        with pytest.raises(TypeError, match="async function"):
            offloop.run_cpu(main)  # type: ignore[unused-coroutine]
        await asyncio.to_thread(begun.wait, GIVE_UP)
        assert not any(call.done() for call in calls)
        go_on.set()
        assert await asyncio.gather(*calls) == [b"x" * 1_000_000, "2", "3"]
        assert cancelled.cancelled()

    asyncio.run(main())


def test_several_loops_can_wait_for_the_process_pool() -> None:
    go_on = threading.Event()

    def make() -> offloop.ProcessPoolExecutor:
        go_on.wait(GIVE_UP)
        return offloop.ProcessPoolExecutor(1)

    offloop.configure(processes=make)
    results: list[int] = []

    async def main() -> None:
        results.append(await offloop.run_cpu(abs, -3))

    async def gone() -> None:
        offloop.run_cpu(abs, -4)

    asyncio.run(gone())
    loops = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(3)]
    for loop in loops:
        loop.start()
    go_on.set()
    for loop in loops:
        loop.join(GIVE_UP)
    assert results == [3, 3, 3]


def test_warming_up_starts_the_workers() -> None:
    offloop.configure(processes=2)
    offloop.warm_up().wait(GIVE_UP)
    assert len(default.processes()._engine.workers()) == 2

    async def main() -> None:
        await offloop.warm_up(1)
        with offloop.ProcessPoolExecutor(2) as pool:
            await pool.warm_up()
            assert len(pool._engine.workers()) == 2

    asyncio.run(main())


def test_warming_up_raises_the_reason_why_no_worker_starts() -> None:
    with offloop.ProcessPoolExecutor(1, preload=["no_such_module_at_all"], start_timeout=5) as pool:
        with pytest.raises(offloop.WorkerStartError):
            pool.warm_up().wait(GIVE_UP)
        with pytest.raises(ValueError, match="workers"):
            pool.warm_up(0)


def test_the_workers_of_a_pool_find_what_the_program_has_put_on_its_search_path_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with offloop.ProcessPoolExecutor(1) as pool:
        assert pool.submit(int).result(GIVE_UP) == 0
        (tmp_path / "found_later.py").write_text("VALUE = 'found'")
        monkeypatch.syspath_prepend(tmp_path)
        assert pool.submit(import_module, "found_later").result(GIVE_UP) == "found"
        # An entry that the job has added to its own search path stays.
        assert pool.submit(sys.path.append, "own").result(GIVE_UP) is None
        sys.path.append(str(tmp_path / "another"))
        path = pool.submit(eval, "__import__('sys').path").result(GIVE_UP)
        assert path[-1] in (str(tmp_path / "another"), "own") and path[0] == str(tmp_path)


def test_the_workers_of_a_pool_follow_a_search_path_that_is_as_before_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path() -> list[str]:
        found: list[str] = pool.submit(eval, "__import__('sys').path").result(GIVE_UP)
        return found

    with offloop.ProcessPoolExecutor(1) as pool:
        before = list(sys.path)
        assert str(tmp_path) not in path()
        monkeypatch.setattr(sys, "path", [*before, str(tmp_path)])
        assert str(tmp_path) in path()
        monkeypatch.setattr(sys, "path", before)
        assert str(tmp_path) not in path()


def test_the_shared_workers_follow_the_environment_and_the_directory_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seen() -> tuple[str | None, str]:
        return (await offloop.run_cpu(look))[1], await offloop.run_cpu(os.getcwd)

    async def main() -> None:
        offloop.configure(processes=1)
        before = os.getcwd()
        assert await seen() == (None, before)
        monkeypatch.setenv("OFFLOOP_TEST", "one")
        assert await seen() == ("one", before)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OFFLOOP_TEST", "two")
        assert await seen() == ("two", str(tmp_path))
        # What a job has changed in its worker stays, if the program does not change it as well.
        await offloop.run_cpu(os.putenv, "OFFLOOP_OTHER", "job's")
        monkeypatch.undo()
        assert await seen() == (None, before)

    asyncio.run(main())


def test_workers_with_an_environment_and_a_directory_of_their_own_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    offloop.configure(
        processes=lambda: offloop.ProcessPoolExecutor(1, cwd=own, env={"OFFLOOP_TEST": "own"})
    )

    async def main() -> None:
        assert (await offloop.run_cpu(look))[1] == "own"
        monkeypatch.setenv("OFFLOOP_TEST", "changed")
        monkeypatch.setenv("OFFLOOP_OTHER", "changed")
        monkeypatch.chdir(tmp_path)
        assert (await offloop.run_cpu(look))[1] == "own"
        assert (await offloop.run_cpu(look, "OFFLOOP_OTHER"))[1] == "changed"
        assert await offloop.run_cpu(os.getcwd) == str(own)

    asyncio.run(main())


def test_a_forked_child_makes_shared_pools_with_the_same_settings(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "program.py",
        """
        import asyncio, os, offloop

        async def main():
            return await offloop.run_cpu(os.getpid), await offloop.run(os.getpid)

        if __name__ == "__main__":
            offloop.configure(threads=2, processes=1)
            asyncio.run(main())
            child = os.fork()
            worker, own = asyncio.run(main())
            from offloop._pools import default
            assert own == os.getpid() != worker
            assert (default.threads()._max_workers, default.processes()._max_workers) == (2, 1)
            for pool in default.take():
                pool.shutdown()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                print("both")
        """,
    )
    done = scripts.run(script)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


def test_the_errors_of_the_shared_process_pool_are_imported_before_they_are_needed(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "program.py",
        """
        import asyncio, sys, time, offloop

        async def main():
            assert await offloop.run_cpu(abs, -1) == 1
            while "offloop._process_errors" not in sys.modules:
                await asyncio.sleep(0.01)
            print("imported")

        if __name__ == "__main__":
            asyncio.run(asyncio.wait_for(main(), 30))
        """,
    )
    done = scripts.run(script)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def workers_by_default(*flags: str, env: dict[str, str] | None = None) -> tuple[int, int]:
    code = (
        "import offloop; print(offloop.ThreadPoolExecutor()._max_workers, "
        "offloop.ProcessPoolExecutor()._max_workers)"
    )
    done = scripts.run(*flags, "-c", "import os; os.environ.update(%r);%s" % (env or {}, code))
    assert done.returncode == 0, done.stderr
    threads, processes = done.stdout.split()
    return int(threads), int(processes)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python 3.13 brought -X cpu_count")
def test_the_number_of_workers_is_that_of_the_cores_that_python_is_told_of() -> None:
    assert workers_by_default("-X", "cpu_count=3") == (7, 3)


def test_the_number_of_workers_does_not_depend_on_the_affinity_of_the_calling_thread() -> None:
    code = """
import os, threading, offloop
cores = os.sched_getaffinity(0)
def count():
    os.sched_setaffinity(0, {min(cores)})
    print(offloop.ThreadPoolExecutor()._max_workers, offloop.ProcessPoolExecutor()._max_workers)
thread = threading.Thread(target=count)
thread.start()
thread.join()
print(offloop.ThreadPoolExecutor()._max_workers, offloop.ProcessPoolExecutor()._max_workers)
"""
    done = scripts.run("-c", code)
    assert done.returncode == 0, done.stderr
    on_a_thread, on_main = done.stdout.splitlines()
    assert on_a_thread == on_main


def test_a_pool_shows_its_state() -> None:
    for kind in (offloop.ThreadPoolExecutor, offloop.ProcessPoolExecutor):
        with kind(1) as pool:
            assert f"<{kind.__name__} '" in repr(pool)
            assert "of 1 workers, 0 running, 0 queued>" in repr(pool)
            assert repr(pool.options(timeout=1.5)) == f"{pool!r}.options(timeout=1.5)"
        assert "shut down>" in repr(pool)


def test_the_package_has_its_version() -> None:
    from importlib.metadata import version

    assert offloop.__version__ == version("offloop")

"""Ends of all kinds: of pools, loops, programs and their parents. Nothing hangs, and nothing is left behind."""

import asyncio
import gc
import importlib.util
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from support import jobs, memory, scripts

import offloop
from offloop import ProcessPoolExecutor

# Shutdown


def test_shutdown_waits_for_accepted_jobs(tmp_path: Path) -> None:
    pool = ProcessPoolExecutor(2)
    calls = [pool.submit(jobs.note, tmp_path / "log", str(n)) for n in range(50)]
    pool.shutdown()
    assert all(call.done() and call.exception() is None for call in calls)
    assert len((tmp_path / "log").read_text().split()) == 50


def test_shutdown_may_be_called_again_and_from_many_threads() -> None:
    pool = ProcessPoolExecutor(2)
    call = pool.submit(jobs.double, 1)
    threads = [threading.Thread(target=pool.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    pool.shutdown()
    pool.shutdown(wait=False)
    for thread in threads:
        thread.join()
    assert call.result() == 2


def test_a_pool_that_was_never_used_can_be_shut_down() -> None:
    ProcessPoolExecutor().shutdown()
    with ProcessPoolExecutor():
        pass


def test_shutdown_without_waiting_finishes_accepted_jobs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = ProcessPoolExecutor(1)
    running = pool.submit(jobs.hold, tmp_path / "started", gate)
    queued = pool.submit(jobs.double, 2)
    pool.shutdown(wait=False)
    assert not running.done()
    gate.touch()
    assert queued.result(30) == 4 and running.result(30)


@pytest.mark.parametrize("is_shut_down", [True, False])
def test_a_collected_pool_runs_its_jobs_and_replaces_its_workers(
    tmp_path: Path, is_shut_down: bool
) -> None:
    gate = tmp_path / "gate"
    pool = ProcessPoolExecutor(1, max_tasks_per_child=1)
    running = pool.submit(jobs.hold, tmp_path / "started", gate)
    queued = [pool.submit(jobs.double, n) for n in range(3)]
    if is_shut_down:
        pool.shutdown(wait=False)
    is_gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert is_gone() is None
    gate.touch()
    assert running.result(60)
    assert [call.result(60) for call in queued] == [0, 2, 4]


def test_shutdown_may_cancel_queued_jobs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = ProcessPoolExecutor(1)
    running = pool.submit(jobs.hold, tmp_path / "started", gate)
    jobs.wait_for(tmp_path / "started")
    queued = [pool.submit(jobs.note, tmp_path / "log") for _ in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    for call in queued:
        with pytest.raises(CancelledError):
            call.result(30)
    gate.touch()
    assert running.result(30)
    assert not (tmp_path / "log").exists()


def test_no_jobs_are_taken_after_shutdown() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="after shutdown"):
            await pool.run(jobs.double, 1)
        with pytest.raises(RuntimeError, match="after shutdown"):
            await asyncio.get_running_loop().run_in_executor(pool, jobs.double, 1)

    pool = ProcessPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(jobs.double, 1)
    asyncio.run(main())


def test_async_with_waits_and_lets_the_loop_run(tmp_path: Path) -> None:
    async def main() -> int:
        async with ProcessPoolExecutor(1) as pool:
            call = pool.run(jobs.hold, tmp_path / "started", tmp_path / "gate")
            # The job ends only if the loop runs while the pool is ending.
            asyncio.get_running_loop().call_later(0.2, (tmp_path / "gate").touch)
        assert call.done()
        return await call

    assert asyncio.run(main()) == int((tmp_path / "started").read_text())


def test_a_pool_that_is_dropped_finishes_its_work(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool: Any = ProcessPoolExecutor(1)
    calls = [pool.submit(jobs.hold, tmp_path / "started", gate)]
    calls += [pool.submit(jobs.double, n) for n in range(10)]
    del pool
    gc.collect()
    gate.touch()
    assert [call.result(30) for call in calls[1:]] == [2 * n for n in range(10)]
    # Its workers end as well: see conftest.py.


def test_a_pool_and_its_futures_that_are_dropped_leave_nothing(tmp_path: Path) -> None:
    ProcessPoolExecutor(1).submit(jobs.begun, tmp_path / "ran")
    gc.collect()
    jobs.wait_for(tmp_path / "ran")


# Loops


def test_a_loop_may_be_closed_with_results_under_way(tmp_path: Path) -> None:
    code = """
        import asyncio
        from offloop import ProcessPoolExecutor
        from support import jobs

        def main():
            pool = ProcessPoolExecutor(2)
            for way in "run", "executor":
                loop = asyncio.new_event_loop()

                async def submit():
                    if way == "run":
                        return [pool.run(jobs.double, n) for n in range(200)]
                    return [loop.run_in_executor(pool, jobs.double, n) for n in range(200)]

                calls = loop.run_until_complete(submit())
                loop.close()
            pool.shutdown()
            assert asyncio.run(again()) == 6

        async def again():
            async with ProcessPoolExecutor(1) as pool:
                return await pool.run(jobs.double, 3)

        if __name__ == "__main__":
            main()
            print("fine")
    """
    done = scripts.run(scripts.write(tmp_path / "script.py", code))
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_many_loops_one_after_the_other_share_a_pool() -> None:
    async def main() -> list[Any]:
        return list(await asyncio.gather(*[pool.run(jobs.double, n) for n in range(10)]))

    with ProcessPoolExecutor(1) as pool:
        asyncio.run(main())
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            assert asyncio.run(main()) == [2 * n for n in range(10)]
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before + 2


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="needs uvloop")
def test_uvloop_runs_jobs_maps_and_streams(tmp_path: Path) -> None:
    uvloop: Any = importlib.import_module("uvloop")

    async def main() -> None:
        async with ProcessPoolExecutor(2) as pool:
            calls = [pool.run(jobs.double, n) for n in range(500)]
            assert [await call for call in calls] == [2 * n for n in range(500)]
            assert [n async for n in pool.map(jobs.double, range(9))] == [2 * n for n in range(9)]
            with pytest.raises(offloop.WorkerDied):
                await pool.run(os._exit, 3)
            call = pool.run(jobs.hang, tmp_path / "started")
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, jobs.wait_for, tmp_path / "started")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await loop.run_in_executor(pool, jobs.double, 2) == 4

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


# Ctrl-C

PLACES = {
    "result": """
        with ProcessPoolExecutor(2) as pool:
            pool.submit(jobs.hang, started).result()
    """,
    "result without with": """
        pool = ProcessPoolExecutor(2)
        pool.submit(jobs.hang, started).result()
    """,
    "exit of with": """
        with ProcessPoolExecutor(2) as pool:
            pool.submit(jobs.hang, started)
    """,
    "map": """
        with ProcessPoolExecutor(2) as pool:
            for _ in pool.map(jobs.hang, [started]):
                pass
    """,
    "map unordered": """
        with ProcessPoolExecutor(2) as pool:
            for _ in pool.map(jobs.hang, [started], ordered=False):
                pass
    """,
    "wait": """
        import concurrent.futures
        with ProcessPoolExecutor(2) as pool:
            concurrent.futures.wait([pool.submit(jobs.hang, started)])
    """,
    "run_in_executor": """
        async def main():
            with ProcessPoolExecutor(2) as pool:
                await asyncio.get_running_loop().run_in_executor(pool, jobs.hang, started)
        asyncio.run(main())
    """,
    "run_in_executor without with": """
        async def main():
            pool = ProcessPoolExecutor(2)
            await asyncio.get_running_loop().run_in_executor(pool, jobs.hang, started)
        asyncio.run(main())
    """,
    "run": """
        async def main():
            async with ProcessPoolExecutor(2) as pool:
                await pool.run(jobs.hang, started)
        asyncio.run(main())
    """,
    "exit of async with": """
        async def main():
            async with ProcessPoolExecutor(2) as pool:
                pool.submit(jobs.hang, started)
        asyncio.run(main())
    """,
    "the shared pool": """
        asyncio.run(offloop_run(started))
    """,
    "interpreter exit": """
        pool = ProcessPoolExecutor(2)
        pool.submit(jobs.hang, started)
    """,
    "a job that ignores SIGTERM": """
        with ProcessPoolExecutor(2) as pool:
            pool.submit(jobs.ignore_sigterm, started).result()
    """,
}

HEAD = """
import asyncio, sys
from pathlib import Path
import offloop
from offloop import ProcessPoolExecutor
from support import jobs

async def offloop_run(started):
    await offloop.run_cpu(jobs.hang, started)

if __name__ == "__main__":
    started = Path(sys.argv[1])
"""


@pytest.mark.parametrize("place", PLACES)
def test_one_ctrl_c_ends_the_program(tmp_path: Path, place: str) -> None:
    """The jobs never end by themselves, and the default `exit_timeout` is a minute."""
    script = tmp_path / "script.py"
    script.write_text(HEAD + PLACES[place].replace("\n    ", "\n"))
    started = tmp_path / "started"
    program = scripts.start(script, started)
    try:
        jobs.wait_for(started)
        # When its main thread sleeps, the program has reached the place where it blocks.
        jobs.until(lambda: main_thread_sleeps(program.pid))
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=20)
        jobs.until(lambda: not scripts.members(program.pid), "the end of all processes")
    finally:
        clear(program)
    if place == "interpreter exit":
        # As in the standard library: the program had ended well by then.
        assert program.returncode == 0 and "after Ctrl-C: jobs killed while they ran: 1" in err
    else:
        assert program.returncode == -signal.SIGINT and "KeyboardInterrupt" in err


def test_ctrl_c_in_the_exit_of_with_ends_the_pool_and_a_program_may_go_on(
    program: Any, tmp_path: Path
) -> None:
    body = """
        try:
            with ProcessPoolExecutor(2) as pool:
                pool.submit(jobs.hang, started)
        except KeyboardInterrupt:
            worker = int(started.read_text())
            jobs.until(lambda: jobs.is_gone(worker))
            print("goes on")
    """
    script = program(body)
    jobs.wait_for(tmp_path / "started")
    jobs.until(lambda: main_thread_sleeps(script.pid))
    os.kill(script.pid, signal.SIGINT)
    assert ends(script) == (0, "goes on\n", "")


def main_thread_sleeps(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def clear(program: "subprocess.Popen[str]") -> None:
    """Ends all processes of a program, however the test has ended."""
    for pid in scripts.members(program.pid):
        os.kill(pid, signal.SIGKILL)
    program.communicate()


# The interpreter's exit


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Any]:
    """Starts a script with this body; all its processes are killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str) -> "subprocess.Popen[str]":
        script = tmp_path / "script.py"
        script.write_text(HEAD + body.replace("\n    ", "\n"))
        started.append(scripts.start(script, tmp_path / "started"))
        return started[0]

    yield start
    for one in started:
        clear(one)


def ends(program: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = program.communicate(timeout=scripts.HANG)
    jobs.until(lambda: not scripts.members(program.pid), "the end of all processes")
    return program.returncode, out, err


def test_the_exit_finishes_accepted_jobs(program: Any, tmp_path: Path) -> None:
    body = """
        pool = ProcessPoolExecutor(2)
        for n in range(50):
            pool.submit(jobs.note, started, str(n))
    """
    assert ends(program(body)) == (0, "", "")
    assert len((tmp_path / "started").read_text().split()) == 50


def test_the_exit_finishes_the_jobs_of_a_pool_that_was_dropped_or_closed(
    program: Any, tmp_path: Path
) -> None:
    body = """
        for n in range(5):
            ProcessPoolExecutor(1).submit(jobs.note, started, str(n))
        pool = ProcessPoolExecutor(1)
        for n in range(20):
            pool.submit(jobs.note, started, str(n))
        pool.shutdown(wait=False)
        sys.exit(5)
    """
    assert ends(program(body)) == (5, "", "")
    assert len((tmp_path / "started").read_text().split()) == 25


def test_the_exit_calls_the_callbacks_of_the_jobs_that_it_finishes(program: Any) -> None:
    body = """
        pool = ProcessPoolExecutor(1)
        for n in range(20):
            pool.submit(jobs.double, n).add_done_callback(lambda call: print(call.result()))
    """
    code, out, err = ends(program(body))
    assert (code, err) == (0, "")
    assert out.split() == [str(2 * n) for n in range(20)]


def test_the_exit_waits_for_stuck_jobs_no_longer_than_exit_timeout(program: Any) -> None:
    body = """
        pool = ProcessPoolExecutor(1, exit_timeout=0.3)
        pool.submit(jobs.ignore_sigterm, started)
        jobs.wait_for(started)
        pool.submit(jobs.double, 2)
    """
    code, _, err = ends(program(body))
    assert code == 0
    assert (
        "after 0.3 s (exit_timeout): jobs killed while they ran: 1, queued ones cancelled: 1" in err
    )


def test_no_jobs_are_taken_as_the_interpreter_exits(program: Any) -> None:
    body = """
        import atexit
        pool = ProcessPoolExecutor(1)
        def late():
            try:
                pool.submit(jobs.double, 1)
            except RuntimeError as error:
                print(error)
        atexit.register(late)
    """
    assert ends(program(body)) == (
        0,
        "cannot schedule new futures after interpreter shutdown\n",
        "",
    )


def test_the_errors_of_jobs_that_the_exit_finishes_are_as_ever(program: Any, tmp_path: Path) -> None:
    """The standard library's module with their base can no longer be imported then."""
    body = """
        import threading
        from concurrent.futures import BrokenExecutor

        submitted = threading.Event()

        async def main():
            await offloop.run_cpu(abs, -1)
            calls = [
                asyncio.ensure_future(offloop.run_cpu(jobs.fail_when_there_is, started)),
                asyncio.ensure_future(offloop.run_cpu(jobs.die_when_there_is, started)),
            ]
            await asyncio.sleep(0)
            submitted.set()
            while not threading._SHUTTING_DOWN:
                await asyncio.sleep(0.001)
            open(started, "w").close()
            failed, died = await asyncio.gather(*calls, return_exceptions=True)
            print(repr(failed), "raise ValueError" in str(failed.__cause__))
            print(type(died).__name__, died.exitcode, isinstance(died, BrokenExecutor))

        threading.Thread(target=lambda: asyncio.run(main())).start()
        submitted.wait()
    """
    assert ends(program(body)) == (0, "ValueError('late') True\nWorkerDied 3 True\n", "")


def test_an_exception_in_the_with_block_waits_for_accepted_jobs(program: Any, tmp_path: Path) -> None:
    body = """
        with ProcessPoolExecutor(1) as pool:
            for n in range(20):
                pool.submit(jobs.note, started, str(n))
            raise LookupError("no")
    """
    code, _, err = ends(program(body))
    assert code == 1 and "LookupError: no" in err
    assert len((tmp_path / "started").read_text().split()) == 20


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_leaves_no_worker_busy_or_idle(
    program: Any, tmp_path: Path, how: signal.Signals
) -> None:
    body = """
        pool = ProcessPoolExecutor(3)
        waits = [pool.submit(jobs.hold, started.with_name(name), started) for name in "ab"]
        pool.submit(jobs.ignore_sigterm, started.with_name("c"))
        for name in "abc":
            jobs.wait_for(started.with_name(name))
        started.touch()
        for wait in waits:
            wait.result()
        started.with_name("ready").touch()
        pool.submit(jobs.hang, started.with_name("d")).result()
    """
    parent = program(body)
    jobs.wait_for(tmp_path / "ready")
    jobs.wait_for(tmp_path / "d")
    # The parent, the template, two busy workers and one that is idle.
    assert len(scripts.members(parent.pid)) == 5
    os.kill(parent.pid, how)
    assert ends(parent)[0] == -how


def test_a_parent_that_ends_without_an_exit_leaves_nothing_behind(program: Any) -> None:
    body = """
        import os
        pool = ProcessPoolExecutor(2)
        pool.submit(jobs.hang, started)
        jobs.wait_for(started)
        os._exit(4)
    """
    assert ends(program(body))[0] == 4


# fork in user code


def test_a_pool_in_a_forked_child_raises_and_the_parent_goes_on(
    program: Any, tmp_path: Path
) -> None:
    body = """
        import os, time, warnings
        warnings.simplefilter("ignore")
        pool = ProcessPoolExecutor(1)
        gate = started.with_name("gate")
        running = pool.submit(jobs.hold, started, gate)
        queued = pool.submit(jobs.double, 3)
        jobs.wait_for(started)
        async def run():
            await pool.run(jobs.double, 1)
        child = os.fork()
        if child == 0:
            for way in (
                lambda: pool.submit(jobs.double, 1).result(),
                lambda: running.result(),
                lambda: queued.exception(),
                lambda: asyncio.run(run()),
            ):
                try:
                    print(way())
                except RuntimeError as error:
                    print("told:", "fork" in str(error))
            pool.shutdown()
            with ProcessPoolExecutor(1) as own:
                print(own.submit(jobs.double, 5).result())
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        print("child", os.waitstatus_to_exitcode(status))
        gate.touch()
        print(queued.result(), running.result() > 0, pool.submit(jobs.double, 4).result())
    """
    code, out, err = ends(program(body))
    assert err == ""
    assert code == 0
    assert out.splitlines() == ["told: True"] * 4 + ["10", "child 7", "6 True 8"]


def test_multiprocessing_by_fork_works_beside_a_pool(program: Any) -> None:
    body = """
        import multiprocessing, warnings
        warnings.simplefilter("ignore")
        pool = ProcessPoolExecutor(1)
        print(pool.submit(jobs.double, 1).result())
        context = multiprocessing.get_context("fork")
        process = context.Process(target=jobs.double, args=(3,))
        process.start()
        process.join()
        print(process.exitcode, pool.submit(jobs.double, 2).result())
    """
    assert ends(program(body)) == (0, "2\n0 4\n", "")


# Nothing is left behind


def test_fifty_pools_leave_no_descriptor_thread_or_memory() -> None:
    def open_and_close(count: int) -> tuple[int, int, int]:
        for n in range(count):
            with ProcessPoolExecutor(1) as pool:
                assert pool.submit(jobs.double, n).result(60) == 2 * n
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), memory.own()

    before = set(os.listdir("/dev/shm"))
    descriptors, threads, used = open_and_close(5)
    _, more_threads, used_then = open_and_close(50)
    jobs.until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "closing descriptors")
    assert more_threads <= threads
    assert used_then - used < 8 << 20
    # Other users of it may exist, through multiprocessing or as servers.
    new = set(os.listdir("/dev/shm")) - before
    assert not [name for name in new if not name.startswith(("sem.", "psm_", "PostgreSQL."))]


@pytest.mark.parametrize("end", ["shutdown", "shutdown_later", "kill_workers", "dropped", "aclose"])
def test_a_pool_that_has_ended_gives_its_descriptors_back_without_another_pool(end: str) -> None:
    def count() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def open_and_end(pools: int) -> None:
        opened = [ProcessPoolExecutor(1) for _ in range(pools)]
        for pool in opened:
            assert pool.submit(jobs.double, 1).result(60) == 2
        for pool in opened:
            if end == "shutdown_later":
                pool.shutdown(wait=False)
            elif end == "aclose":
                asyncio.run(pool.aclose())
            elif end != "dropped":
                getattr(pool, end)()

    # The first one leaves what the program keeps, such as the results thread. Each further one would leave its own.
    open_and_end(1)
    before = count()
    open_and_end(3)
    jobs.until(lambda: count() <= before, "closing descriptors")


def test_many_jobs_leave_no_memory() -> None:
    with ProcessPoolExecutor(1) as pool:

        def run(count: int) -> int:
            for _ in range(count // 500):
                for call in [pool.submit(jobs.double, n) for n in range(500)]:
                    call.result(60)
            gc.collect()
            return memory.own()

        before = run(3000)
        assert run(9000) - before < 4 << 20

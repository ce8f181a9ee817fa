import asyncio
import functools
import os
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_EXCEPTION, Executor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from support import jobs, variables

import offloop
from offloop import ProcessPoolExecutor

# A drop-in


def test_calls_run_in_another_process_that_is_kept() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert isinstance(pool, Executor)
        pids = {pool.submit(jobs.pid).result() for _ in range(20)}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_arguments_of_any_name_arrive() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(dict, self=1, fn=2, timeout=3, priority=4).result() == {
            "self": 1,
            "fn": 2,
            "timeout": 3,
            "priority": 4,
        }


def test_methods_partials_and_callables_run() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit("a-b".split, "-").result() == ["a", "b"]
        assert pool.submit(functools.partial(jobs.pair, 1), 2).result() == (1, 2)
        assert pool.submit(jobs.double, 1).result() == 2


def test_wait_and_as_completed_work() -> None:
    with ProcessPoolExecutor(2) as pool:
        calls = [pool.submit(jobs.double, n) for n in range(50)]
        assert {call.result() for call in as_completed(calls, 30)} == {2 * n for n in range(50)}
        done, not_done = wait(calls, 30)
        assert len(done) == 50 and not not_done
        failing = pool.submit(jobs.fail_with, "no")
        assert wait([failing], 30, return_when=FIRST_EXCEPTION).done == {failing}


def test_callbacks_are_called_with_the_future() -> None:
    seen = []
    called = threading.Event()

    def callback(future: Any) -> None:
        seen.append(future.result())
        called.set()

    with ProcessPoolExecutor(1) as pool:
        pool.submit(jobs.double, 4).add_done_callback(callback)
        assert called.wait(30)
    assert seen == [8]


def test_a_callback_that_raises_or_submits_does_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    second: list[Any] = []
    submitted = threading.Event()

    def submit(_: Any) -> None:
        second.append(pool.submit(jobs.double, 5))
        submitted.set()
        raise ValueError("a careless callback")

    with ProcessPoolExecutor(1) as pool:
        pool.submit(jobs.double, 4).add_done_callback(submit)
        assert submitted.wait(30)
        assert second[0].result(30) == 10


def test_a_callback_may_wait_for_another_job() -> None:
    values: list[int] = []
    ended = threading.Event()

    def wait(_: Any) -> None:
        for n in range(3):
            values.append(pool.submit(jobs.double, n).result(30))
        ended.set()

    with ProcessPoolExecutor(1) as pool:
        pool.submit(jobs.double, 4).add_done_callback(wait)
        assert ended.wait(30)
        assert pool.submit(jobs.double, 5).result(30) == 10
    assert values == [0, 2, 4]


def test_run_in_executor_works() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(2) as pool:
            by_executor = [loop.run_in_executor(pool, jobs.double, n) for n in range(20)]
            by_run = [pool.run(jobs.double, n) for n in range(20)]
            return [await call for call in (*by_executor, *by_run)]

    assert asyncio.run(main()) == [2 * n for n in range(20)] * 2


def test_many_threads_submit_concurrently() -> None:
    results: list[int] = []
    lock = threading.Lock()

    def submit(first: int) -> None:
        calls = [pool.submit(jobs.double, first + n) for n in range(100)]
        values = [call.result(30) for call in calls]
        with lock:
            results.extend(values)

    with ProcessPoolExecutor(2) as pool:
        threads = [threading.Thread(target=submit, args=(100 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [2 * n for n in range(800)]


def test_two_loops_in_two_threads_share_a_pool() -> None:
    results: list[list[int]] = []

    async def main() -> list[Any]:
        return list(await asyncio.gather(*[pool.run(jobs.double, n) for n in range(200)]))

    with ProcessPoolExecutor(2) as pool:
        threads = [
            threading.Thread(target=lambda: results.append(asyncio.run(main()))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [[2 * n for n in range(200)]] * 2


def test_workers_are_started_as_they_are_needed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with ProcessPoolExecutor(3) as pool:
        for _ in range(5):
            pool.submit(jobs.pid).result()
        assert len(pool._processes) == 1
        running = [tmp_path / str(n) for n in range(3)]
        calls = [pool.submit(jobs.hold, started, gate) for started in running]
        for started in running:
            jobs.wait_for(started)
        gate.touch()
        assert len({call.result() for call in calls}) == 3


def test_an_async_function_is_refused_with_advice() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(TypeError, match="async function"):
        pool.submit(asyncio.sleep, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"max_workers": -1},
        {"max_tasks_per_child": 0},
        {"queue_capacity": 0},
        {"grace": -1},
        {"start_timeout": float("nan")},
        {"on_full": "explode"},
        {"on_crash": "explode"},
        {"max_worker_age": -1},
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ProcessPoolExecutor(**options)


# The queue


def occupied(pool: ProcessPoolExecutor, path: Path) -> Path:
    """Keeps the pool's one worker busy until the returned file exists."""
    gate = path / "gate"
    pool.submit(jobs.hold, path / "started", gate)
    jobs.wait_for(path / "started")
    return gate


def test_a_higher_priority_comes_first(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def main() -> None:
        with ProcessPoolExecutor(1) as pool:
            gate = occupied(pool, tmp_path)
            calls = [
                pool.options(priority=priority).run(jobs.note, log, name)
                for name, priority in [("low", -5), ("b", 0), ("high", 9), ("c", 0), ("top", 127)]
            ]
            gate.touch()
            await asyncio.gather(*calls)

    asyncio.run(main())
    assert log.read_text().split() == ["top", "high", "b", "c", "low"]


def test_a_full_queue_rejects(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, queue_capacity=2, on_full="reject") as pool:
        gate = occupied(pool, tmp_path)
        waiting = [pool.submit(jobs.double, n) for n in range(2)]
        refused = pool.submit(jobs.double, 9)
        with pytest.raises(offloop.QueueFull):
            refused.result(30)
        gate.touch()
        assert [call.result(30) for call in waiting] == [0, 2]
        assert pool.submit(jobs.double, 9).result(30) == 18


def test_a_full_queue_sheds_the_oldest(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, queue_capacity=2, on_full="shed_oldest") as pool:
        gate = occupied(pool, tmp_path)
        calls = [pool.submit(jobs.note, tmp_path / "log", str(n)) for n in range(4)]
        for call in calls[:2]:
            with pytest.raises(offloop.JobShed):
                call.result(30)
        gate.touch()
        assert [call.result(30) for call in calls[2:]] == [None, None]
    assert (tmp_path / "log").read_text().split() == ["2", "3"]


def test_with_a_full_queue_the_caller_runs_the_job(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, queue_capacity=1, on_full="caller_runs") as pool:
        gate = occupied(pool, tmp_path)
        waiting = pool.submit(jobs.pid)
        here = pool.submit(jobs.pid)
        assert here.result(30) == os.getpid()
        failing = pool.submit(jobs.fail_with, "here")
        with pytest.raises(LookupError, match="here"):
            failing.result(30)
        gate.touch()
        assert waiting.result(30) != os.getpid()


def test_a_job_that_runs_calls_of_its_own_pool_goes_on_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ProcessPoolExecutor(1) as pool:
        job = pool.submit(jobs.log_and_fill_a_queue, tmp_path / "started", tmp_path / "gate")
        worker = job.result(60)
        assert [record.message for record in caplog.records] == ["after the call"]
        assert pool.submit(jobs.pid).result(30) == worker


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_of_a_forked_template_are_workers_whatever_their_parent_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ProcessPoolExecutor(1, get_context("fork"), on_full="caller_runs") as pool:
        pool.submit(jobs.log, "from afar").result(30)
    assert [record.message for record in caplog.records] == ["from afar"]


def test_with_a_full_queue_jobs_wait_without_blocking_submit(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, queue_capacity=1) as pool:
        gate = occupied(pool, tmp_path)
        calls = [pool.submit(jobs.double, n) for n in range(50)]
        assert not any(call.done() for call in calls)
        gate.touch()
        assert [call.result(30) for call in calls] == [2 * n for n in range(50)]


# Workers start and end


def test_a_worker_is_replaced_after_exactly_max_tasks_per_child_jobs() -> None:
    with ProcessPoolExecutor(1, max_tasks_per_child=3) as pool:
        calls = [pool.submit(jobs.pid) for _ in range(12)]
        counts = Counter(call.result(30) for call in calls)
    assert list(counts.values()) == [3, 3, 3, 3]


def test_a_worker_that_is_too_old_is_replaced_while_none_is_interrupted(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, max_worker_age=0.05) as pool:
        gate = occupied(pool, tmp_path)
        old = int((tmp_path / "started").read_text())
        # Far beyond the age at which the worker is replaced.
        time.sleep(0.2)
        assert not jobs.is_gone(old)
        gate.touch()
        jobs.until(lambda: pool.submit(jobs.pid).result(30) != old)


def test_the_template_imports_preloaded_modules_once_for_all_workers(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with ProcessPoolExecutor(2, preload=["support.preloaded"]) as pool:
        calls = [pool.submit(jobs.hold, tmp_path / str(n), gate) for n in range(2)]
        for n in range(2):
            jobs.wait_for(tmp_path / str(n))
        gate.touch()
        workers = {call.result(30) for call in calls}
        seen = {pool.submit(jobs.is_imported, "support.preloaded").result(30) for _ in range(20)}
    assert len(workers) == 2
    [(imported, by)] = seen
    assert imported and by not in workers and by != os.getpid()


def test_a_module_that_cannot_be_preloaded_is_the_jobs_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with ProcessPoolExecutor(1, preload=["no_such_module_at_all"], start_timeout=5) as pool:
        with pytest.raises(offloop.WorkerStartError, match="standard error says why"):
            pool.submit(jobs.pid).result(60)
    assert "ModuleNotFoundError: No module named 'no_such_module_at_all'" in capfd.readouterr().err


def test_workers_have_the_given_directory_niceness_and_cores(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with ProcessPoolExecutor(
        1, env={"OFFLOOP_TEST": "yes"}, cwd=tmp_path, cpu_affinity=[core], nice=7
    ) as pool:
        assert pool.submit(jobs.surroundings, "OFFLOOP_TEST").result(30) == (
            str(tmp_path.resolve()),
            "yes",
            {core},
        )
        assert pool.submit(jobs.nice).result(30) == min(os.nice(0) + 7, 19)
    assert "OFFLOOP_TEST" not in os.environ


def test_workers_have_the_environment_in_which_their_pool_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOOP_TEST", "before")
    for _ in range(5):
        with ProcessPoolExecutor(1) as pool:
            # The template is only just being started.
            monkeypatch.setenv("OFFLOOP_TEST", "after")
            assert pool.submit(jobs.environment).result(30)["OFFLOOP_TEST"] == "before"
        monkeypatch.setenv("OFFLOOP_TEST", "before")


def test_workers_see_no_environment_variable_of_the_engine() -> None:
    with ProcessPoolExecutor(1, env={"MINE": "1"}) as pool:
        inside = pool.submit(jobs.environment).result(30)
    ours = [name for name in inside if name.startswith("OFFLOOP")]
    assert not set(ours) - set(os.environ)


def test_the_initializer_runs_once_in_each_worker(tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    with ProcessPoolExecutor(2, initializer=jobs.note_pid, initargs=(log,)) as pool:
        calls = [pool.submit(jobs.hold, tmp_path / str(n), gate) for n in range(2)]
        for n in range(2):
            jobs.wait_for(tmp_path / str(n))
        gate.touch()
        workers = {call.result(30) for call in calls}
        for _ in range(20):
            pool.submit(jobs.pid).result(30)
    assert sorted(log.read_text().split()) == sorted(map(str, workers))


def test_an_initializer_that_fails_is_the_jobs_error(capfd: pytest.CaptureFixture[str]) -> None:
    with ProcessPoolExecutor(1, initializer=jobs.fail_with, initargs=("not today",)) as pool:
        calls = [pool.submit(jobs.pid) for _ in range(5)]
        for call in calls:
            with pytest.raises(offloop.WorkerStartError, match="LookupError: not today"):
                call.result(60)
    assert "not today" in capfd.readouterr().err


def test_an_initializer_that_fails_once_costs_no_job(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with ProcessPoolExecutor(1, initializer=jobs.fail_once, initargs=(tmp_path / "x",)) as pool:
        assert pool.submit(jobs.double, 1).result(60) == 2


@pytest.mark.parametrize("how", [jobs.fail_with, jobs.exit_with])
def test_an_initializer_that_fails_breaks_a_pool_that_was_made_to_break(
    how: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with ProcessPoolExecutor(1, initializer=how, initargs=(3,), on_crash="break") as pool:
        calls = [pool.submit(jobs.pid) for _ in range(5)]
        for call in calls:
            with pytest.raises(BrokenProcessPool):
                call.result(60)
        with pytest.raises(BrokenProcessPool):
            pool.submit(jobs.pid)


def test_each_worker_opens_its_state_once_and_jobs_find_it(tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    with ProcessPoolExecutor(2, worker_state=functools.partial(jobs.note_and_open, log)) as pool:
        calls = [pool.submit(jobs.hold, tmp_path / str(n), gate) for n in range(2)]
        for n in range(2):
            jobs.wait_for(tmp_path / str(n))
        gate.touch()
        assert len({call.result(30) for call in calls}) == 2
        states = [call.result(30) for call in [pool.submit(jobs.state) for _ in range(40)]]
    assert all(state == f"state of {pid}" for pid, state in states)
    assert sorted(log.read_text().splitlines()) == sorted({f"opened {pid}" for pid, _ in states})


def test_a_worker_closes_its_state_when_it_is_discarded_and_when_the_worker_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ProcessPoolExecutor(
        1,
        worker_state=functools.partial(jobs.note_and_open, log),
        close_worker_state=functools.partial(jobs.note_and_close, log),
    ) as pool:
        pid, _ = pool.submit(jobs.state).result(30)
        opened, closed = f"opened {pid}", f"closed state of {pid}, in {pid}"
        pool.submit(jobs.discard_state).result(30)
        assert log.read_text().splitlines() == [opened, closed]
        pool.submit(jobs.state).result(30)
    assert log.read_text().splitlines() == [opened, closed] * 2


def test_a_state_that_cannot_be_opened_is_the_jobs_error_and_the_next_job_tries_again(tmp_path: Path) -> None:
    with ProcessPoolExecutor(
        1, worker_state=functools.partial(jobs.open_later, tmp_path / "x")
    ) as pool:
        assert pool.submit(jobs.double, 1).result(30) == 2
        with pytest.raises(LookupError, match="not yet"):
            pool.submit(jobs.state).result(30)
        assert pool.submit(jobs.state).result(30)[1] == "open"


def test_there_is_no_state_outside_of_jobs_or_without_worker_state() -> None:
    with pytest.raises(RuntimeError, match="no worker state"):
        offloop.worker_state()
    with ProcessPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="no worker state"):
        pool.submit(jobs.state).result(30)


# Context


def test_the_named_variables_travel_with_each_call() -> None:
    async def handle(value: str) -> str | None:
        variables.request.set(value)
        return await pool.run(variables.current)

    async def main() -> list[str | None]:
        return await asyncio.gather(*(handle(f"r{n}") for n in range(20)))

    with ProcessPoolExecutor(2, context_vars=[variables.request]) as pool:
        assert asyncio.run(main()) == [f"r{n}" for n in range(20)]
        assert pool.submit(variables.current).result(30) is None
        pool.submit(variables.set_to, "left over").result(30)
        assert {pool.submit(variables.current).result(30) for _ in range(10)} == {None}


def test_a_variable_that_workers_cannot_find_is_refused() -> None:
    with pytest.raises(ValueError, match="top level"):
        ProcessPoolExecutor(1, context_vars=[ContextVar("local")])

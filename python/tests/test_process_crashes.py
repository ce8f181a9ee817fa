"""Whatever a job does to its process, it gets an error of its own that says so, and the pool goes on."""

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from support import crashes, jobs

import offloop
from offloop import ProcessPoolExecutor, WorkerDied


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool
        works(pool)


def works(pool: ProcessPoolExecutor) -> None:
    calls = [pool.submit(jobs.double, n) for n in range(5)]
    assert [call.result(60) for call in calls] == [0, 2, 4, 6, 8]


def death(call: "offloop.Future[Any]") -> WorkerDied:
    error = call.exception(60)
    assert isinstance(error, WorkerDied) and isinstance(error, BrokenProcessPool)
    return error


# Crashes


def test_os_exit_is_reported_with_its_status(pool: ProcessPoolExecutor) -> None:
    worker = pool.submit(jobs.pid).result()
    died = death(pool.submit(os._exit, 3))
    assert (died.pid, died.exitcode, died.out_of_memory) == (worker, 3, False)
    assert died.task.endswith("_exit")


def test_os_exit_with_zero_is_a_crash_too(pool: ProcessPoolExecutor) -> None:
    assert death(pool.submit(os._exit, 0)).exitcode == 0


def test_a_segmentation_fault_is_reported_as_its_signal(pool: ProcessPoolExecutor) -> None:
    died = death(pool.submit(crashes.segfault))
    assert died.exitcode == -signal.SIGSEGV
    assert died.task == "support.crashes.segfault"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_to_the_job_itself_is_reported(pool: ProcessPoolExecutor, number: signal.Signals) -> None:
    assert death(pool.submit(crashes.signal_myself, number)).exitcode == -number


def test_the_end_of_standard_error_is_part_of_the_error(pool: ProcessPoolExecutor) -> None:
    died = death(pool.submit(crashes.abort_with_last_words))
    assert died.exitcode == -signal.SIGABRT
    assert "these were my last words" in died.stderr


def test_a_kill_from_outside_is_reported_and_costs_one_job(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        gate = tmp_path / "gate"
        victim = pool.submit(jobs.hold, tmp_path / "victim", gate)
        other = pool.submit(jobs.hold, tmp_path / "other", gate)
        queued = [pool.submit(jobs.double, n) for n in range(20)]
        jobs.wait_for(tmp_path / "victim")
        jobs.wait_for(tmp_path / "other")
        pid = int((tmp_path / "victim").read_text())
        os.kill(pid, signal.SIGKILL)
        died = death(victim)
        assert (died.pid, died.exitcode) == (pid, -signal.SIGKILL)
        assert [call.result(60) for call in queued] == [2 * n for n in range(20)]
        gate.touch()
        assert other.result(60) == int((tmp_path / "other").read_text())


def test_idle_workers_that_are_killed_cost_no_job() -> None:
    with ProcessPoolExecutor(1) as pool:
        for _ in range(3):
            pid = pool.submit(jobs.pid).result(60)
            os.kill(pid, signal.SIGKILL)
            jobs.until(lambda: jobs.is_gone(pid))
            assert pool.submit(jobs.pid).result(60) != pid


def test_fifty_crashes_in_a_row_cost_no_other_job() -> None:
    with ProcessPoolExecutor(2) as pool:
        calls: list[Any] = []
        for n in range(50):
            calls.append((pool.submit(os._exit, 1), None))
            calls.append((pool.submit(jobs.double, n), 2 * n))
        for call, expected in calls:
            if expected is None:
                death(call)
            else:
                assert call.result(60) == expected


def test_a_crash_breaks_a_pool_that_was_made_to_break(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, on_crash="break") as pool:
        other = pool.submit(jobs.hang, tmp_path / "started")
        jobs.wait_for(tmp_path / "started")
        crash = pool.submit(os._exit, 3)
        queued = pool.submit(jobs.double, 1)
        for call in (crash, other, queued):
            with pytest.raises(BrokenProcessPool):
                call.result(60)
        with pytest.raises(BrokenProcessPool):
            pool.submit(jobs.double, 1)


@pytest.mark.parametrize(
    "options",
    [{"initializer": crashes.fail, "initargs": ("this is missing",)}, {"cwd": "/this is missing"}],
    ids=["initializer", "template"],
)
def test_a_failed_start_breaks_a_pool_that_was_made_to_break(options: dict[str, Any]) -> None:
    with ProcessPoolExecutor(1, on_crash="break", **options) as pool:
        error = pool.submit(jobs.double, 1).exception(60)
        assert isinstance(error, (offloop.PoolBroken, offloop.WorkerStartError))
        with pytest.raises(offloop.PoolBroken, match="this is missing|No such file"):
            pool.submit(jobs.double, 1)


def test_a_result_that_cannot_be_unpickled_breaks_a_pool_that_was_made_to_break(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, on_crash="break") as pool:
        other = pool.submit(jobs.hang, tmp_path / "started")
        jobs.wait_for(tmp_path / "started")
        error = pool.submit(crashes.make, crashes.UnpicklingFails).exception(60)
        assert isinstance(error, offloop.PoolBroken) and isinstance(error.__cause__, LookupError)
        assert isinstance(other.exception(60), offloop.PoolBroken)
        with pytest.raises(offloop.PoolBroken, match="could not be unpickled"):
            pool.submit(jobs.double, 1)


def test_the_crash_of_a_job_awaited_on_a_loop_is_reported_too() -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            with pytest.raises(WorkerDied) as caught:
                await pool.run(os._exit, 3)
            assert caught.value.exitcode == 3
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())


# Memory


def test_a_worker_that_exceeds_max_rss_is_killed_and_its_memory_reported() -> None:
    with ProcessPoolExecutor(1, max_rss=150 << 20) as pool:
        died = death(pool.submit(crashes.fill_memory, 4 << 30))
        assert died.out_of_memory
        assert died.max_rss > 140 << 20
        works(pool)


def test_memory_beyond_max_data_is_refused() -> None:
    with ProcessPoolExecutor(1, max_data=512 << 20) as pool:
        with pytest.raises(MemoryError):
            pool.submit(crashes.allocate, 1 << 30).result(60)
        works(pool)


# Exceptions


def test_sys_exit_ends_the_job_and_not_the_worker(pool: ProcessPoolExecutor) -> None:
    worker = pool.submit(jobs.pid).result()
    error = pool.submit(sys.exit, 3).exception(60)
    assert isinstance(error, SystemExit) and error.code == 3
    assert pool.submit(jobs.pid).result() == worker


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt("x"), GeneratorExit("x"), StopIteration(3), MemoryError("x")],
    ids=repr,
)
def test_exceptions_of_any_kind_come_back(pool: ProcessPoolExecutor, error: BaseException) -> None:
    came = pool.submit(crashes.raise_this, error).exception(60)
    assert type(came) is type(error) and came.args == error.args


def test_an_exception_brings_its_remote_traceback(pool: ProcessPoolExecutor) -> None:
    error = pool.submit(crashes.fail, "the reason").exception(60)
    assert isinstance(error, LookupError)
    text = "".join(traceback.format_exception(error))
    assert "raise LookupError(message)" in text and "crashes.py" in text
    assert "_worker.py" not in text


def test_an_exceptions_notes_and_cause_come_back(pool: ProcessPoolExecutor) -> None:
    error = pool.submit(crashes.raise_with_cause_and_notes).exception(60)
    assert isinstance(error, ValueError)
    assert "KeyError: 'the cause'" in str(error.__cause__)
    assert error.__notes__ == ["a note"]


def test_an_exception_group_comes_back_whole(pool: ProcessPoolExecutor) -> None:
    error: Any = pool.submit(crashes.raise_group).exception(60)
    assert [type(part) for part in error.exceptions] == [ValueError, KeyError]


def test_an_exception_that_cannot_be_pickled_is_replaced_by_one_that_says_so(
    pool: ProcessPoolExecutor,
) -> None:
    error = pool.submit(crashes.raise_unpicklable).exception(60)
    assert isinstance(error, offloop.RemoteError)
    assert "with a lock" in str(error) and "Unpicklable" in str(error)


def test_an_exception_whose_unpickling_raises_is_replaced_by_one_that_says_so(
    pool: ProcessPoolExecutor,
) -> None:
    error = pool.submit(crashes.raise_what_does_not_unpickle).exception(60)
    assert isinstance(error, offloop.RemoteError)
    assert "the message" in str(error) and "UnpicklingRaises" in str(error)


def test_endless_recursion_is_the_jobs_error(pool: ProcessPoolExecutor) -> None:
    assert isinstance(pool.submit(crashes.recurse).exception(60), RecursionError)


# Pickles


def test_a_result_that_cannot_be_pickled_is_the_jobs_error(pool: ProcessPoolExecutor) -> None:
    worker = pool.submit(jobs.pid).result()
    assert isinstance(pool.submit(crashes.make_lock).exception(60), TypeError)
    error = pool.submit(crashes.make, crashes.PicklingRaises).exception(60)
    assert isinstance(error, LookupError)
    assert pool.submit(jobs.pid).result() == worker


@pytest.mark.parametrize(
    "argument", [threading.Lock(), crashes.PicklingRaises()], ids=["lock", "own"]
)
def test_arguments_that_cannot_be_pickled_fail_at_once(
    pool: ProcessPoolExecutor, argument: object
) -> None:
    call = pool.submit(jobs.echo, argument)
    assert call.done()
    assert isinstance(call.exception(), (TypeError, LookupError))


def test_arguments_that_cannot_be_unpickled_are_the_jobs_error(pool: ProcessPoolExecutor) -> None:
    call = pool.submit(jobs.echo, crashes.UnpicklingFails())
    assert isinstance(call.exception(60), LookupError)
    call = pool.submit(jobs.echo, crashes.UnpicklingExits())
    assert isinstance(call.exception(60), SystemExit)


def test_arguments_that_kill_the_process_that_unpickles_them_are_a_crash(pool: ProcessPoolExecutor) -> None:
    assert death(pool.submit(jobs.echo, crashes.UnpicklingKills())).exitcode == 7


def test_a_result_that_cannot_be_unpickled_here_is_the_jobs_error(
    pool: ProcessPoolExecutor,
) -> None:
    worker = pool.submit(jobs.pid).result()
    error = pool.submit(crashes.make, crashes.UnpicklingFails).exception(60)
    assert isinstance(error, LookupError)
    assert isinstance(pool.submit(crashes.make, crashes.UnpicklingExits).exception(60), SystemExit)
    assert pool.submit(jobs.pid).result() == worker


# Jobs that harm their process


def test_what_a_job_prints_is_there_before_its_result_and_its_errors_come_out_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The pool comes after the streams that are captured, for its processes inherit them.
    with ProcessPoolExecutor(1) as pool:
        pool.submit(crashes.print_everywhere).result(60)
        output, errors = capfd.readouterr()
        works(pool)
    assert "printed\n" in output and "written to 1\n" in output

    def has_come() -> bool:
        nonlocal errors
        errors += capfd.readouterr().err
        return "printed as an error\n" in errors and "written to 2\n" in errors

    # A thread of the pool passes them on.
    jobs.until(has_come, "the errors")


def test_a_job_may_close_its_standard_streams(pool: ProcessPoolExecutor) -> None:
    assert pool.submit(crashes.close_standard_streams).result(60) == "closed"
    works(pool)
    assert isinstance(pool.submit(crashes.fail, "x").exception(60), LookupError)


def test_a_job_that_closes_the_descriptors_from_3_to_64_harms_only_itself(
    pool: ProcessPoolExecutor,
) -> None:
    call = pool.submit(crashes.close_descriptors, 3, 65)
    error = call.exception(60)
    assert error is None or isinstance(error, WorkerDied)
    works(pool)


def test_a_job_that_closes_every_descriptor_harms_only_itself(pool: ProcessPoolExecutor) -> None:
    call = pool.submit(crashes.close_descriptors, 3, 1 << 16)
    error = call.exception(60)
    assert error is None or isinstance(error, WorkerDied)
    works(pool)


def test_a_job_may_start_programs(pool: ProcessPoolExecutor) -> None:
    assert pool.submit(crashes.run_program).result(60) == "42"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_job_may_use_multiprocessing(pool: ProcessPoolExecutor, method: str) -> None:
    assert pool.submit(crashes.run_multiprocessing, method).result(60) == (49, 0)


def test_a_job_may_have_a_pool_of_its_own(pool: ProcessPoolExecutor) -> None:
    assert pool.submit(crashes.nested_pool).result(60) == 3


def test_a_job_that_forks_answers_once(pool: ProcessPoolExecutor) -> None:
    for _ in range(3):
        assert pool.submit(crashes.fork_and_both_return).result(60) == "parent"
        works(pool)
    assert pool.submit(crashes.fork_and_raise_in_child).result(60) == "parent"


def test_a_child_that_a_job_leaves_behind_delays_nothing() -> None:
    with ProcessPoolExecutor(1) as pool:
        child = pool.submit(crashes.fork_and_leave_child).result(60)
        assert not jobs.is_gone(child)
        assert isinstance(death(pool.submit(os._exit, 4)), WorkerDied)
        works(pool)
        # It belonged to the worker that has crashed.
        jobs.until(lambda: jobs.is_gone(child), "the child is gone")


def test_a_job_may_install_signal_handlers(pool: ProcessPoolExecutor) -> None:
    pool.submit(crashes.install_handlers).result(60)
    works(pool)
    assert pool.submit(crashes.run_program).result(60) == "42"


def test_signals_that_go_on_after_the_job_do_no_harm(pool: ProcessPoolExecutor) -> None:
    assert pool.submit(crashes.interrupt_every_moment, 0.05).result(60) > 0
    for n in range(200):
        assert pool.submit(jobs.double, n).result(60) == 2 * n


def test_a_job_may_change_directory_and_environment(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    here = os.getcwd()
    pool.submit(crashes.change_surroundings, str(tmp_path)).result(60)
    works(pool)
    assert os.getcwd() == here and "CHANGED" not in os.environ
    # A new worker is a fork of the template, which the job has not changed.
    death(pool.submit(os._exit, 1))
    assert pool.submit(jobs.surroundings, "CHANGED").result(60)[:2] == (here, None)


def test_a_thread_may_outlive_its_job(tmp_path: Path) -> None:
    stop, ended = tmp_path / "stop", tmp_path / "ended"
    with ProcessPoolExecutor(1) as pool:
        pool.submit(crashes.leave_thread, stop, ended).result(60)
        works(pool)
        assert not ended.exists()
        stop.touch()
        jobs.wait_for(ended)


def test_a_thread_that_never_ends_does_not_keep_the_pool_from_ending() -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(crashes.leave_daemon_thread).result(60)
        works(pool)

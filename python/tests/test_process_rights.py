"""Signals: a program that a job has started ends with the job, and workers end with their pool whatever rights either has
given up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import crashes, jobs, scripts

import offloop
from offloop import ProcessPoolExecutor

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user, which takes root")


def pid_in(path: Path) -> int:
    jobs.until(lambda: path.exists() and path.read_text().endswith("\n"), "the process has begun")
    return int(path.read_text())


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    """The file to which a program writes its process id. The program is killed in the end."""
    path = tmp_path / "program"
    yield path
    if path.exists() and not jobs.is_gone(int(path.read_text())):
        os.kill(int(path.read_text()), signal.SIGKILL)


def test_a_program_that_a_job_runs_is_killed_with_the_job(program: Path) -> None:
    async def main() -> None:
        async with ProcessPoolExecutor(1, grace=0.2) as pool:
            call = pool.run(crashes.run_stubborn_program, program)
            pid = await asyncio.to_thread(pid_in, program)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            jobs.until(lambda: jobs.is_gone(pid), "the program is gone")
            assert await pool.run(jobs.double, 2) == 4

    asyncio.run(main())


def test_a_program_that_is_left_in_the_background_outlives_a_worker_that_leaves(program: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(crashes.leave_stubborn_program, program).result(60)
        pid = pid_in(program)
    assert not jobs.is_gone(pid)


def test_a_forked_child_that_is_left_in_the_background_outlives_a_worker_that_leaves() -> None:
    with ProcessPoolExecutor(1) as pool:
        child = pool.submit(crashes.fork_and_leave_child).result(60)
        worker = pool.submit(jobs.pid).result(60)
    jobs.until(lambda: jobs.is_gone(worker), "the worker is gone")
    assert not jobs.is_gone(child)
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kill_children", [True, False])
def test_a_crash_ends_what_earlier_jobs_have_left_unless_it_is_to_live(program: Path, kill_children: bool) -> None:
    with ProcessPoolExecutor(1, grace=0.2, kill_children=kill_children) as pool:
        pool.submit(crashes.leave_stubborn_program, program).result(60)
        pid = pid_in(program)
        assert isinstance(pool.submit(os._exit, 4).exception(60), offloop.WorkerDied)
    if kill_children:
        jobs.until(lambda: jobs.is_gone(pid), "the program is gone")
    else:
        assert not jobs.is_gone(pid)


def test_without_kill_children_workers_stay_in_the_group_of_the_program() -> None:
    for kill_children in (True, False):
        with ProcessPoolExecutor(1, kill_children=kill_children) as pool:
            own_group = pool.submit(os.getpgrp).result(60) == pool.submit(os.getpid).result(60)
            assert own_group is kill_children
            assert (pool.submit(os.getpgrp).result(60) == os.getpgrp()) is not kill_children


DROPS = """
import os, time
import offloop
from support import jobs

def main():
    pool = offloop.ProcessPoolExecutor(1, grace=0.2)
    assert pool.submit(os.getuid).result(60) == 0
    os.setgid(65534)
    os.setuid(65534)
    job = pool.submit(time.sleep, 600)
    jobs.until(job.running)
    assert job.cancel()
    print("next", pool.submit(jobs.double, 2).result(60))
    pool.shutdown()
    print("over")

if __name__ == "__main__":
    main()
"""


@needs_root
def test_a_program_that_gives_up_root_can_still_kill_its_jobs(tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path / "drops.py", DROPS))
    assert done.stdout.split() == ["next", "4", "over"], done.stderr


WORKER_DROPS = """
import os, sys, time
import offloop

def drop():
    os.setgid(65534)
    os.setuid(65534)

def drop_and_sleep():
    drop()
    time.sleep(60)

def main():
    if sys.argv[1] == "job":
        pool = offloop.ProcessPoolExecutor(1)
        job = pool.submit(drop_and_sleep)
    else:
        pool = offloop.ProcessPoolExecutor(1, initializer=drop)
        job = pool.submit(time.sleep, 60)
    while not job.running():
        time.sleep(0.01)
    time.sleep(0.5)
    print(*pool._engine.workers(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    main()
"""


@needs_root
@pytest.mark.parametrize("place", ["job", "initializer"])
def test_a_worker_that_gives_up_root_dies_with_its_parent(tmp_path: Path, place: str) -> None:
    parent: subprocess.Popen[str] = scripts.start(scripts.write(tmp_path / "drops.py", WORKER_DROPS), place)
    assert parent.stdout is not None
    with parent:
        worker = int(parent.stdout.readline())
        assert not jobs.is_gone(worker)
        parent.kill()
        jobs.until(lambda: jobs.is_gone(worker), "the worker is gone")

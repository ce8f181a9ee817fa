"""The promises that hold on Dask alone, above all when parts of a cluster are taken away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import numpy
import offloop
import pytest
from conftest import Trace, on_page, program
from contract import *
from distributed import Client, LocalCluster
from offloop.dask import DaskExecutor
from waits import LIMIT, until, until_gone

def worker_pids(client: Any) -> dict[str, int]:
    pids: dict[str, int] = client.run(os.getpid)
    return pids


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def ancestors(pid: int) -> list[int]:
    found = [pid]
    while found[-1] > 1:
        found.append(parent_of(found[-1]))
    return found


def kill_dask_worker_of(client: Any, pid: int) -> None:
    """Kills the Dask worker in which a call runs."""
    (worker,) = set(worker_pids(client).values()) & set(ancestors(pid))
    os.kill(worker, signal.SIGKILL)


def wait_for_workers(client: Any) -> None:
    """Waits until both Dask workers are there, and would be started again: a nanny does that only when it has seen the
    start itself, which may be after the scheduler."""
    client.wait_for_workers(2, timeout=LIMIT)
    nannies = client.cluster.workers.values()
    until(lambda: all(nanny.status.name == "running" for nanny in nannies), "a running nanny")


@pytest.fixture
def new(dask_client: Any) -> Callable[..., DaskExecutor]:
    wait_for_workers(dask_client)
    return partial(DaskExecutor, dask_client)


def test_a_killed_dask_worker_ends_its_call_after_one_run(
    dask_client: Any, pool: DaskExecutor, trace: Trace
) -> None:
    future = pool.submit(jobs.note_and_sleep, trace.path)
    until(trace.pids, "the begin")
    kill_dask_worker_of(dask_client, trace.pids()[0])
    with pytest.raises(offloop.WorkerDied, match="Dask worker"):
        future.result(LIMIT)
    until_gone(trace.pids()[0])
    # Dask's own tasks would run again by now.
    wait_for_workers(dask_client)
    assert pool.submit(jobs.add, 1).result(LIMIT) == 1
    assert len(trace.pids()) == 1


def test_a_retired_dask_worker_ends_its_call_after_one_run(dask_client: Any, trace: Trace) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        DaskExecutor(client) as pool,
    ):
        future = pool.submit(jobs.note_and_sleep, trace.path)
        until(trace.pids, "the begin")
        (address,) = (
            address for address, pid in worker_pids(client).items() if pid in ancestors(trace.pids()[0])
        )
        client.retire_workers([address])
        with pytest.raises(offloop.WorkerDied, match="not started again"):
            future.result(LIMIT)
        until_gone(trace.pids()[0])
        assert len(trace.pids()) == 1


def test_retries_start_a_call_again_on_another_dask_worker(
    dask_client: Any, pool: DaskExecutor, trace: Trace, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    future = pool.options(retries=1).submit(jobs.note_and_wait_for, trace.path, str(go))
    until(trace.pids, "the begin")
    kill_dask_worker_of(dask_client, trace.pids()[0])
    until(lambda: len(trace.pids()) == 2, "the second start")
    go.touch()
    assert future.result(LIMIT) == "done"
    assert len(trace.pids()) == 2


def test_calls_that_have_not_begun_survive_the_death_of_dask_workers(
    dask_client: Any, pool: DaskExecutor, trace: Trace
) -> None:
    running = [pool.submit(jobs.note_and_sleep, trace.path) for _ in range(4)]
    until(lambda: len(trace.pids()) == 4, "the begin")
    queued = [pool.submit(jobs.add, number) for number in range(20)]
    for worker in worker_pids(dask_client).values():
        os.kill(worker, signal.SIGKILL)
    assert all(isinstance(future.exception(LIMIT), offloop.WorkerDied) for future in running)
    assert [future.result(LIMIT) for future in queued] == list(range(20))
    assert len(trace.pids()) == 4


def test_tasks_of_others_are_run_again_as_dask_does(
    dask_client: Any, pool: DaskExecutor, trace: Trace, tmp_path: Path
) -> None:
    pool.submit(jobs.add, 1).result(LIMIT)
    go = tmp_path / "go"
    task = dask_client.submit(jobs.note_and_wait_for, trace.path, str(go), pure=False)
    until(trace.pids, "the begin")
    os.kill(trace.pids()[0], signal.SIGKILL)
    until(lambda: len(trace.pids()) == 2, "the second start")
    go.touch()
    assert task.result(LIMIT) == "done"


def test_a_killed_process_of_a_job_kills_no_dask_worker(
    dask_client: Any, pool: DaskExecutor, trace: Trace
) -> None:
    before = worker_pids(dask_client)
    future = pool.submit(jobs.note_and_sleep, trace.path)
    until(trace.pids, "the begin")
    os.kill(trace.pids()[0], signal.SIGKILL)
    error = future.exception(LIMIT)
    assert isinstance(error, offloop.WorkerDied)
    assert (error.pid, error.exitcode) == (trace.pids()[0], -signal.SIGKILL)
    assert error.__notes__[0].startswith("It was on the Dask worker tcp://127.0.0.1:")
    assert worker_pids(dask_client) == before


def test_arrays_arrive_writable(pool: DaskExecutor) -> None:
    array = pool.submit(jobs.double, numpy.arange(100_000.0)).result(LIMIT)
    array[0] = 7
    assert list(array[:3]) == [7, 2, 4]


def test_priorities_order_the_calls_that_wait(pool: DaskExecutor, trace: Trace, tmp_path: Path) -> None:
    running = [pool.submit(jobs.note_and_sleep, trace.path) for _ in range(4)]
    until(lambda: len(trace.pids()) == 4, "the begin")
    order = tmp_path / "order"
    low = [pool.options(priority=-1).submit(jobs.note, str(order), "low") for _ in range(30)]
    high = [pool.options(priority=1).submit(jobs.note, str(order), "high") for _ in range(4)]
    pool.options(priority=2).submit(jobs.add, 0)
    time.sleep(0.5)
    for future in running:
        future.cancel()
    for future in [*low, *high]:
        future.result(LIMIT)
    lines = [line.split()[0] for line in order.read_text().splitlines()]
    # A few may have been handed out to workers before the others came.
    assert max(index for index, line in enumerate(lines) if line == "high") < len(lines) - 5


def test_the_scheduler_forgets_calls_that_have_ended(dask_client: Any, pool: DaskExecutor, trace: Trace) -> None:
    assert list(pool.map(jobs.add, range(20))) == list(range(20))
    future = pool.submit(jobs.note_and_sleep, trace.path)
    until(trace.pids, "the begin")
    future.cancel()

    def kept(dask_scheduler: Any) -> list[str]:
        claims = dask_scheduler.plugins["offloop-claims-1"]
        tasks = [str(key) for key in dask_scheduler.tasks if str(key).startswith("offloop-")]
        return [*tasks, *claims._starts, *claims._withdrawn]

    until(lambda: dask_client.run_on_scheduler(kept) == [], "an empty scheduler")


def test_a_closed_client_ends_its_calls_and_kills_them(dask_client: Any, trace: Trace) -> None:
    client = Client(dask_client.scheduler.address)
    pool = DaskExecutor(client)
    future = pool.submit(jobs.note_and_sleep, trace.path)
    until(trace.pids, "the begin")
    client.close()
    with pytest.raises(offloop.PoolClosed, match="client is closed"):
        future.result(LIMIT)
    with pytest.raises(offloop.PoolClosed, match="client is closed"):
        pool.submit(jobs.add, 1)
    pool.shutdown()
    until_gone(trace.pids()[0])


def test_the_program_on_the_page_runs(tmp_path: Path) -> None:
    (code,) = on_page("dask")
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=LIMIT, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "crash" in done.stdout and "Traceback" not in done.stderr


Interrupt = Callable[[subprocess.Popen[str]], None]


@pytest.mark.parametrize(
    "interrupt", [lambda it: it.send_signal(signal.SIGINT), lambda it: it.kill()], ids=["ctrl-c", "kill"]
)
def test_an_interrupted_program_leaves_no_call_behind(
    dask_client: Any, trace: Trace, interrupt: Interrupt
) -> None:
    wait_for_workers(dask_client)
    command = [*program("client.py"), "dask", dask_client.scheduler.address, trace.path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: len(trace.pids()) == 2, "the begin")
        interrupt(running)
        _, errors = running.communicate(timeout=LIMIT)
    assert running.returncode in (-signal.SIGINT, -signal.SIGKILL), errors
    for pid in trace.pids():
        until_gone(pid)


def test_calls_are_awaited_with_an_asynchronous_client(dask_client: Any, trace: Trace) -> None:
    async def main() -> None:
        async with (
            Client(dask_client.scheduler.address, asynchronous=True) as client,
            DaskExecutor(client) as pool,
        ):
            assert await pool.run(jobs.add, 1, 2) == 3
            assert await asyncio.gather(*(pool.run(jobs.add, number) for number in range(9))) == list(range(9))
            running = pool.submit(jobs.note_and_sleep, trace.path)
            while not running.running():
                await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="would block the event loop"):
                pool.shutdown()
            running.cancel()

    asyncio.run(main())
    until_gone(trace.pids()[0])


def test_a_cluster_within_the_program_works_as_well(trace: Trace) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
        DaskExecutor(client) as pool,
    ):
        assert pool.submit(os.getpid).result(LIMIT) != os.getpid()
        future = pool.submit(jobs.note_and_sleep, trace.path)
        until(trace.pids, "the begin")
        future.cancel()
        until_gone(trace.pids()[0])


def test_a_lost_scheduler_ends_the_calls(trace: Trace, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    module = [sys.executable, "-m"]
    scheduler = subprocess.Popen([*module, "distributed.cli.dask_scheduler", "--port", "0", *options], **quiet)
    worker = None
    try:
        until(file.exists, "the scheduler")
        worker = subprocess.Popen(
            [*module, "distributed.cli.dask_worker", "--nthreads", "2", "--no-nanny", *options], **quiet
        )
        with Client(json.loads(file.read_text())["address"]) as client:
            pool = DaskExecutor(client)
            future = pool.submit(jobs.note_and_sleep, trace.path)
            until(trace.pids, "the begin")
            scheduler.kill()
            with pytest.raises(offloop.PoolClosed, match="may have run"):
                future.result(LIMIT)
            # The worker has no scheduler any more, and kills what it runs.
            until_gone(trace.pids()[0])
            pool.shutdown(drain=0)
    finally:
        for process in (scheduler, worker):
            if process is not None:
                process.kill()
                process.wait()


def test_options_that_would_break_a_promise_are_refused(dask_client: Any) -> None:
    with pytest.raises(TypeError, match="pure, retries"):
        DaskExecutor(dask_client, pure=True, retries=3)
    with pytest.raises(TypeError, match=r"give a distributed\.Client"):
        DaskExecutor("tcp://127.0.0.1:8786")
    with pytest.raises(TypeError, match="unheard_of"):
        DaskExecutor(dask_client, unheard_of=3).submit(jobs.add, 1).result(LIMIT)
    address = sorted(worker_pids(dask_client))[0]
    with DaskExecutor(dask_client, workers=[address]) as pool:
        assert pool.submit(jobs.add, 1).result(LIMIT) == 1

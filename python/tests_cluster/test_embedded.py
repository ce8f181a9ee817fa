"""`ClusterExecutor.embedded()`: what a process pool does, by a server and workers of the program's own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from pathlib import Path

import cluster_tasks
import offloop
import pytest
from offloop import ClusterExecutor

GUARD = 60.0


def eventually(what: str, holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    # A dead process that nobody has waited for has no root.
    return os.path.exists(f"/proc/{pid}/root")


def test_calls_give_results_and_exceptions_by_their_own_types(embedded: ClusterExecutor) -> None:
    assert embedded.submit(pow, 2, 10).result(GUARD) == 1024
    assert embedded.submit(cluster_tasks.echo, (1, {2}, Path("/"))).result(GUARD) == (1, {2}, Path("/"))
    with pytest.raises(LookupError, match="as planned") as raised:
        embedded.submit(cluster_tasks.fail, "as planned").result(GUARD)
    assert "cluster_tasks.py" in str(raised.value.__cause__)
    assert list(embedded.map(abs, range(-5, 5), chunksize=3)) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def test_large_arguments_and_results_travel(embedded: ClusterExecutor) -> None:
    data = os.urandom(5 << 20)
    assert embedded.submit(cluster_tasks.echo, data).result(GUARD) == data
    assert embedded.submit(cluster_tasks.echo, bytearray(data)).result(GUARD) == data


def test_a_crash_ends_one_job(embedded: ClusterExecutor) -> None:
    others = [embedded.submit(cluster_tasks.echo, number) for number in range(20)]
    with pytest.raises(offloop.WorkerDied, match="SIGABRT"):
        embedded.submit(cluster_tasks.crash).result(GUARD)
    assert [other.result(GUARD) for other in others] == list(range(20))


def test_a_cancelled_job_is_killed(embedded: ClusterExecutor, tmp_path: Path) -> None:
    file = tmp_path / "file"
    future = embedded.submit(cluster_tasks.wait_for, str(file))
    eventually("it begins", file.with_suffix(".begun").exists)
    eventually("that is known", future.running)
    before = {worker for agent in embedded._cluster._agents for worker in agent.pool._engine.workers()}  # type: ignore[union-attr]
    assert future.cancel() and future.cancelled()
    eventually("its process is dead", lambda: any(not is_alive(pid) for pid in before))
    with pytest.raises(CancelledError):
        future.result(GUARD)


def test_limits_end_a_job(embedded: ClusterExecutor, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(offloop.RunTimeout):
        embedded.options(timeout=0.2).submit(cluster_tasks.wait_for, missing).result(GUARD)
    running = [embedded.submit(cluster_tasks.wait_for, missing) for _ in range(2)]
    eventually("both run", lambda: all(future.running() for future in running))
    with pytest.raises(offloop.QueueTimeout, match="still in the queue `default` after its limit of 200ms"):
        embedded.options(queue_timeout=0.2).submit(abs, 1).result(GUARD)
    for future in running:
        future.cancel()


def test_calls_can_be_awaited_and_cancelled(embedded: ClusterExecutor, tmp_path: Path) -> None:
    async def main() -> None:
        assert await embedded.run(pow, 2, 5) == 32
        assert await embedded.options(priority=1, retries=1).run(pow, 2, 6) == 64
        assert await asyncio.gather(*(embedded.run(abs, -number) for number in range(30))) == list(range(30))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(embedded.run(cluster_tasks.wait_for, str(tmp_path / "missing")), 0.2)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(embedded, abs, -7) == 7

    asyncio.run(main())


def test_a_failure_is_tried_again_only_if_that_is_asked_for(embedded: ClusterExecutor, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    for options, expected in [({"retries": 2}, 1), ({"retries": 2, "retry_failures": True}, 3)]:
        starts.write_text("")
        with pytest.raises(ValueError, match=f"start {expected} fails"):
            embedded.options(**options).submit(cluster_tasks.fails_up_to, 3, str(starts)).result(GUARD)
        assert len(starts.read_text()) == expected
    starts.write_text("")
    again = embedded.options(retries=2, retry_failures=True)
    assert again.submit(cluster_tasks.fails_up_to, 2, str(starts)).result(GUARD) == 3
    with pytest.raises(ValueError, match="retry_failures: it needs `retries`"):
        embedded.options(retry_failures=True)


def test_a_key_runs_once(embedded: ClusterExecutor, tmp_path: Path) -> None:
    file = str(tmp_path / "count")
    keyed = embedded.options(key="test-a-key-runs-once")
    assert keyed.submit(cluster_tasks.count, file).result(GUARD) == 1
    assert keyed.submit(cluster_tasks.count, file).result(GUARD) == 1
    assert embedded.submit(cluster_tasks.count, file).result(GUARD) == 2


def test_a_handle_comes_back_by_its_id(embedded: ClusterExecutor, tmp_path: Path) -> None:
    file = tmp_path / "file"
    future = embedded.submit(cluster_tasks.wait_for, str(file))
    remote_id = future.remote_id  # type: ignore[attr-defined]
    again = embedded.attach(remote_id)
    file.touch()
    assert again.result(GUARD) == future.result(GUARD)
    assert embedded.attach(remote_id).result(GUARD) == future.result(GUARD)
    with pytest.raises(ValueError, match="ULID"):
        embedded.attach("nonsense")


def test_what_cannot_be_pickled_is_the_futures_error(embedded: ClusterExecutor) -> None:
    with pytest.raises(TypeError, match="pickle"):
        embedded.submit(cluster_tasks.echo, sys._getframe()).result(GUARD)


def test_all_ends_with_the_executor() -> None:
    try:
        pool = ClusterExecutor.embedded(workers=1)
    except OSError as error:
        pytest.skip(str(error))
    server, directory = pool._cluster._server.pid, pool._cluster._server.directory  # type: ignore[union-attr]
    assert server and directory
    pid = pool.submit(os.getpid).result(GUARD)
    futures = [pool.submit(abs, -number) for number in range(10)]
    report = pool.shutdown(drain=GUARD)
    assert report.drained <= 10 and (report.cancelled, report.killed) == (0, 0)
    assert [future.result(GUARD) for future in futures] == list(range(10))
    assert not is_alive(pid) and not is_alive(server) and not os.path.exists(directory)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)


def test_all_ends_with_the_program() -> None:
    """A program that ends without a shutdown finishes its jobs, and leaves nothing behind."""
    script = """
        import offloop, os

        def main():
            pool = offloop.ClusterExecutor.embedded(workers=1)
            print(pool._cluster._server.pid, pool.submit(os.getpid).result(), flush=True)
            pool.submit(print, "done")

        if __name__ == "__main__":
            main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=GUARD
    )
    if "is no NATS server" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    server, worker = map(int, done.stdout.split()[:2])
    assert "done" in done.stdout
    assert not is_alive(server) and not is_alive(worker)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        ClusterExecutor.embedded(workers=0)
    with pytest.raises(ValueError, match="accept"):
        ClusterExecutor("nats://127.0.0.1:1", accept="anything")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a `key`"):
        ClusterExecutor("nats://127.0.0.1:1", accept="pickle")
    with pytest.raises(TypeError, match="trust"):
        ClusterExecutor("nats://127.0.0.1:1", trust="U")
    with pytest.raises(ValueError, match="trust: this is no public key"):
        ClusterExecutor("nats://127.0.0.1:1", trust=["U"])
    with pytest.raises(offloop.OffloopError, match="URL"):
        ClusterExecutor("nonsense://")


def test_without_a_server_a_call_ends_with_an_error() -> None:
    with ClusterExecutor("nats://127.0.0.1:9", unreachable_after=0.3) as pool:
        done, _ = wait([pool.call("any:task")], GUARD)
        (future,) = done
        assert isinstance(future.exception(), offloop.ClusterUnreachable)

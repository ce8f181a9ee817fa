"""`offloop worker` and `ClusterExecutor`: two programs, a server between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cluster_tasks
import offloop
import pytest
from conftest import GUARD, StartWorker, executor
from offloop import ClusterExecutor
from test_embedded import eventually


def command(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OFFLOOP_CLUSTER_URL": url}
    return subprocess.run(
        [sys.executable, "-m", "offloop", "cluster", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=GUARD,
    )


def status(url: str) -> dict[str, Any]:
    done = command(url, "status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_functions_go_by_name_and_take_plain_data(
    url: str, queue: str, start_worker: StartWorker
) -> None:
    worker = start_worker("cluster_tasks", "--queue", queue)
    assert "cluster_tasks:split" in worker.banner
    assert "_private" not in worker.banner and "waits" not in worker.banner
    with executor(url, queue=queue) as pool:
        assert pool.submit(cluster_tasks.split, "so it goes").result(GUARD) == ["so", "it", "goes"]
        assert pool.call("cluster_tasks:split", "so it goes").result(GUARD) == ["so", "it", "goes"]
        plain = {"a": [1, -(2**63), 2**64 - 1, 1.5, None, True, b"\xff", "é"], 7: {}}
        assert pool.submit(cluster_tasks.echo, plain).result(GUARD) == plain
        assert pool.submit(cluster_tasks.echo, (1, bytearray(b"x"))).result(GUARD) == [1, b"x"]
        assert list(pool.map(cluster_tasks.echo, range(20), chunksize=4)) == list(range(20))
        with pytest.raises(offloop.RemoteError, match="LookupError: as planned") as raised:
            pool.submit(cluster_tasks.fail, "as planned").result(GUARD)
        assert "cluster_tasks.py" in str(raised.value.__cause__)
        with pytest.raises(offloop.WorkerDied, match="SIGABRT"):
            pool.submit(cluster_tasks.crash).result(GUARD)


def test_what_is_not_plain_is_refused_with_what_to_do(
    url: str, queue: str, start_worker: StartWorker
) -> None:
    start_worker("cluster_tasks", "--queue", queue)
    with executor(url, queue=queue) as pool:
        for value in ({1}, Path("/"), [object()]):
            with pytest.raises(TypeError, match="accept pickles"):
                pool.submit(cluster_tasks.echo, value).result(GUARD)
        with pytest.raises(OverflowError, match="64 bits"):
            pool.submit(cluster_tasks.echo, 2**64).result(GUARD)
        with pytest.raises(TypeError, match="keyword arguments"):
            pool.submit(cluster_tasks.echo, value=1).result(GUARD)
        with pytest.raises(TypeError, match="offloop worker MODULE"):
            pool.submit(lambda: 1).result(GUARD)
        with pytest.raises(offloop.RemoteError, match="accept pickles"):
            pool.submit(cluster_tasks.own_type).result(GUARD)


def test_pickles_run_if_both_sides_trust_and_accept(
    url: str, queue: str, start_worker: StartWorker, keys: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    trusts = ["--trust", keys["submitter"][1], "--key", str(tmp_path / "worker")]
    start_worker("cluster_tasks", "--queue", queue, "--accept", "pickle", *trusts)

    def pickling(name: str) -> AbstractContextManager[ClusterExecutor]:
        trusted = [keys["worker"][1]]
        return executor(url, queue=queue, accept="pickle", key=keys[name][0], trust=trusted)

    with pickling("submitter") as pool:
        assert pool.submit(cluster_tasks.own_type).result(GUARD) == Path("/")
        assert pool.submit(lambda: (1, 2)).result(GUARD) == (1, 2)
        with pytest.raises(LookupError, match="as planned"):
            pool.submit(cluster_tasks.fail, "as planned").result(GUARD)
    with pickling("stranger") as pool:
        with pytest.raises(offloop.NotTrusted, match=keys["stranger"][1]):
            pool.submit(cluster_tasks.own_type).result(GUARD)
    with executor(url, queue=queue) as pool:
        with pytest.raises(offloop.NotTrusted, match="not signed"):
            pool.submit(cluster_tasks.split, "a").result(GUARD)


def test_without_trust_a_worker_loads_no_pickle_and_a_submitter_neither(
    url: str, queue: str, start_worker: StartWorker, keys: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    start_worker("cluster_tasks", "--queue", queue, "--key", str(tmp_path / "stranger"))
    trusted = [keys["worker"][1]]
    with executor(
        url, queue=queue, accept="pickle", key=keys["submitter"][0], trust=trusted
    ) as pool:
        # The worker refuses, and that is what its end says. But it is no worker that this program trusts.
        with pytest.raises(offloop.NotTrusted, match="does not trust"):
            pool.submit(cluster_tasks.own_type).result(GUARD)
    with executor(
        url, queue=queue, accept="pickle", key=keys["submitter"][0], trust=[keys["stranger"][1]]
    ) as pool:
        with pytest.raises(offloop.NotTrusted, match="--trust KEY --accept pickle"):
            pool.submit(cluster_tasks.own_type).result(GUARD)


def test_a_key_may_be_limited_to_some_tasks(
    url: str, queue: str, start_worker: StartWorker, keys: dict[str, tuple[str, str]]
) -> None:
    start_worker("cluster_tasks", "--queue", queue, "--trust", f"{keys['submitter'][1]}=cluster_tasks:split")
    with executor(url, queue=queue, key=keys["submitter"][0]) as pool:
        assert pool.submit(cluster_tasks.split, "a b").result(GUARD) == ["a", "b"]
        with pytest.raises(offloop.NotTrusted, match="other tasks only"):
            pool.submit(cluster_tasks.echo, 1).result(GUARD)


def test_a_drained_worker_finishes_what_runs_and_takes_nothing_more(
    url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker("cluster_tasks", "--queue", queue)
    file = tmp_path / "file"
    with executor(url, queue=queue) as pool:
        running = pool.submit(cluster_tasks.wait_for, str(file))
        eventually("it runs", file.with_suffix(".begun").exists)
        worker.process.send_signal(signal.SIGTERM)
        eventually("it says so", lambda: status_of(url, queue)["draining"])
        waiting = pool.submit(cluster_tasks.split, "a b")
        file.touch()
        assert running.result(GUARD) > 0
        assert worker.process.wait(GUARD) == 0
        assert not waiting.done()
        start_worker("cluster_tasks", "--queue", queue)
        assert waiting.result(GUARD) == ["a", "b"]


def status_of(url: str, queue: str) -> dict[str, Any]:
    """Returns the status of the only worker of a queue, or of one that does nothing if it is not seen yet."""
    seen = [it for it in status(url)["workers"] if it["queues"] == [[queue, 1]]]
    found: dict[str, Any] = seen[0] if seen else {"running": [], "draining": False}
    return found


def test_an_operator_sees_queues_workers_and_jobs_and_drains(
    url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker("cluster_tasks", "--queue", queue, "--name", "named-worker", "--label", "gpu")
    file = tmp_path / "file"
    with executor(url, queue=queue) as pool:
        running = pool.submit(cluster_tasks.wait_for, str(file))
        eventually("it is seen to run", lambda: status_of(url, queue)["running"])
        seen = status_of(url, queue)
        assert seen["running"][0]["task"] == "cluster_tasks:wait_for"
        assert (seen["pid"], seen["slots"], seen["labels"]) == (worker.process.pid, 2, ["gpu"])
        (row,) = [it for it in status(url)["queues"] if it["name"] == queue]
        assert (row["normal"], row["running"], row["slots"]) == (1, 1, 2) and row["oldest"] >= 0
        text = command(url, "status").stdout
        assert "named-worker" in text and "cluster_tasks:wait_for" in text
        drained = command(url, "drain", "named-worker")
        assert drained.returncode == 0 and seen["id"] in drained.stdout
        file.touch()
        running.result(GUARD)
    assert worker.process.wait(GUARD) == 0
    unknown = command(url, "drain", "nobody")
    assert unknown.returncode == 1 and "no worker `nobody`" in unknown.stderr


def test_dead_jobs_are_listed_and_put_into_their_queue_again(
    url: str, queue: str, start_worker: StartWorker
) -> None:
    start_worker("cluster_tasks", "--queue", queue)

    def dead() -> list[dict[str, Any]]:
        listed = command(url, "dead", "list", "--json").stdout.splitlines()
        return [job for job in map(json.loads, listed) if job["queue"] == queue]

    with executor(url, queue=queue) as pool:
        with pytest.raises(offloop.WorkerDied):
            pool.submit(cluster_tasks.crash).result(GUARD)
        (job,) = dead()
        assert (job["task"], job["reason"]) == ("cluster_tasks:crash", "Failed")
        again = command(url, "dead", "retry", job["id"])
        assert again.returncode == 0, again.stderr
        # It crashes again, as another job.
        eventually("it is dead again", lambda: [it["id"] for it in dead()] not in ([], [job["id"]]))
        unknown = command(url, "dead", "retry", job["id"])
        assert unknown.returncode == 1 and "no dead job" in unknown.stderr


def test_logs_of_jobs_have_their_ids(url: str, queue: str, start_worker: StartWorker) -> None:
    worker = start_worker("cluster_tasks", "--queue", queue)
    with executor(url, queue=queue) as pool:
        future = pool.submit(cluster_tasks.log, "from the job")
        future.result(GUARD)
        line = worker.line()
    assert f"WARNING cluster_tasks [{future.remote_id}]: from the job" in line  # type: ignore[attr-defined]


def test_another_program_attaches_to_a_job(
    url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("cluster_tasks", "--queue", queue)
    file = tmp_path / "file"
    script = f"""
import offloop, os, sys
pool = offloop.ClusterExecutor({url!r}, queue={queue!r})
future = pool.call("cluster_tasks:wait_for", {str(file)!r})
while not future.running():
    pass
print(future.remote_id, flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    with executor(url, queue=queue) as pool:
        future = pool.attach(done.stdout.strip())
        file.touch()
        assert future.result(GUARD) > 0


def test_keys_come_with_the_servers_configuration(tmp_path: Path) -> None:
    file = tmp_path / "key"
    done = command("", "keys", "--role", "worker", "--namespace", "prod", "--queue", "mail", "--out", str(file))
    assert done.returncode == 0, done.stderr
    public = offloop._offloop.public_key(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"nkey: {public}" in done.stdout and file.read_text().strip() not in done.stdout
    assert "OFFLOOP1_prod_JOBS.mail-normal" in done.stdout and ">" not in done.stdout.split('"')[1::2]
    again = command("", "keys", "--out", str(file))
    assert again.returncode == 1 and "could not be written" in again.stderr


def test_a_wrong_command_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OFFLOOP_CLUSTER_URL", raising=False)
    for words, reason in [
        ([], "--url"),
        (["--url", "nats://h", "--accept", "pickle"], "--trust"),
        (["--url", "nats://h", "--slots", "0"], "--slots"),
        (["--colour"], "--colour"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "offloop", "worker", *words], capture_output=True, text=True, timeout=GUARD
        )
        assert done.returncode == 2 and reason in done.stderr

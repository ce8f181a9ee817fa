"""The metrics of pools: outcomes, times, states, and advice."""

import asyncio
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

import offloop
import pytest
from prometheus_client.parser import text_string_to_metric_families


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.002)


def seen(metrics: offloop.Metrics) -> dict[str, int]:
    return {outcome: count for outcome, count in metrics.outcomes.items() if count}


def test_each_outcome_of_a_call_on_threads_is_counted() -> None:
    async def main() -> None:
        with offloop.ThreadPoolExecutor(1, thread_name_prefix="counted") as pool:
            assert await pool.run(int, "7") == 7
            with pytest.raises(ValueError):
                await pool.run(int, "seven")
            gate = threading.Event()
            busy = pool.run(gate.wait, 60)
            eventually("the call runs", lambda: pool.metrics().running == 1)
            queued = pool.run(int)
            queued.cancel()
            with pytest.raises(offloop.QueueTimeout):
                await pool.options(queue_timeout=0.01).run(int)
            metrics = pool.metrics()
            assert (metrics.pool, metrics.kind) == ("counted", "threads")
            assert (metrics.running, metrics.workers["busy"]) == (1, 1)
            gate.set()
            await busy
            with pytest.raises(offloop.RunTimeout):
                await pool.options(timeout=0.01).run(time.sleep, 0.05)
            assert pool.submit(int, "3").result() == 3
            eventually("the submitted one is counted", lambda: pool.metrics().outcomes["completed"] == 3)
        ends = {"completed": 3, "failed": 1, "cancelled": 1, "queue_timeout": 1, "run_timeout": 1}
        assert seen(pool.metrics()) == ends

    asyncio.run(main())


def test_each_outcome_of_a_call_in_processes_is_counted() -> None:
    async def main() -> None:
        with offloop.ProcessPoolExecutor(1, name="counted", grace=0) as pool:
            assert await pool.run(int, "7") == 7
            with pytest.raises(ValueError):
                await pool.run(int, "seven")
            with pytest.raises(offloop.WorkerDied):
                await pool.run(os.kill, await pool.run(os.getpid), signal.SIGKILL)
            with pytest.raises(offloop.RunTimeout):
                await pool.options(timeout=0.05).run(time.sleep, 60)
            metrics = pool.metrics()
            assert (metrics.pool, metrics.kind, metrics.gil_wait) == ("counted", "processes", None)
            assert seen(metrics) == {"completed": 2, "failed": 1, "crashed": 1, "run_timeout": 1}
            eventually("both were replaced", lambda: sum(pool.metrics().restarts.values()) == 2)
            restarts = pool.metrics().restarts
            assert (restarts["crashed"], restarts["job_ended"]) == (1, 1)

    asyncio.run(main())


def test_recorded_times_are_those_that_passed_and_have_quantiles() -> None:
    async def main() -> None:
        with offloop.ThreadPoolExecutor(1) as pool:
            gate = threading.Event()
            held = pool.submit(gate.wait, 60)
            await asyncio.sleep(0.04)
            naps = [pool.submit(time.sleep, 0.04) for _ in range(3)]
            # No call goes on before all have begun: the third waits for the two others.
            gate.set()
            await asyncio.gather(*map(asyncio.wrap_future, (held, *naps)))
            metrics = pool.metrics()
        assert metrics.run_time.count == metrics.queue_wait.count == 4
        assert metrics.run_time.sum >= 0.12 and metrics.queue_wait.sum >= 0.12
        median = metrics.run_time.quantile(0.5)
        assert median is not None and 0.03 <= median <= 20
        bounds = metrics.run_time.buckets()
        assert bounds[-1] == (float("inf"), 4)
        assert [count for bound, count in bounds if bound <= 0.03][-1] == 0
        assert offloop.ThreadPoolExecutor(1).metrics().run_time.quantile(0.5) is None

    asyncio.run(main())


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_waits_of_threads_for_the_interpreter_are_recorded() -> None:
    with offloop.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        call = pool.submit(int)
        spin(0.1)  # keeps the interpreter's lock, except at its switch interval
        call.result()
        waited = pool.metrics().gil_wait
        assert waited is not None and waited.count >= 2
        assert 0.0005 < waited.sum < 30


def test_a_call_that_computes_on_the_shared_threads_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        for _ in range(40):
            await offloop.run(spin, 0.02)
            await offloop.run(time.sleep, 0.003)
            if caplog.records:
                break
        for _ in range(3):
            await offloop.run(spin, 0.02)

    with caplog.at_level(logging.WARNING, "offloop.advice"):
        asyncio.run(main())
    messages = [record.getMessage() for record in caplog.records if record.name == "offloop.advice"]
    assert len(messages) == 1 and messages[0].startswith("`spin` on the pool `offloop` was on a core for ")
    (metrics,) = [it for it in offloop.metrics() if (it.pool, it.kind) == ("offloop", "threads")]
    assert [(advice.task, advice.activity) for advice in metrics.advice] == [("spin", "computes")]


def test_a_mapped_function_is_named_in_advice() -> None:
    with offloop.ThreadPoolExecutor(2, activity="waits") as pool:
        for _ in range(100):
            list(pool.map(spin, [0.02, 0.02]))
            if pool.metrics().advice:
                break
        assert [advice.task for advice in pool.metrics().advice] == ["spin"]


def test_a_call_that_waits_in_a_process_gives_advice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "offloop.advice"), offloop.ProcessPoolExecutor(1) as pool:
        # On a busy machine it may not be clear what the first calls waited for.
        for _ in range(10):
            pool.submit(time.sleep, 0.21).result()
    (advice,) = pool.metrics().advice
    assert advice.task == "time.sleep"
    assert pool.metrics().as_dict()["advice"][0]["activity"] == "waits"
    assert advice.jobs >= 5 and advice.ran >= 1 and advice.on_core < 0.1 * advice.ran
    assert "threads (`run`) are the place" in str(advice)
    assert len([record for record in caplog.records if record.name == "offloop.advice"]) == 1


def test_prometheus_reads_the_page() -> None:
    with (
        offloop.ThreadPoolExecutor(1, thread_name_prefix='odd "name"\\\n') as threads,
        offloop.ProcessPoolExecutor(1, name="processes") as processes,
    ):
        threads.submit(time.sleep, 0.005).result()
        processes.submit(int).result()
        eventually("it is counted", lambda: threads.metrics().outcomes["completed"] == 1)
        page = offloop.prometheus([threads.metrics(), processes.metrics()])
        assert 'pool="processes"' in offloop.prometheus()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert families["offloop_jobs"].type == "counter"
    completed = {
        sample.labels["pool"]: sample.value
        for sample in families["offloop_jobs"].samples
        if sample.labels["outcome"] == "completed"
    }
    assert completed == {'odd "name"\\\n': 1.0, "processes": 1.0}
    run = families["offloop_run_seconds"]
    assert run.type == "histogram"
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in run.samples
        if sample.name.endswith("_bucket") and sample.labels["kind"] == "threads"
    ]
    assert buckets == sorted(buckets) and buckets[-1] == (float("inf"), 1.0)
    assert all(count == 0 for bound, count in buckets if bound < 0.004)
    assert {sample.labels["kind"] for sample in families["offloop_lock_wait_seconds"].samples} == {"threads"}
    reasons = {sample.labels["reason"] for sample in families["offloop_worker_restarts"].samples}
    assert {"crashed", "job_ended", "max_rss"} <= reasons


def test_metrics_become_plain_values() -> None:
    with offloop.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        eventually("it is counted", lambda: pool.metrics().outcomes["completed"] == 1)
        plain = json.loads(json.dumps(pool.metrics().as_dict()))
    assert plain["outcomes"]["completed"] == plain["run_time"]["count"] == 1
    assert plain["run_time"]["p99"] > 0 and plain["gil_wait"]["count"] >= 1
    assert "offloop.Metrics of threads" in repr(pool.metrics())


def test_an_unknown_activity_is_refused() -> None:
    with pytest.raises(ValueError, match="activity is 'plays'; it must be 'waits', 'computes' or None"):
        offloop.ThreadPoolExecutor(1, activity="plays")  # type: ignore[arg-type]

"""Log records of workers, and workers that are forks of this process."""

from __future__ import annotations

import logging
import multiprocessing
import os
from pathlib import Path

import pytest
from support import logs

from offloop import ProcessPoolExecutor


def test_log_records_reach_the_parents_handlers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ProcessPoolExecutor(1) as pool:
        pool.submit(logs.logs, "hello %s", "you").result(30)
    records = [record for record in caplog.records if record.name == "logs"]
    assert [record.getMessage() for record in records] == ["hello you"]
    assert records[0].process != os.getpid()


def test_log_records_come_while_the_job_runs(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with caplog.at_level(logging.INFO), ProcessPoolExecutor(1) as pool:
        future = pool.submit(logs.logs_and_waits, str(gate))
        logs.until(lambda: any(record.name == "logs" for record in caplog.records))
        assert not future.done()
        gate.touch()
        future.result(30)


def test_an_initializers_records_come_with_the_first_job(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        with ProcessPoolExecutor(1, initializer=logs.logs, initargs=("begun%s", "")) as pool:
            pool.submit(abs, -1).result(30)
        assert "begun" in [record.getMessage() for record in caplog.records]


def test_forked_workers_have_main_as_it_is() -> None:
    import __main__

    __main__.changed = "yes"  # type: ignore[attr-defined]
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(logs.attribute_of_main, "changed").result(30) == "yes"

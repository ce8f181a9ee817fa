"""Log records of workers, and workers that are forks of this process."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from support import logs, scripts

import offloop
from offloop import ProcessPoolExecutor, RunTimeout

request: contextvars.ContextVar[object] = contextvars.ContextVar("request", default=None)


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


class Handler(logging.Handler):
    """Calls a function with each record of the logger "logs"."""

    def __init__(self, call: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self.call = call

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "logs":
            self.call(record)


@contextlib.contextmanager
def handling(call: Callable[[logging.LogRecord], object]) -> Generator[None]:
    root, handler = logging.getLogger(), Handler(call)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def test_a_slow_handler_holds_neither_the_loop_nor_other_jobs() -> None:
    may_go_on = threading.Event()
    has_begun = threading.Event()

    def handle(_: logging.LogRecord) -> None:
        has_begun.set()
        assert may_go_on.wait(60)

    async def main() -> None:
        async with ProcessPoolExecutor(2) as pool:
            slow = pool.run(logs.logs, "slow")
            while not has_begun.is_set():
                await asyncio.sleep(0.01)
            assert await pool.run(abs, -1) == 1
            assert pool.submit(abs, -2).result(30) == 2
            may_go_on.set()
            await slow

    with handling(handle):
        asyncio.run(main())


@pytest.mark.parametrize("way", ["submit", "run"])
def test_a_result_comes_after_the_records_of_its_job(way: str) -> None:
    handled: list[str] = []

    async def main(pool: ProcessPoolExecutor) -> list[str]:
        await pool.run(logs.logs_many, 1000)
        return handled[:]

    with ProcessPoolExecutor(1) as pool, handling(lambda record: handled.append(record.getMessage())):
        if way == "run":
            seen = asyncio.run(main(pool))
        else:
            pool.submit(logs.logs_many, 1000).result(60)
            seen = handled[:]
    assert seen == [str(number) for number in range(1000)]


def test_a_handler_that_hangs_does_not_keep_a_job_from_its_time_limit() -> None:
    may_go_on = threading.Event()

    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            try:
                with pytest.raises(RunTimeout):
                    await pool.options(timeout=0.5).run(logs.logs_and_sleeps)
            finally:
                may_go_on.set()

    with handling(lambda _: may_go_on.wait(60)):
        asyncio.run(main())


def test_a_record_is_handled_in_the_context_of_its_jobs_submitter() -> None:
    seen: list[tuple[str, object]] = []

    async def serve(pool: ProcessPoolExecutor, name: str) -> None:
        request.set(name)
        await pool.run(logs.logs, name)

    async def main() -> None:
        async with ProcessPoolExecutor(1) as pool:
            for name in "abc":
                await asyncio.create_task(serve(pool, name))

    with handling(lambda record: seen.append((record.getMessage(), request.get()))):
        asyncio.run(main())
    assert seen == [("a", "a"), ("b", "b"), ("c", "c")]


def test_a_loop_and_its_futures_keep_no_context_of_a_caller() -> None:
    class Value:
        pass

    async def call(pool: ProcessPoolExecutor, kept: list[object]) -> weakref.ref[Value]:
        value = Value()
        request.set(value)
        for future in (offloop.run(int), pool.run(int), pool.run(logs.logs, "one")):
            await future
            kept.append(future)
        submitted = pool.submit(int)
        kept.append(submitted)
        submitted.result(30)
        return weakref.ref(value)

    async def main() -> None:
        kept: list[object] = []
        async with ProcessPoolExecutor(1) as pool:
            value = await asyncio.create_task(call(pool, kept))
            await asyncio.sleep(0)  # the loop itself has the task until here
            gc.collect()
            assert value() is None

    asyncio.run(main())


@pytest.fixture
def level() -> Generator[Callable[[str, int], None]]:
    """Sets levels of loggers, and sets them back."""
    changed: dict[str, int] = {}

    def change(name: str, level: int) -> None:
        logger = logging.getLogger(name)
        changed.setdefault(name, logger.level)
        logger.setLevel(level)

    yield change
    for name, before in changed.items():
        logging.getLogger(name).setLevel(before)


def test_levels_of_loggers_hold_in_workers_as_they_are_at_the_call(
    caplog: pytest.LogCaptureFixture, level: Callable[[str, int], None]
) -> None:
    level("early", logging.DEBUG)
    with ProcessPoolExecutor(1) as pool:
        pool.submit(logs.logs_at, "early", logging.DEBUG, "of the beginning").result(30)
        pool.submit(logs.logs_at, "late", logging.DEBUG, "too low").result(30)
        level("late", logging.DEBUG)
        pool.submit(logs.logs_at, "late", logging.DEBUG, "of now").result(30)
        level("late", logging.NOTSET)
        pool.submit(logs.logs_at, "late", logging.DEBUG, "too low again").result(30)
        level("late", logging.INFO)
        logging.disable(logging.INFO)
        try:
            pool.submit(logs.logs_at, "late", logging.INFO, "disabled").result(30)
        finally:
            logging.disable(logging.NOTSET)
        pool.submit(logs.logs_at, "late", logging.INFO, "of the end").result(30)
    assert [r.getMessage() for r in caplog.records if r.name in ("early", "late")] == [
        "of the beginning",
        "of now",
        "of the end",
    ]


def test_each_pool_follows_the_levels_of_loggers_and_follows_them_back(
    caplog: pytest.LogCaptureFixture, level: Callable[[str, int], None]
) -> None:
    with ProcessPoolExecutor(1) as one, ProcessPoolExecutor(1) as other:

        def log(text: str) -> None:
            for name, pool in ("one", one), ("other", other):
                # A second call meets a pool that has looked at the levels.
                pool.submit(logs.logs_at, "late", logging.DEBUG, f"{text} {name}").result(60)
                pool.submit(logs.logs_at, "late", logging.DEBUG, f"{text} {name} again").result(60)

        log("too low")
        level("late", logging.DEBUG)
        log("now")
        level("late", logging.NOTSET)
        log("too low")
    assert [record.getMessage() for record in caplog.records if record.name == "late"] == [
        "now one",
        "now one again",
        "now other",
        "now other again",
    ]


LEVEL_OF_A_MODULE = """
    import logging, sys
    from offloop import ProcessPoolExecutor

    log = logging.getLogger("app")
    log.setLevel(logging.WARNING)

    def job():
        log.debug("verbose")

    if __name__ == "__main__":
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        log.setLevel(logging.DEBUG)
        with ProcessPoolExecutor(1) as pool:
            pool.submit(job).result(60)
"""


def test_a_level_that_a_module_sets_does_not_hide_what_the_parent_wants(tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path / "app.py", LEVEL_OF_A_MODULE))
    assert (done.stdout, done.returncode) == ("verbose\n", 0), done.stderr


OWN_HANDLER = """
    import logging, multiprocessing, sys
    from offloop import ProcessPoolExecutor

    log = logging.getLogger("app")
    log.addHandler(logging.StreamHandler(sys.stdout))
    lib = logging.getLogger("lib")
    lib.addHandler(logging.NullHandler())

    def job():
        log.warning("of the app")
        lib.warning("of the library")

    if __name__ == "__main__":
        logging.basicConfig(stream=sys.stdout, format="root: %(message)s")
        log.propagate = PROPAGATE
        context = multiprocessing.get_context("METHOD")
        with ProcessPoolExecutor(1, context) as pool:
            pool.submit(job).result(60)
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("propagate", [False, True])
def test_a_record_is_handled_once_by_each_handler(tmp_path: Path, method: str, propagate: bool) -> None:
    code = OWN_HANDLER.replace("METHOD", method).replace("PROPAGATE", str(propagate))
    done = scripts.run(scripts.write(tmp_path / "app.py", code))
    expected = ["of the app", "root: of the library"] + ["root: of the app"] * propagate
    assert sorted(done.stdout.splitlines()) == sorted(expected), done.stderr


USES_LOGGING_LATE = """
import sys
import late_logging
from offloop import ProcessPoolExecutor

if __name__ == "__main__":
    import logging
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s", stream=sys.stdout)
    with ProcessPoolExecutor(1) as pool:
        print("it has logging:", pool.submit(late_logging.has_logging).result(30))
        # A worker learns the levels before it has what they are for.
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger("late").setLevel(logging.DEBUG)
        print("it has logging:", pool.submit(late_logging.has_logging).result(30))
        pool.submit(late_logging.logs, 1).result(30)
        logging.getLogger("late").setLevel(logging.ERROR)
        pool.submit(late_logging.logs, 2).result(30)
"""

LATE_LOGGING = """
import sys

def has_logging():
    return "logging" in sys.modules

def logs(number):
    import logging
    for name in ("late", "other"):
        logging.getLogger(name).debug("debug %d", number)
        logging.getLogger(name).info("info %d", number)
    logging.getLogger("late").error("error %d", number)
"""


def test_a_worker_imports_logging_only_if_its_jobs_do_and_then_with_the_parents_levels(tmp_path: Path) -> None:
    scripts.write(tmp_path / "late_logging.py", LATE_LOGGING)
    ended = scripts.run(scripts.write(tmp_path / "program.py", USES_LOGGING_LATE))
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        *["it has logging: False"] * 2,
        *["late debug 1", "late info 1", "other info 1", "late error 1"],
        *["other info 2", "late error 2"],
    ]

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from offloop._worker import forwarding, logs

log = logging.getLogger("app.jobs")


@contextlib.contextmanager
def only(handler: logging.Handler, level: int = logging.DEBUG) -> Generator[None, None, None]:
    """Gives the root logger this handler only, without those of pytest."""
    root = logging.getLogger()
    handlers, root.handlers[:] = root.handlers[:], [handler]
    before, root.level = root.level, level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, before


class Worker:
    """This process as a worker, with the records that it sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.forwarder = forwarding.Forwarder(self.sent.append, {"root": logging.DEBUG})
        self.handler = logs.install(self.forwarder)

    def run(self, job: Callable[[], object]) -> None:
        with only(self.handler):
            self.forwarder.job_runs = True
            job()
            self.forwarder.flush()
            self.forwarder.job_runs = False


@pytest.fixture
def worker() -> Iterator[Worker]:
    root = logging.getLogger()
    level = root.level
    worker = Worker()
    yield worker
    root.removeHandler(worker.handler)
    root.setLevel(level)


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def deliver(sent: list[bytes]) -> list[Any]:
    """Returns the records that reach a handler of the root logger in the parent."""
    collector = Collector()
    with only(collector):
        for data in sent:
            logs.emit(data, trusts_worker=True)
    return collector.records


def test_a_record_of_another_process_reaches_the_handlers_here() -> None:
    code = """
    import logging, os, pickle, sys
    from offloop._worker import forwarding, logs
    sent = []
    forwarder = forwarding.Forwarder(sent.append, {"root": logging.INFO})
    logs.install(forwarder)
    forwarder.job_runs = True
    logging.getLogger("app.jobs").info("read %d of %s", 3, object, extra={"user": "ann"})
    logging.getLogger("app.jobs").debug("below the level")
    sys.stdout.buffer.write(pickle.dumps((os.getpid(), sent)))
    """
    pid, sent = pickle.loads(
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            timeout=60,
            check=True,
        ).stdout
    )
    (record,) = deliver(sent)
    assert record.getMessage() == "read 3 of <class 'object'>"
    assert (record.name, record.levelno, record.user) == ("app.jobs", logging.INFO, "ann")
    assert (record.process, record.processName) == (pid, "MainProcess")
    assert pid != os.getpid()


def test_tracebacks_arrive_as_text(worker: Worker) -> None:
    def job() -> None:
        try:
            raise ValueError("broken")  # the line of the raise
        except ValueError:
            log.exception("failed", stack_info=True)

    worker.run(job)
    (record,) = deliver(worker.sent)
    assert record.getMessage() == "failed"
    text = logging.Formatter().format(record)
    assert "# the line of the raise" in text
    assert "ValueError: broken" in text
    assert "Stack (most recent call last)" in text


class FailsToReduce:
    def __reduce__(self) -> NoReturn:
        raise ValueError


class FailsToUnpickle:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_extras_that_cannot_travel_are_dropped_alone(worker: Worker) -> None:
    extra = {
        "path": Path("a"),
        "lock": threading.Lock(),
        "a": FailsToReduce(),
        "b": FailsToUnpickle(),
    }
    worker.run(lambda: log.info("%s", FailsToReduce, extra=extra))
    (record,) = deliver(worker.sent)
    assert record.path == Path("a")
    assert not {"lock", "a", "b"} & record.__dict__.keys()


def test_a_job_survives_a_message_that_cannot_be_formatted(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    message: Any = "%d"
    worker.run(lambda: log.info(message, "no number"))
    assert not worker.sent
    assert "Logging error" in capsys.readouterr().err


def test_a_job_survives_a_broken_link(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(data: bytes) -> NoReturn:
        raise BrokenPipeError

    forwarder = forwarding.Forwarder(broken, {})
    forwarder.job_runs = True
    with only(logs.Handler(forwarder)):
        log.info("lost")
    assert "BrokenPipeError" in capsys.readouterr().err


def test_records_of_a_job_are_sent_at_once(worker: Worker) -> None:
    worker.forwarder.job_runs = True
    log.info("one")
    assert len(worker.sent) == 1


def test_records_between_jobs_wait_for_the_next(worker: Worker) -> None:
    log.info("one")
    worker.forwarder.flush()
    assert not worker.sent
    worker.run(lambda: log.info("two"))
    assert [record.msg for record in deliver(worker.sent)] == ["one", "two"]


def test_records_of_other_threads_wait_for_the_main_thread(worker: Worker) -> None:
    def job() -> None:
        def run() -> None:
            log.info("from a thread")
            worker.forwarder.flush()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert not worker.sent

    worker.run(job)
    assert [record.msg for record in deliver(worker.sent)] == ["from a thread"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_a_job_forks_sends_nothing(worker: Worker) -> None:
    def job() -> None:
        child = os.fork()
        if child == 0:
            log.info("from a fork")
            os._exit(len(worker.sent))
        assert os.waitpid(child, 0)[1] == 0

    worker.run(job)


def test_a_record_made_while_one_is_sent_comes_after_it() -> None:
    order: list[str] = []

    def send(data: bytes) -> None:
        order.append("begin")
        if len(order) == 1:
            log.info("by a signal handler")
        order.append("end")

    forwarder = forwarding.Forwarder(send, {})
    forwarder.job_runs = True
    with only(logs.Handler(forwarder)):
        log.info("one")
    assert order == ["begin", "end", "begin", "end"]


def test_logging_that_the_job_sets_up_itself_is_left_alone(worker: Worker) -> None:
    def job() -> None:
        logging.basicConfig(force=True, level=logging.ERROR, handlers=[logging.NullHandler()])
        log.error("for the job's own handler")

    worker.run(job)
    assert not worker.sent


def test_the_level_of_the_logger_here_decides(worker: Worker) -> None:
    def job() -> None:
        log.debug("low")
        log.error("high")

    worker.run(job)
    log.setLevel(logging.ERROR)
    try:
        assert [record.msg for record in deliver(worker.sent)] == ["high"]
    finally:
        log.setLevel(logging.NOTSET)


def test_a_filter_that_raises_here_does_no_harm(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(record: logging.LogRecord) -> bool:
        raise ValueError("filter")

    worker.run(lambda: log.info("one"))
    log.addFilter(fails)
    try:
        assert deliver(worker.sent) == []
    finally:
        log.removeFilter(fails)
    assert "ValueError: filter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 7),
        ("levelno", "high"),
        ("msg", None),
        ("exc_text", 3),
        ("args", 5),
        ("exc_info", 1),
    ],
)
def test_a_record_with_anything_in_it_does_no_harm(
    worker: Worker, field: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    record = logging.LogRecord("app", logging.INFO, "path", 1, "text", None, None)
    setattr(record, field, value)
    worker.run(lambda: worker.handler.handle(record))
    delivered = deliver(worker.sent)
    assert delivered or "Error" in capsys.readouterr().err

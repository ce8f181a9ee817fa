"""The watchdog in this process: the call that stalls a loop is reported while it does."""

from __future__ import annotations

import asyncio
import gc
import json
import linecache
import logging
import re
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

import offloop
from offloop._offloop import Stacks

THRESHOLD = 0.05
HANG = 60.0

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def on_asyncio(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def on_asyncio_in_debug_mode(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main, debug=True)


def on_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(main)


def in_a_thread(main: Coroutine[Any, Any, Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(main)), name="elsewhere")
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture(params=[on_asyncio, on_uvloop])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


@pytest.fixture(params=[on_asyncio, on_uvloop, on_asyncio_in_debug_mode, in_a_thread])
def run_anyhow(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


class Reports:
    """The reports, and when they came."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.watch: offloop.Watch | None = None
        self.stalls: list[offloop.Stall] = []
        self.came = threading.Event()
        self._then = then

    def __call__(self, stall: offloop.Stall) -> None:
        self.stalls.append(stall)
        self.came.set()
        self._then()

    @property
    def counts(self) -> list[int]:
        """The number of stalls at each place."""
        return [] if self.watch is None else [place.count for place in self.watch.stalls]

    @property
    def one(self) -> offloop.Stall:
        """The first report. Any others are of the same stall, if it took long."""
        first, *others = self.stalls
        assert all((stall.place, stall.count) == (first.place, first.count) for stall in others)
        return first


def block(until: Callable[[], object]) -> None:
    """Blocks the loop."""
    deadline = time.monotonic() + HANG
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def line(stall: offloop.Stall) -> str:
    return linecache.getline(stall.file, stall.line).strip()


async def watched(
    main: Callable[[], Coroutine[Any, Any, Any]], reports: Reports, **options: Any
) -> offloop.Watch:
    """Calls `main` in a task, between turns of the loop in which nothing happens."""
    with offloop.watch(threshold=THRESHOLD, on_stall=reports, **options) as watch:
        reports.watch = watch
        await asyncio.sleep(2 * THRESHOLD)
        await asyncio.create_task(main(), name="guilty")
        await asyncio.sleep(2 * THRESHOLD)
    return watch


def test_a_sleep_is_reported_while_it_lasts(run_anyhow: Run) -> None:
    reports = Reports()
    was_reported = []

    async def main() -> None:
        time.sleep(2)  # the line
        was_reported.append(reports.came.is_set())

    run_anyhow(watched(main, reports))
    assert was_reported == [True]
    stall = reports.stalls[0]
    assert line(stall) == "time.sleep(2)  # the line"
    assert stall.call == "time.sleep(2)"
    assert "`await offloop.run(time.sleep, 2)`" in stall.advice
    assert stall.cause == "waits"
    assert stall.task == "guilty"
    assert stall.callback is not None and stall.callback.endswith("main")
    assert [frame.name for frame in stall.stack] == ["main"]
    assert THRESHOLD <= stall.late < 2


def test_a_blocking_read_is_reported_while_it_lasts(run: Run) -> None:
    ours, theirs = socket.socketpair()
    # Only the report ends the read.
    reports = Reports(lambda: theirs.send(b"x"))

    async def main() -> None:
        assert ours.recv(100) == b"x"

    with ours, theirs:
        ours.settimeout(HANG)
        run(watched(main, reports))
    stall = reports.one
    assert line(stall) == 'assert ours.recv(100) == b"x"'
    assert "`await offloop.run(ours.recv, 100)`" in stall.advice
    assert stall.cause == "waits"


# A list of small numbers is freed quickly, because they are shared.
TEXT = "[" + "1," * 12_000_000 + "1]"


def test_a_large_json_is_reported_although_it_keeps_the_interpreter(run: Run) -> None:
    reports = Reports()

    async def main() -> None:
        json.loads(TEXT)

    run(watched(main, reports))
    stall = reports.one
    assert line(stall) == "json.loads(TEXT)"
    assert stall.call == "json.loads(TEXT)"
    assert "`await offloop.run_cpu(json.loads, TEXT)`" in stall.advice
    assert stall.cause == "computes"
    assert [frame.name for frame in stall.stack] == ["main", "loads", "decode", "raw_decode"]


def test_a_regex_that_backtracks_is_reported_although_it_keeps_the_interpreter(run_anyhow: Run) -> None:
    reports = Reports()
    pattern = re.compile("(a|a)*b")

    async def main() -> None:
        assert pattern.match("a" * 23) is None

    run_anyhow(watched(main, reports))
    stall = reports.one
    assert line(stall) == 'assert pattern.match("a" * 23) is None'
    assert '`await offloop.run_cpu(pattern.match, "a" * 23)`' in stall.advice
    assert stall.cause == "computes"
    assert [frame.name for frame in stall.stack] == ["main"]


def inner_helper(gate: threading.Event) -> None:
    gate.wait(HANG)


def helper(gate: threading.Event) -> None:
    inner_helper(gate)


def test_the_advice_is_for_the_innermost_call_that_can_be_awaited(run: Run) -> None:
    reports = Reports()

    async def inner() -> None:
        helper(
            reports.came,
        )

    async def main() -> None:
        await inner()

    run(watched(main, reports))
    stall = reports.one
    assert line(stall) == "helper("
    assert stall.call == "helper(reports.came)"
    assert "`await offloop.run(helper, reports.came)`" in stall.advice
    assert stall.deepest is not None
    assert stall.deepest.function == "inner_helper"
    assert linecache.getline(stall.deepest.file, stall.deepest.line).strip() == "gate.wait(HANG)"
    names = [frame.name for frame in stall.stack]
    assert names[:4] == ["main", "inner", "helper", "inner_helper"]


def test_a_callback_is_named(run: Run) -> None:
    reports = Reports()

    def tick() -> None:
        helper(reports.came)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(tick)

    run(watched(main, reports))
    stall = reports.one
    assert line(stall) == "helper(reports.came)"
    assert stall.task is None
    assert stall.callback is not None and stall.callback.endswith("tick")
    assert "`offloop.run(helper, reports.came)` returns a future" in stall.advice


def test_a_callback_without_a_frame_is_named() -> None:
    reports = Reports()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 1)

    asyncio.run(watched(main, reports))
    assert reports.stalls[0].callback == "time.sleep"
    assert "`offloop.run(time.sleep, ...)`" in reports.stalls[0].advice


def test_the_advice_for_a_coroutine_that_computes_is_a_function_of_its_own(run: Run) -> None:
    reports = Reports()

    async def main() -> None:
        total = 0
        for n in range(20_000_000):
            total += n

    run(watched(main, reports))
    stall = reports.stalls[0]
    assert stall.function.endswith("main")
    assert stall.cause == "computes"
    assert stall.call is None
    assert "function of its own; `await offloop.run_cpu(function)`" in stall.advice


def test_a_loop_that_is_not_blocked_yields_no_report(run: Run) -> None:
    reports = Reports()

    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0.001)

    watch = run(watched(main, reports))
    assert reports.stalls == []
    assert watch.stalls == []


def test_a_place_is_counted_and_reported_at_each_stall(run: Run) -> None:
    reports = Reports()

    async def main() -> None:
        for n in range(1, 7):
            block(lambda: reports.counts == [n])
            await asyncio.sleep(2 * THRESHOLD)

    watch = run(watched(main, reports))
    assert [stall.count for stall in reports.stalls] == [1, 2, 3, 4, 5, 6]
    [summary] = watch.stalls
    assert summary.count == 6
    assert 6 * THRESHOLD < summary.total < HANG
    assert THRESHOLD < summary.longest < summary.total
    assert summary.last is not None and summary.last.count == 6
    assert str(summary).startswith(f"{summary.place}: 6 times")


def test_a_long_stall_is_reported_again() -> None:
    reports = Reports()

    async def main() -> None:
        block(lambda: len(reports.stalls) == 2)

    asyncio.run(watched(main, reports))
    first, again = reports.stalls
    assert again.late >= 10 * first.late
    assert first.count == again.count == 1


def test_the_last_stall_counts_although_the_loop_does_not_come_round_after_it(run: Run) -> None:
    async def main() -> offloop.Watch:
        await asyncio.sleep(0.01)
        with offloop.watch(threshold=THRESHOLD, logger=None) as watch:
            time.sleep(1)
        return watch

    [summary] = run(main()).stalls
    assert 0.5 < summary.total < HANG
    assert line(summary.last) == "time.sleep(1)"


def test_reports_are_logged_as_warnings(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()

    async def main() -> None:
        reports.came.wait(HANG)

    with caplog.at_level(logging.DEBUG, "offloop.watch"):
        asyncio.run(watched(main, reports))
    # On a busy machine there are others, about time in which the thread had no core.
    [warning] = [record for record in caplog.records if record.__dict__.get("stall") is reports.one]
    later = caplog.records[caplog.records.index(warning) + 1 :]
    end = next(record for record in later if record.levelno == logging.DEBUG)
    assert warning.levelno == logging.WARNING
    assert warning.name == "offloop.watch"
    assert warning.__dict__["stall"] is reports.one
    text = warning.getMessage()
    assert text == str(reports.one)
    assert text.startswith("the event loop has stood still for ")
    assert "`await offloop.run(reports.came.wait, HANG)`" in text
    assert "goes on" in end.getMessage()


def test_a_place_has_one_line_a_minute_and_then_a_summary(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = Reports()

    async def main() -> None:
        for n in range(1, 5):
            block(lambda: reports.counts == [n])
            await asyncio.sleep(2 * THRESHOLD)

    def lines(is_report: bool) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno == logging.WARNING and ("stall" in record.__dict__) == is_report
        ]

    asyncio.run(watched(main, reports))
    assert lines(True) == [str(reports.stalls[0])]
    [summary] = [text for text in lines(False) if "stood still" in text]
    place = reports.stalls[0].place
    assert summary.startswith(f"the event loop has stood still 3 more times at {place}, for ")
    caplog.clear()
    monkeypatch.setattr("offloop._watch.watch._QUIET", 0.0)
    reports = Reports()
    asyncio.run(watched(main, reports))
    assert lines(True) == [str(stall) for stall in reports.stalls]


def test_many_short_calls_in_one_turn_are_blamed_on_no_line(run: Run) -> None:
    reports = Reports()

    async def short() -> None:
        end = time.thread_time() + 0.003
        while time.thread_time() < end:
            pass

    async def main() -> None:
        await asyncio.gather(*(short() for _ in range(80)))

    watch = run(watched(main, reports))
    assert reports.stalls == []
    assert watch.stalls == []
    assert watch.unseen >= 1


def test_no_logger_means_no_records(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()

    async def main() -> None:
        reports.came.wait(HANG)

    asyncio.run(watched(main, reports, logger=None))
    assert reports.one
    assert caplog.records == []


def test_a_callback_that_raises_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise SystemExit("on_stall")

    reports = Reports(fail)

    async def main() -> None:
        block(lambda: len(reports.stalls) == 1)
        await asyncio.sleep(2 * THRESHOLD)
        block(lambda: len(reports.stalls) == 2)

    asyncio.run(watched(main, reports, logger="somewhere.else"))
    assert [line(stall) for stall in reports.stalls] == [
        "block(lambda: len(reports.stalls) == 1)",
        "block(lambda: len(reports.stalls) == 2)",
    ]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(record.exc_info and record.exc_info[0] is SystemExit for record in errors)
    assert {record.name for record in caplog.records} == {"somewhere.else"}


def test_a_watch_that_was_stopped_reports_no_more(run: Run) -> None:
    reports = Reports()

    async def main() -> None:
        watch = offloop.watch(asyncio.get_running_loop(), threshold=THRESHOLD, on_stall=reports)
        await asyncio.sleep(2 * THRESHOLD)
        watch.stop()
        watch.stop()
        time.sleep(0.3)

    run(main())
    assert reports.stalls == []
    names = {thread.name for thread in threading.enumerate()}
    assert "offloop-reports" not in names


def test_a_watch_may_be_stopped_by_its_own_callback(run: Run) -> None:
    async def main() -> None:
        def stop(stall: offloop.Stall) -> None:
            watch.stop()
            stopped.set()

        stopped = threading.Event()
        watch = offloop.watch(threshold=THRESHOLD, on_stall=stop, logger=None)
        await asyncio.sleep(2 * THRESHOLD)
        stopped.wait(HANG)
        assert stopped.is_set()

    run(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_is_watched_from_another_thread(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever, name="of the loop")
    thread.start()
    ours, theirs = socket.socketpair()
    reports = Reports(lambda: theirs.send(b"x"))
    ours.settimeout(HANG)

    async def read() -> None:
        # The watch may have begun in this turn of the loop.
        await asyncio.sleep(2 * THRESHOLD)
        ours.recv(10)

    with ours, theirs, offloop.watch(loop, threshold=THRESHOLD, on_stall=reports, logger=None):
        asyncio.run_coroutine_threadsafe(read(), loop).result(HANG)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert reports.one.thread == "of the loop"
    assert line(reports.one) == "ours.recv(10)"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_may_stop_and_run_again_and_be_closed(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = new_loop()
    reports = Reports()
    watch = offloop.watch(loop, threshold=THRESHOLD, on_stall=reports)

    async def stall() -> None:
        await asyncio.sleep(2 * THRESHOLD)
        reports.came.wait(HANG)
        await asyncio.sleep(2 * THRESHOLD)

    loop.run_until_complete(asyncio.sleep(2 * THRESHOLD))
    time.sleep(0.3)  # the loop does not run
    assert reports.stalls == []
    loop.run_until_complete(stall())
    time.sleep(0.3)
    assert line(reports.one) == "reports.came.wait(HANG)"
    assert reports.one.function.endswith("stall")
    loop.close()
    time.sleep(0.3)
    watch.stop()
    assert len(reports.stalls) == 1


def test_several_loops_and_watches_do_not_disturb_each_other() -> None:
    mine, others = Reports(), Reports()
    began = threading.Barrier(2, timeout=HANG)

    async def main(reports: Reports, work: Callable[[], None]) -> offloop.Watch:
        async def guilty() -> None:
            work()

        await asyncio.to_thread(began.wait)
        return await watched(guilty, reports, logger=None)

    def sleep() -> None:
        time.sleep(2)

    def wait() -> None:
        threading.Event().wait(2)

    thread = threading.Thread(target=lambda: asyncio.run(main(others, wait)))
    thread.start()
    asyncio.run(main(mine, sleep))
    thread.join()
    assert [frame.name for frame in mine.stalls[0].stack] == ["guilty", "sleep"]
    assert [frame.name for frame in others.stalls[0].stack][:2] == ["guilty", "wait"]


def test_without_a_loop_each_that_begins_is_watched() -> None:
    reports = Reports()

    async def main() -> None:
        await asyncio.sleep(2 * THRESHOLD)
        counts = [sum(reports.counts) + 1]
        block(lambda: reports.counts == counts)

    async def unwatched() -> None:
        time.sleep(10 * THRESHOLD)

    with offloop.watch(threshold=THRESHOLD, on_stall=reports, logger=None) as watch:
        reports.watch = watch
        on_asyncio(main())
        on_uvloop(main())
        in_a_thread(main())
    on_asyncio(unwatched())
    assert [stall.count for stall in reports.stalls] == [1, 2, 3]
    [summary] = watch.stalls
    assert summary.count == 3


def keeps_the_interpreter(then: threading.Event) -> None:
    re.match("(a|a)*b", "a" * 23)
    then.wait(HANG)


def test_a_thread_that_keeps_the_interpreter_from_the_loop_is_named(run: Run) -> None:
    reports = Reports()

    async def main() -> None:
        thread = threading.Thread(target=keeps_the_interpreter, args=[reports.came], name="greedy")
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        thread.join()

    run(watched(main, reports))
    stall = reports.stalls[0]
    assert stall.cause == "interpreter"
    assert stall.thread == "greedy"
    assert stall.function == "keeps_the_interpreter"
    assert line(stall) == 're.match("(a|a)*b", "a" * 23)'
    assert "process" in stall.advice
    assert stall.task is None


def test_async_with_watches_the_same(run: Run) -> None:
    reports = Reports()

    async def main() -> None:
        async with offloop.watch(threshold=THRESHOLD, on_stall=reports, logger=None):
            await asyncio.sleep(2 * THRESHOLD)
            reports.came.wait(HANG)
            await asyncio.sleep(0)

    run(main())
    assert line(reports.one) == "reports.came.wait(HANG)"


def test_nothing_of_the_watched_code_is_kept() -> None:
    class Kept:
        pass

    seen: list[weakref.ref[Kept]] = []
    reports = Reports()

    def look() -> Kept:
        kept = Kept()
        seen.append(weakref.ref(kept))
        return kept

    async def main() -> None:
        _here = look()
        reports.came.wait(HANG)

    async def around() -> offloop.Watch:
        _here = look()
        return await watched(main, reports, logger=None)

    gc.disable()
    try:
        watch = asyncio.run(around())
        assert watch.stalls
        assert [kept() for kept in seen] == [None, None]
    finally:
        gc.enable()


class Busy:
    """A thread that computes, and its number."""

    def __enter__(self) -> int:
        self.over = False
        self.thread = threading.Thread(target=self.compute)
        self.thread.start()
        assert self.thread.ident is not None
        return self.thread.ident

    def __exit__(self, *_: object) -> None:
        self.over = True
        self.thread.join()

    def compute(self) -> None:
        while not self.over:
            sum(range(10_000))


def test_the_stack_of_a_thread_is_read_and_that_of_an_ended_one_is_not() -> None:
    stacks = Stacks()
    with Busy() as busy:
        frames = stacks.take(busy)
        assert frames is not None
        names = [frame.qualname for frame in frames]
        assert names[-1] == "Busy.compute"
        assert names[0] == "Thread._bootstrap"
        assert linecache.getline(__file__, frames[-1].line).strip() in (
            "while not self.over:",
            "sum(range(10_000))",
        )
    assert stacks.take(busy) is None


def test_a_stack_has_names_lines_and_expressions_as_the_interpreter_says() -> None:
    stacks = Stacks()
    gate = threading.Event()
    seen: list[Any] = []

    def größe_Ā_𠀀() -> None:
        gate.wait(
            HANG,
        )

    def below() -> None:
        for _ in range(1):
            größe_Ā_𠀀()

    thread = threading.Thread(target=below)
    thread.start()
    assert thread.ident is not None
    while not seen or seen[-1].name != "wait":
        seen = stacks.take(thread.ident) or []
        time.sleep(0.001)
    frame = sys._current_frames()[thread.ident]
    for read in reversed(stacks.take(thread.ident) or []):
        code = frame.f_code
        assert (read.file, read.name, read.qualname) == (
            code.co_filename,
            code.co_name,
            code.co_qualname,
        )
        assert (read.line, read.first_line, read.flags) == (
            frame.f_lineno,
            code.co_firstlineno,
            code.co_flags,
        )
        position = list(code.co_positions())[frame.f_lasti // 2]
        assert read.span == (None if None in position else position)
        below_it = frame.f_back
        if below_it is None:
            break
        frame = below_it
    else:
        raise AssertionError("frames are missing")
    gate.set()
    thread.join()
    assert any(read.name == "größe_Ā_𠀀" for read in seen)


def test_a_deep_stack_is_read_from_both_its_ends() -> None:
    stacks = Stacks()
    here = threading.get_ident()

    def deep(levels: int) -> Any:
        return deep(levels - 1) if levels else stacks.take(here)

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        frames = deep(5_000)
    finally:
        sys.setrecursionlimit(before)
    names = [frame.name for frame in frames]
    outermost = stacks.take(here)
    assert outermost is not None
    assert names[0] == outermost[0].name
    assert names[-50:] == ["deep"] * 50
    assert len(frames) < 1_000


@pytest.mark.parametrize("threshold", [0, -1, float("nan"), float("inf")])
def test_a_threshold_is_a_length_of_time(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        offloop.watch(threshold=threshold)

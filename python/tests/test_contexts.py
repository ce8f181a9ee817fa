"""Calls have copies of what their callers' contexts hold, and change nothing there."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import scripts

from offloop import ProcessPoolExecutor, ThreadPoolExecutor

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def roughly() -> Decimal:
    decimal.getcontext().prec = 3
    variable.set("by the call")
    return Decimal(1) / 3


def precision() -> int:
    return decimal.getcontext().prec


@pytest.fixture(autouse=True)
def exactly() -> Iterator[None]:
    with decimal.localcontext(decimal.Context(prec=20)):
        yield


def unchanged() -> bool:
    return precision() == 20 and variable.get() == "unset"


@pytest.mark.parametrize("policy", ["wait", "caller_runs"])
def test_a_call_in_a_thread_does_not_change_its_callers_precision(policy: Any) -> None:
    async def main(pool: ThreadPoolExecutor) -> None:
        assert await pool.run(roughly) == Decimal("0.333")
        assert unchanged()

    with ThreadPoolExecutor(1, queue_capacity=1, on_full=policy) as pool:
        calls = [pool.submit(roughly) for _ in range(20)]
        assert {call.result(30) for call in calls} == {Decimal("0.333")}
        assert unchanged()
        assert list(pool.map(lambda _: roughly(), range(3))) == [Decimal("0.333")] * 3
        assert unchanged()
        asyncio.run(main(pool))
    assert unchanged()


def test_a_call_that_the_caller_runs_for_a_process_pool_changes_nothing_of_it() -> None:
    with ProcessPoolExecutor(1, queue_capacity=1, on_full="caller_runs") as pool:
        calls = [pool.submit(roughly) for _ in range(20)]
        assert {call.result(30) for call in calls} == {Decimal("0.333")}
    assert unchanged()


def test_a_call_in_a_thread_has_its_callers_precision() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(precision).result(30) == 20
        pool.submit(roughly).result(30)
        assert pool.submit(precision).result(30) == 20
        with decimal.localcontext() as context:
            context.prec = 7
            assert pool.submit(precision).result(30) == 7


def test_gmpy2s_context_is_treated_alike() -> None:
    gmpy2 = pytest.importorskip("gmpy2")
    with gmpy2.context(precision=100), ThreadPoolExecutor(1) as pool:

        def change() -> None:
            gmpy2.get_context().precision = 10

        pool.submit(change).result(30)
        assert gmpy2.get_context().precision == 100


def test_threads_keep_no_context_of_the_call_that_started_them() -> None:
    seen: list[str] = []

    def submit() -> None:
        variable.set("of the first caller")
        pool.submit(threading.get_ident).result(30)

    with ThreadPoolExecutor(1, initializer=lambda: seen.append(variable.get())) as pool:
        contextvars.copy_context().run(submit)
        assert pool.submit(variable.get).result(30) == "unset"
    assert seen == ["unset"]


APP = """
    import contextvars, time
    request = contextvars.ContextVar("request", default="none")
    time.sleep(0.3)  # as the import of a large application
"""

CALLS = """
    import app, logging, sys
    from offloop import ProcessPoolExecutor

    if __name__ == "__main__":
        logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")
        app.request.set("r1")
        with ProcessPoolExecutor(2, context_vars=[app.request], preload=PRELOAD) as pool:
            calls = [pool.submit(abs, -1) for _ in range(20)]
            print(len([call.result(60) for call in calls]))
"""


@pytest.mark.parametrize("preload", [[], ["app"]], ids=["not preloaded", "preloaded"])
def test_a_costly_import_for_a_context_variable_is_reported_once(tmp_path: Path, preload: list[str]) -> None:
    scripts.write(tmp_path / "app.py", APP)
    program = scripts.write(tmp_path / "program.py", CALLS.replace("PRELOAD", repr(preload)))
    done = scripts.run(program)
    advice = [line for line in done.stdout.splitlines() if line.startswith("offloop.advice")]
    if preload:
        assert advice == []
    else:
        (line,) = advice
        assert "imports the module `app`" in line and "`request`" in line
        assert 'preload=["app"]' in line
    assert "20" in done.stdout.splitlines(), done.stderr

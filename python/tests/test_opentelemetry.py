"""The submitter's trace and baggage reach the workers."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import scripts, traces, variables

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.propagators import textmap
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import offloop
from offloop import ProcessPoolExecutor, ThreadPoolExecutor
from offloop._worker import telemetry

Pool = ProcessPoolExecutor | ThreadPoolExecutor

tracer = TracerProvider().get_tracer("tests")


@pytest.fixture(scope="module", autouse=True)
def recording() -> None:
    """Sets up tracing for the calls in threads, once: the global provider cannot be unset."""
    traces.set_up()


@pytest.fixture(params=[ProcessPoolExecutor, ThreadPoolExecutor])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    initializer = traces.set_up if request.param is ProcessPoolExecutor else None
    with request.param(1, initializer=initializer) as pool:
        yield pool


async def run(pool: Pool) -> Any:
    return await pool.run(traces.span)


async def submit(pool: Pool) -> Any:
    return pool.submit(traces.span).result()


async def in_executor(pool: Pool) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, traces.span)


async def through_map(pool: Pool) -> Any:
    return next(pool.map(traces.span, [None], chunksize=2))


WAYS = [run, submit, in_executor, through_map]


@pytest.mark.parametrize("way", WAYS)
def test_a_span_in_a_worker_is_a_child_of_the_submitters(pool: Pool, way: Callable[[Pool], Any]) -> None:
    async def main() -> None:
        with tracer.start_as_current_span("caller") as caller:
            pid, (trace_id, span_id, parent) = await way(pool)
        assert (pid == os.getpid()) == isinstance(pool, ThreadPoolExecutor)
        assert trace_id == caller.get_span_context().trace_id
        assert parent == caller.get_span_context().span_id
        assert span_id != parent

    asyncio.run(main())


def test_a_span_of_a_stream_is_a_child_of_the_submitters() -> None:
    with ProcessPoolExecutor(1, initializer=traces.set_up) as pool:
        with tracer.start_as_current_span("caller") as caller:
            stream = pool.stream(traces.spans, 2)
        parents = {parent for _, (_, _, parent) in stream}
    assert parents == {caller.get_span_context().span_id}


def test_each_of_many_tasks_has_a_span_of_its_own(pool: Pool) -> None:
    async def one(number: int) -> None:
        with tracer.start_as_current_span(f"task {number}") as caller:
            await asyncio.sleep(0)
            _, (_, _, parent) = await pool.run(traces.span)
        assert parent == caller.get_span_context().span_id

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(main())


def test_the_context_ends_with_the_call(pool: Pool) -> None:
    with tracer.start_as_current_span("caller"):
        pool.submit(traces.span).result()
    _, (_, _, parent) = pool.submit(traces.span).result()
    assert parent == 0


def test_baggage_travels_with_the_call(pool: Pool) -> None:
    token = context.attach(baggage.set_baggage("customer", "number 7"))
    try:
        assert pool.submit(traces.baggage).result() == {"customer": "number 7"}
    finally:
        context.detach(token)
    assert pool.submit(traces.baggage).result() == {}


def test_auto_sends_the_context_too() -> None:
    from offloop._pools import default

    offloop.auto.pin(traces.baggage, "processes")

    async def main() -> None:
        context.attach(baggage.set_baggage("customer", "number 7"))
        assert await offloop.auto(traces.baggage) == {"customer": "number 7"}

    try:
        asyncio.run(main())
    finally:
        offloop.auto.forget()
        default.processes().shutdown()
        default._reset_in_child()


def test_context_variables_travel_beside_the_trace() -> None:
    with ProcessPoolExecutor(1, context_vars=[variables.request], initializer=traces.set_up) as pool:
        token = variables.request.set("number 7")
        try:
            with tracer.start_as_current_span("caller") as caller:
                assert pool.submit(variables.current).result() == "number 7"
                _, (_, _, parent) = pool.submit(traces.span).result()
        finally:
            variables.request.reset(token)
        assert parent == caller.get_span_context().span_id


class Propagator(TraceContextTextMapPropagator):
    """Writes the trace under another name."""

    def inject(self, carrier: Any, context: Any = None, setter: Any = textmap.default_setter) -> None:
        written: dict[str, str] = {}
        super().inject(written, context)
        for value in written.values():
            setter.set(carrier, "ours", value)

    def extract(self, carrier: Any, context: Any = None, getter: Any = textmap.default_getter) -> Any:
        return super().extract({"traceparent": carrier["ours"]}, context)


def test_the_programs_own_propagator_is_used() -> None:
    configured = propagate.get_global_textmap()
    propagate.set_global_textmap(Propagator())
    try:
        with ProcessPoolExecutor(1, initializer=traces.set_up, initargs=(Propagator(),)) as pool:
            with tracer.start_as_current_span("caller") as caller:
                departing = telemetry.departing()
                _, (_, _, parent) = pool.submit(traces.span).result()
    finally:
        propagate.set_global_textmap(configured)
    assert departing is not None
    assert list(departing) == ["ours"]
    assert parent == caller.get_span_context().span_id


def test_without_a_span_nothing_is_sent() -> None:
    assert telemetry.departing() is None
    with trace.use_span(trace.INVALID_SPAN):
        assert telemetry.departing() is None
    with ProcessPoolExecutor(1) as pool:
        assert not pool.submit(traces.has_imported).result()
        with tracer.start_as_current_span("caller"):
            assert pool.submit(traces.has_imported).result()


def test_the_worker_knows_that_a_trace_is_not_recorded() -> None:
    unrecorded = TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests")
    with ProcessPoolExecutor(1) as pool, unrecorded.start_as_current_span("caller"):
        assert not pool.submit(is_sampled).result()


def is_sampled() -> bool:
    found = trace.get_current_span().get_span_context()
    assert found.is_valid
    return found.trace_flags.sampled


def test_a_program_without_opentelemetry_does_not_import_it(tmp_path: Path) -> None:
    program = """
    from support import traces
    import offloop

    if __name__ == "__main__":
        with offloop.ProcessPoolExecutor(1) as pool:
            assert not pool.submit(traces.has_imported).result()
        assert not traces.has_imported()
    """
    done = scripts.run(scripts.write(tmp_path / "script.py", program))
    assert done.returncode == 0, done.stderr

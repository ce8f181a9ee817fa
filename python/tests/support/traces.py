"""Functions that return OpenTelemetry's context in workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

Place = tuple[int, int, int]
"""A span's trace, its own number, and its parent's, which is 0 if it has none."""

exporter: Any = None


def set_up(propagator: Any = None) -> None:
    """Makes this process record its spans."""
    from opentelemetry import propagate, trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    global exporter
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    if propagator is not None:
        propagate.set_global_textmap(propagator)


def span(_: object = None) -> tuple[int, Place]:
    """Opens and ends a span. Returns the process id, and the span as it was exported."""
    from opentelemetry import trace

    with trace.get_tracer("worker").start_as_current_span("job"):
        pass
    (exported,) = exporter.get_finished_spans()
    exporter.clear()
    parent = 0 if exported.parent is None else exported.parent.span_id
    return os.getpid(), (exported.context.trace_id, exported.context.span_id, parent)


def spans(count: int) -> Iterator[tuple[int, Place]]:
    for _ in range(count):
        yield span()


def baggage() -> dict[str, object]:
    from opentelemetry import baggage

    return dict(baggage.get_all())


def has_imported() -> bool:
    return any(name.partition(".")[0] == "opentelemetry" for name in sys.modules)

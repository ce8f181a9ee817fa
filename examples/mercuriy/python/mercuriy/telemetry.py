"""Traces of OpenTelemetry, if they are asked for. The packages are imported only then.

offloop carries the current span to threads and workers. A worker is a process, so it needs a provider of its own.
"""

from __future__ import annotations

import multiprocessing.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_tracer: Any = None


def wanted(otlp: str | None) -> str | None:
    """Returns where traces go: the address of a collector, "console", or None: nowhere."""
    if otlp:
        return otlp
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        return "console"
    return os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")


def set_up(target: str) -> None:
    """Begins to trace in this process. Raises ImportError if the packages are missing."""
    global _tracer
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if target == "console":
        exporter = ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter,
        )

        exporter = OTLPSpanExporter(f"{target.rstrip('/')}/v1/traces")
    provider = TracerProvider(resource=Resource.create({"service.name": "mercuriy"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    # Workers call no `atexit` hooks when they end, but finalizers of multiprocessing.
    multiprocessing.util.Finalize(None, provider.shutdown, exitpriority=1)
    _tracer = trace.get_tracer("mercuriy")


@contextmanager
def span(name: str, headers: Mapping[str, str] | None = None, **attributes: Any) -> Iterator[None]:
    """Opens a span, if there are traces. `headers` are those of a request, whose trace goes on."""
    if _tracer is None:
        yield
        return
    from opentelemetry import propagate

    context = None if headers is None else propagate.extract(headers)
    with _tracer.start_as_current_span(name, context=context, attributes=attributes):
        yield

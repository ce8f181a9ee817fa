"""OpenTelemetry's context on its way to worker processes, if the program uses its API.

Threads have it already: it is in a context variable, and calls in threads run in a copy of their caller's context.
"""

from __future__ import annotations

import sys
from typing import Any, final

NAME = f"{__name__}:arriving"
"""What leads workers to `arriving`, beside the context variables that travel by such names."""


def departing() -> dict[str, str] | None:
    """The current trace and baggage as the program's propagators write them; None if there is nothing to send."""
    # While another thread imports it, it is not complete.
    get_current: Any = getattr(sys.modules.get("opentelemetry.context"), "get_current", None)
    # Nothing is imported here for a program without spans.
    if get_current is None or not (current := get_current()):
        return None
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier, current)
    return carrier or None


@final
class _Arriving:
    """In a worker, set as context variables are: in the context of the one call."""

    def set(self, carrier: dict[str, str]) -> None:
        try:
            from opentelemetry import context, propagate
        except ImportError:
            # The worker was given other paths. Its calls can open no spans either.
            return
        context.attach(propagate.extract(carrier, context.get_current()))


arriving = _Arriving()

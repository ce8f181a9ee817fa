"""OpenTelemetry's context on its way to worker processes, if the program uses its API.

Calls in threads have it already: it is a context variable, and they run in a copy of their caller's context.
"""

from __future__ import annotations

import sys
from typing import Any, final

NAME = f"{__name__}:arriving"
"""The name by which workers find `arriving`, beside the context variables that travel by such names."""


def departing() -> dict[str, str] | None:
    """Returns the current trace and baggage as the program's propagators write them; None if there are none."""
    # While another thread imports the module, the attribute may be missing.
    get_current: Any = getattr(sys.modules.get("opentelemetry.context"), "get_current", None)
    # A program without spans imports nothing here.
    if get_current is None or not (current := get_current()):
        return None
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier, current)
    return carrier or None


@final
class _Arriving:
    """Is set in a worker as context variables are: in the context of one call."""

    def set(self, carrier: dict[str, str]) -> None:
        """Attaches the trace and the baggage to the current context."""
        try:
            from opentelemetry import context, propagate
        except ImportError:
            # The worker has another search path. Its calls can open no spans either.
            return
        context.attach(propagate.extract(carrier, context.get_current()))


arriving = _Arriving()

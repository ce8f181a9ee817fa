"""The id of the request that a call works for."""

from __future__ import annotations

import os
import re
from contextvars import Context, ContextVar

from ._offloop import CallOptions

__all__ = ["request_id"]

request_id: ContextVar[str | None] = ContextVar("offloop.request_id", default=None)
"""The id of the request that this code works for; None if it works for none.

The middlewares for web frameworks set it. The calls that are made meanwhile have it: in their threads, in their worker
processes, in their log records (as the record's `request`), and in the live view. `options(request=...)` gives one call
another id.
"""

HEADER = "x-request-id"
"""The header of requests and of responses that has the id."""

_VALID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def of_header(value: str | None) -> str:
    """Returns the id that a request brings, or makes one if it brings none, or one that could be mistaken for something
    else in a log: up to 64 letters, digits, dots, dashes and underscores are an id."""
    if value is not None and _VALID.fullmatch(value):
        return value
    return os.urandom(8).hex()


def of_call(options: CallOptions | None, context: Context) -> str | None:
    """Returns the id for a call that is made in `context`, a copy of the caller's. If the call's options have one of its
    own, sets it there."""
    if options is None or (request := options.request) is None:
        return request_id.get()
    context.run(request_id.set, request)
    return request

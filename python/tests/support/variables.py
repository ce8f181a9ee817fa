"""A context variable at the top level of a module, as workers need it."""

import os
from contextvars import ContextVar

request: ContextVar[str] = ContextVar("request")
imported_by = os.getpid()


def current() -> str | None:
    return request.get(None)


def set_to(value: str) -> None:
    request.set(value)

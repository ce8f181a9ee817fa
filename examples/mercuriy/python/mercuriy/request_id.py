"""The id of the request that the running code works for.

A module of its own, because workers import it: pools send the variable's value along with each call.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from typing import Final

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")

_ALLOWED = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def accepted(given: str | None) -> str:
    """Returns the id that a client has given, if it is allowed, else a new one."""
    if given is not None and _ALLOWED.fullmatch(given):
        return given
    return uuid.uuid4().hex

"""What workers answer, and what it means to the caller."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._worker import pickling as _pickling
from .._worker import remote_errors as _remote_errors

if TYPE_CHECKING:
    from typing_extensions import Buffer

RESULT = 0
"""The body is the result."""
RAISED = 1
"""The call, or the pickling of its result, raised: the body is that exception."""
UNREADABLE = 2
"""The call could not be unpickled: the body is why."""
REFUSED = 3
"""The initializer failed: the body is why, in UTF-8."""
LOG = 4
"""Sent before the reply: the body is a log record."""


class Unreadable(Exception):
    """A call or a result could not be unpickled where it arrived; `error` is why.

    A job ends with that error. For a pool that breaks at a crash, as the standard one does, this is one.
    `has_run` tells whether the function was called.
    """

    def __init__(self, error: BaseException, has_run: bool) -> None:
        super().__init__(error, has_run)
        self.error = error
        self.has_run = has_run


def open_reply(code: int, body: Buffer, buffers: Sequence[Buffer]) -> Any:
    """The result, or raises what the job came to."""
    if code == RESULT:
        try:
            return _pickling.loads(body, buffers)
        except BaseException as why:
            raise Unreadable(why, has_run=True) from None
    error = _remote_errors.unpack(bytes(body))
    if code == UNREADABLE:
        raise Unreadable(error, has_run=False)
    raise error


def translate(error: BaseException) -> BaseException:
    """What a job ends with."""
    if isinstance(error, Unreadable):
        return error.error
    return error

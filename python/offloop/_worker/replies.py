"""The replies of workers, and how the parent reads them."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

from .. import _offloop
from . import remote_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from typing_extensions import Buffer

RESULT = 0
"""The body is the result."""
RAISED = 1
"""The call raised, or its result could not be pickled: the body is the exception."""
UNREADABLE = 2
"""The call could not be unpickled: the body is the exception."""
REFUSED = 3
"""The initializer failed: the body is the reason, in UTF-8."""
LOG = 4
"""Sent before the reply: the body is a log record."""


class Unreadable(Exception):
    """A call or a result could not be unpickled where it arrived; `error` is the exception.

    The job ends with that exception. A pool with `on_crash="break"` treats it as a crash, as the standard pool does.
    `has_run` is true if the function was called.
    """

    def __init__(self, error: BaseException, has_run: bool) -> None:
        super().__init__(error, has_run)
        self.error = error
        self.has_run = has_run
        self.job_name = ""
        """The function, in a pool that breaks because of this. Set by the engine's binding."""


def open_reply(code: int, body: Buffer) -> Any:
    """Raises the exception in a reply without a result. Called by the engine's binding."""
    error: BaseException
    try:
        error = remote_errors.unpack(bytes(body))
        if code == UNREADABLE:
            error = Unreadable(error, has_run=False)
    except BaseException as why:
        error = unreadable_result(why)
    try:
        raise error
    finally:
        # The traceback of the exception holds this frame, which must hold neither the exception nor the reply's memory.
        del error, body


def unreadable_result(why: BaseException) -> Unreadable:
    """Returns the exception of a reply that could not be unpickled. Called by the engine's binding."""
    return Unreadable(remote_errors.without_own_frames(why), has_run=True)


def open_data(code: int, body: bytes, buffers: Sequence[bytes]) -> Any:
    """Does the same for a pool with `results="data"`, whose workers are not trusted: unpickles nothing."""
    error: BaseException
    try:
        if code == RESULT:
            return _offloop.decode_data(body, buffers)
        error = remote_errors.unpack_data(body)
        if code == UNREADABLE:
            error = Unreadable(error, has_run=False)
    except ValueError as why:
        error = Unreadable(remote_errors.without_own_frames(why), has_run=True)
    try:
        raise error
    finally:
        del error, body, buffers


def reason(body: bytes) -> str:
    """Returns the exception in a reply as a text. Called by the engine's binding, in the worker."""
    error = remote_errors.unpack_data(body)
    return f"{error.type_name}: {error.text}"


def translate(error: BaseException) -> BaseException:
    """Returns the exception that a job ends with."""
    if isinstance(error, Unreadable):
        return error.error
    return error

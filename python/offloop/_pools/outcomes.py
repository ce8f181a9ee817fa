"""The outcomes of jobs, as the code that awaits or iterates may see them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from .._errors import CancelledError

CONTROL_FLOW = StopIteration, StopAsyncIteration, asyncio.CancelledError
"""The exceptions that would mean something else where a result is awaited or iterated over: see `as_error`."""


def as_error(error: BaseException, raiser: str = "the job") -> BaseException:
    """Returns an exception of a job as it may leave an iterator or an awaitable, where it means an error.

    StopIteration and StopAsyncIteration would end the loop over the results as if there were no more, so they become a
    RuntimeError, as in generators (PEP 479). asyncio.CancelledError would cancel the task that awaits the job, although
    nobody has cancelled it, so it becomes a `concurrent.futures.CancelledError`, which is an ordinary exception. The text
    says that `raiser` has raised it.
    """
    if not isinstance(error, CONTROL_FLOW):
        return error
    is_cancelled = isinstance(error, asyncio.CancelledError)
    name = "asyncio.CancelledError" if is_cancelled else type(error).__name__
    wrapped = (CancelledError if is_cancelled else RuntimeError)(f"{raiser} raised {name}")
    wrapped.__cause__ = error
    return wrapped


class Translator(Protocol):
    """Turns what the engine reports of a job into the exception that the pool's users get."""

    def raised(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has raised `error`, or whose result could not be read."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has no result, for the engine's reason `error`."""
        raise NotImplementedError


class Unchanged:
    """Gives the users of an executor the exceptions of its jobs as they are."""

    def raised(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has raised `error`."""
        return error

    def failed(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has no result."""
        return error

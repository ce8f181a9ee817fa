"""The way of results to asyncio: one mailbox per event loop, one wake-up for many results."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .._errors import CancelledError
from .._offloop import Job, Mailbox

T = TypeVar("T")


class JobFuture(asyncio.Future[T], Generic[T]):
    """What `pool.run` returns: await it. Cancelling it, or the task that awaits it, cancels the job."""

    _job: Job | None = None
    _translate: Callable[[BaseException], BaseException] | None = None
    """What an error means to the job's pool."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancels the job: queued, it never runs; running in a process, it is killed; running in a thread, its token
        turns. Does not block."""
        cancelled = super().cancel(msg)
        if cancelled and self._job is not None:
            self._job.cancel()
        return cancelled

    def _arrive(self, value: T) -> None:
        if not self.done():
            self.set_result(value)

    def _fail(self, error: BaseException) -> None:
        if self._translate is not None:
            error = self._translate(error)
        if self.done():
            return
        if isinstance(error, CancelledError):
            super().cancel(str(error))
        elif isinstance(error, StopIteration):
            # A future does not take it, as it would end the generator that awaits.
            wrapped = RuntimeError("the job raised StopIteration")
            wrapped.__cause__ = error
            self.set_exception(wrapped)
        else:
            self.set_exception(error)


_mailboxes: dict[int, tuple[weakref.ref[asyncio.AbstractEventLoop], Mailbox]] = {}


def mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """The loop's mailbox; made, and watched by the loop, at the first call."""
    known = _mailboxes.get(id(loop))
    if known is not None and known[0]() is loop:
        return known[1]
    key = id(loop)
    mailbox = Mailbox()
    loop.add_reader(mailbox.fileno(), mailbox.deliver)
    _mailboxes[key] = (weakref.ref(loop, lambda _: _mailboxes.pop(key, None)), mailbox)
    return mailbox

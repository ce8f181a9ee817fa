"""The way of results to asyncio: one mailbox for each event loop, and one wake-up for many results."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .._errors import CancelledError
from .._offloop import Job, Mailbox
from .outcomes import Translator, as_error

__all__ = ["JobFuture"]

T = TypeVar("T")


class JobFuture(asyncio.Future[T], Generic[T]):
    """The future that `pool.run` returns: await it. Cancelling it, or the task that awaits it, cancels the job.

    The binding ends it with a value by `set_result`, as `_arrive` does, and calls `_raise` or `_fail` with an exception.
    """

    # A constructor of its own would take a large part of the time of a short job. So there is none, and they may be unset.
    __slots__ = ("_job", "_room", "_translator")

    _job: Job
    _translator: Translator | None
    _room: asyncio.Event
    """Is set when the job has got room in the queue or has ended. Made by `accepted` if the job waits for room."""

    async def accepted(self) -> None:
        """Waits until the job has room in the pool's queue or has ended. For a pool with `on_full="wait"`: a task that
        awaits this before it submits the next job never has more than one job beyond the queue's capacity.

        Cancelling this wait does not cancel the job.
        """
        room: asyncio.Event | None = getattr(self, "_room", None)
        if room is None:
            job: Job | None = getattr(self, "_job", None)
            if self.done() or job is None or job.state != "waiting":
                return
            self._room = room = asyncio.Event()
            self.add_done_callback(lambda _: self._accept())
        await room.wait()

    def _accept(self) -> None:
        room: asyncio.Event | None = getattr(self, "_room", None)
        if room is not None:
            room.set()

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancels the job. A queued job never runs; one that runs in a process is killed; one that runs in a thread
        is asked to stop. Does not block."""
        cancelled = super().cancel(msg)
        job: Job | None = getattr(self, "_job", None)
        if cancelled and job is not None:
            job.cancel()
        return cancelled

    def _arrive(self, value: T) -> None:
        if not self.done():
            self.set_result(value)

    def _raise(self, error: BaseException) -> None:
        translator: Translator | None = getattr(self, "_translator", None)
        if translator is not None:
            error = translator.raised(error)
        if not self.done():
            self.set_exception(as_error(error))

    def _fail(self, error: BaseException) -> None:
        translator: Translator | None = getattr(self, "_translator", None)
        if translator is not None:
            error = translator.failed(error)
        if self.done():
            return
        if isinstance(error, CancelledError):
            super().cancel(str(error))
        else:
            self.set_exception(error)


def watch_descriptor(
    loop: asyncio.AbstractEventLoop, descriptor: int, callback: Callable[..., object], *args: Any
) -> None:
    """Makes the loop call `callback(*args)` when the descriptor becomes readable, in an empty context.

    A loop keeps the context in which a reader was added. That of the caller, whose turn it happens to be, would be kept
    with all its values for as long as the loop lives.
    """
    contextvars.Context().run(loop.add_reader, descriptor, callback, *args)


_mailboxes: dict[int, tuple[weakref.ref[asyncio.AbstractEventLoop], Mailbox]] = {}


def mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """Returns the loop's mailbox. The first call makes it, and the loop watches it from then on."""
    known = _mailboxes.get(id(loop))
    if known is not None and known[0]() is loop:
        return known[1]
    key = id(loop)
    mailbox = Mailbox()
    watch_descriptor(loop, mailbox.fileno(), mailbox.deliver)
    _mailboxes[key] = (weakref.ref(loop, lambda _: _mailboxes.pop(key, None)), mailbox)
    return mailbox

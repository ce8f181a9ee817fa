"""The event loop that takes the answers of a pool's workers."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import final

from .. import _offloop
from .._offloop import Mailbox
from .loop import mailbox_of, watch_descriptor


@final
class Listening:
    """Makes an event loop take the answers of a pool's workers itself, which saves the way through another thread. That
    thread takes those that the loop has no time for.

    The first loop that waits for a job does so until it is closed or the pool has ended.
    """

    def __init__(self, engine: _offloop.ProcessPool) -> None:
        self._engine = engine
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._stopper: weakref.finalize[..., Listening] | None = None

    def mailbox_on(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """Returns the mailbox of a loop, which listens from now on unless another one does. Called on the loop, by the
        engine's binding for a job that is awaited and by futures."""
        mailbox = mailbox_of(loop)
        known = None if self._loop is None else self._loop()
        if known is None or known.is_closed():
            if self._stopper is not None:
                self._stopper.detach()
            listener = weakref.ref(loop)
            descriptor = self._engine.listen()
            watch_descriptor(loop, descriptor, self._engine.take_answers, mailbox)
            self._loop = listener
            self._stopper = weakref.finalize(self, _remove_reader, listener, descriptor)
            self._stopper.atexit = False
            self._engine.set_listener(listener, mailbox)
        return mailbox

    def stop(self) -> None:
        """Ends it. Can be called on any thread."""
        if self._stopper is not None:
            self._stopper()


def _remove_reader(listener: weakref.ref[asyncio.AbstractEventLoop], descriptor: int) -> None:
    loop = listener()
    if loop is not None and not loop.is_closed():
        with contextlib.suppress(RuntimeError):  # the loop is being closed
            loop.call_soon_threadsafe(loop.remove_reader, descriptor)

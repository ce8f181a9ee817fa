"""The delivery of messages: at least once, by the blocking connectors, with growing pauses between attempts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from offloop import request_id

from .answers import as_failure
from .calls import Calls
from .places import Switch
from .store import Database, Message, Store
from .systems import FunctionFailed, SystemDown

R = TypeVar("R")

AT_ONCE = 8
"""The number of messages that are delivered at a time."""
TIMEOUT = 65.0
"""The seconds that a delivery may take."""
LOOK_EVERY = 5.0
"""The seconds after which it looks for due messages, whatever it knows."""

logger = logging.getLogger("mercuriy.delivery")


class Delivery:
    def __init__(self, store: Store, switch: Switch, calls: Calls) -> None:
        self._store = store
        self._switch = switch
        self._calls = calls
        self._changed = asyncio.Event()
        """Set when a message may be due earlier than expected, or there is room for another."""
        self._running: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def start(self) -> None:
        if count := await self.ask(Database.hand_back):
            logger.info(
                "messages whose delivery was cut off are delivered again", extra={"fields": {"count": count}}
            )
        self._task = asyncio.create_task(self._deliver())

    async def stop(self, patience: float) -> None:
        """Lets deliveries that have begun end for so many seconds, then hands the others back."""
        self._is_stopping = True
        if self._task is not None:
            self._changed.set()
            await self._task
        if self._running:
            await asyncio.wait(self._running, timeout=patience)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if count := await self.ask(Database.hand_back):
            logger.info("messages are handed back to the next start", extra={"fields": {"count": count}})

    async def accept(self, message: Message) -> None:
        """Returns when the message is on the disk."""
        await self.ask(Database.accept, message)
        self._changed.set()

    async def ask(self, method: Callable[..., R], *args: Any) -> R:
        """Calls a method of the database, where blocking work runs."""
        with self._switch.use() as place:
            return await place.wait(self._store, method, *args)

    async def _deliver(self) -> None:
        while not self._is_stopping:
            self._changed.clear()
            pause = LOOK_EVERY
            try:
                if room := AT_ONCE - len(self._running):
                    for message in await self.ask(Database.take_due, room):
                        task = asyncio.create_task(self._attempt(message))
                        self._running.add(task)
                        task.add_done_callback(self._has_ended)
                if len(self._running) < AT_ONCE:
                    due = await self.ask(Database.next_due)
                    if due is not None:
                        pause = min(pause, max(0.0, due - time.time()))
            except Exception:
                logger.exception("the messages cannot be read: this is tried again")
                pause = 1.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()

    async def _attempt(self, message: Message) -> None:
        request_id.set(message.request or None)
        try:
            async with asyncio.timeout(TIMEOUT):
                called = await self._calls.call(message.system, message.function, message.args, message.id)
        except FunctionFailed as error:
            await self._note(Database.failed, message.id, str(error))
        except Exception as error:
            if not isinstance(error, SystemDown) and as_failure(error) is None:
                logger.exception("a delivery has failed for an unknown reason")
            await self._note(Database.try_again, message, str(error) or type(error).__name__)
        else:
            await self._note(Database.delivered, message.id, called.result)

    async def _note(self, method: Callable[..., None], *args: Any) -> None:
        """Writes the outcome of an attempt. It must not be lost, or the message would be delivered again
        without need.
        """
        for pause in (0.1, 0.5, 2.0):
            try:
                return await self.ask(method, *args)
            except Exception:
                logger.exception("the outcome of a delivery cannot be written: this is tried again")
                await asyncio.sleep(pause)
        await self.ask(method, *args)

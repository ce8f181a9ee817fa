"""The places where blocking work can run. Each is one answer to that question; the service uses one at a time.

A place runs two kinds of work. `wait` calls something that blocks, with a connection that its worker keeps.
`compute` and `stream` call something that needs a core.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

R = TypeVar("R")

logger = logging.getLogger("mercuriy.places")


class Resource(Protocol):
    """The other end of the connection of jobs that wait: a system, the messages' database, the files."""

    @property
    def name(self) -> str: ...
    @property
    def workers(self) -> int:
        """The number of connections, and so of calls at a time."""
        ...

    def open(self) -> Any:
        """Opens a connection. Blocks. It has the methods `cancel` and `close`, and the property `is_broken`."""
        ...


class Place(Protocol):
    """A place where blocking work runs."""

    name: str

    async def wait(self, resource: Resource, fn: Callable[..., R], *args: Any) -> R:
        """Calls `fn(connection, *args)`, with a connection to the resource."""
        ...

    async def compute(self, fn: Callable[..., R], *args: Any) -> R:
        """Calls `fn(*args)`, which needs a core."""
        ...

    def stream(self, fn: Callable[..., Iterable[R]], *args: Any) -> AsyncIterator[R]:
        """Iterates over `fn(*args)`, which needs a core."""
        ...

    async def warm_up(self) -> None:
        """Makes the first job as quick as the others."""
        ...

    async def aclose(self) -> None:
        """Ends the workers, when they have done what they were given."""
        ...


class Switch:
    """The place of the service, which can be exchanged: work that has begun ends where it began."""

    def __init__(self, places: dict[str, Callable[[], Place]], name: str) -> None:
        self._places = places
        self._current = places[name]()
        self._users: dict[Place, int] = {}
        """The number of jobs of each place."""
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        return list(self._places)

    @property
    def name(self) -> str:
        return self._current.name

    @contextmanager
    def use(self) -> Iterator[Place]:
        """Gives the place for a job, which goes on until the end of the block."""
        place = self._current
        self._users[place] = self._users.get(place, 0) + 1
        try:
            yield place
        finally:
            self._users[place] -= 1
            self._retire(place)

    async def set(self, name: str) -> str:
        """Sends new work to another place. Returns the name of the one before."""
        before = self._current
        if name != before.name:
            place = self._places[name]()
            await place.warm_up()
            # Another request may have been quicker.
            before, self._current = self._current, place
            logger.info("blocking work goes to: %s", name, extra={"fields": {"was": before.name}})
            self._retire(before)
        return before.name

    async def warm_up(self) -> None:
        await self._current.warm_up()

    async def aclose(self) -> None:
        """Ends all places."""
        for task in list(self._retiring):
            await task
        await self._current.aclose()

    def _retire(self, place: Place) -> None:
        """Ends a place that is not used any more."""
        if place is self._current or self._users.get(place):
            return
        self._users.pop(place, None)
        task = asyncio.get_running_loop().create_task(place.aclose())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

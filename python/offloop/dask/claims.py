"""The part of `DaskExecutor` on the scheduler: which worker may start a call, and how often.

Dask runs a call again when it loses the worker, whatever `retries` says: it takes calls for pure. So a worker claims a
call's key here before each start, and a claim beyond the call's starts is refused.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from .distributed import plugins

PREFIX = "offloop-"
"""The beginning of the keys of calls."""

Verdict = Literal["granted", "used", "withdrawn"]
"""The answer to a claim: the call may be started; its starts are used up; nobody waits for it any more."""


class Claims(plugins.SchedulerPlugin):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
    """The claims of all calls of `DaskExecutor`s that the scheduler knows. Runs on the scheduler's event loop."""

    name = "offloop-claims-1"
    idempotent = True

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._starts: dict[str, int] = {}
        """The number of starts of each call that has begun. Removed when the scheduler forgets the call."""
        self._withdrawn: set[str] = set()
        """The calls that must not begin any more."""

    async def start(self, scheduler: Any) -> None:
        """Begins to answer. Called by the scheduler when it gets this plugin."""
        self._scheduler = scheduler
        scheduler.handlers["offloop_claim"] = self.claim
        scheduler.handlers["offloop_withdraw"] = self.withdraw

    def claim(self, key: str, worker: str, starts: int, client: str, topic: str) -> Verdict:
        """Decides whether `worker` may start a call that has that many starts. Tells its client of the first one."""
        task = self._scheduler.tasks.get(key)
        if task is None or key in self._withdrawn:
            return "withdrawn"
        holder = task.processing_on
        if holder is None or holder.address != worker:
            return "withdrawn"  # it was given to another worker, which claims it itself
        begun = self._starts.get(key, 0)
        if begun >= starts:
            return "used"
        self._starts[key] = begun = begun + 1
        # A task is ended rather than run again once its workers have died more often than the scheduler allows. The number
        # of these deaths is set so that the next one is the last, and only for this task: other programs' are not concerned.
        allowed = self._scheduler.allowed_failures
        task.suspicious = allowed if begun >= starts else allowed - 1
        # As the scheduler's own events, but not kept there.
        message = {"op": "event", "topic": topic, "event": (time.time(), key)}
        self._scheduler.client_send(client, message)
        return "granted"

    def withdraw(self, key: str) -> bool:
        """Makes a call that has not begun never begin. Returns whether it has not."""
        if key in self._starts:
            return False
        if key in self._scheduler.tasks:
            self._withdrawn.add(key)
        return True

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Follows the calls' states. Called by the scheduler for each task."""
        if not isinstance(key, str) or not key.startswith(PREFIX):
            return
        if finish == "forgotten":
            self._starts.pop(key, None)
            self._withdrawn.discard(key)
        elif finish == "processing" and key not in self._starts:
            # It waited beside a call that has killed its worker. That says nothing about it.
            self._scheduler.tasks[key].suspicious = 0

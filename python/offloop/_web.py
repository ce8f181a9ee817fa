"""What the adapters to web frameworks share: answers to errors of jobs, the metrics' page, the end of the pools."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self, cast, final

from ._errors import JobShed, QueueFull, QueueTimeout, RunTimeout
from ._metrics import prometheus
from ._pools import default
from ._pools.executor import Pool

STATUSES: Mapping[type[BaseException], int] = MappingProxyType(
    {QueueFull: 503, JobShed: 503, QueueTimeout: 504, RunTimeout: 504}
)
"""The status codes of responses to requests that a job's error has ended."""

CLIENT_CLOSED_REQUEST = 499
"""The status that nginx logs for a request whose client did not wait. No client sees it, but middlewares do."""

WATCH_AFTER = 0.05
"""The seconds after which a handler that still runs is watched. Most have ended by then, and cost nothing."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the metrics."""

logger = logging.getLogger("offloop.web")


class Answer(NamedTuple):
    """The response to a request that a job's error has ended. Its text is the body."""

    status: int
    headers: dict[str, str]
    text: str


class ErrorAnswers:
    """Decides which errors are answered, and how."""

    def __init__(
        self, statuses: Mapping[type[BaseException], int], retry_after: int, debug: bool
    ) -> None:
        self._statuses = dict(statuses)
        self._retry_after = retry_after
        self._debug = debug

    def answer(self, error: BaseException, request: str) -> Answer | None:
        """Returns the response to `error`, and logs it; None if it is not the error of a job that has a status.

        `request` names the request in the log.
        """
        status = self._status_of(error)
        if status is None:
            return None
        logger.warning(
            "%d for %s: %s: %s",
            status,
            request,
            type(error).__name__,
            error,
            exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
        )
        headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["retry-after"] = str(self._retry_after)
        try:
            text = HTTPStatus(status).phrase
        except ValueError:  # the user's own
            text = "Error"
        if self._debug:
            text = f"{text}\n{type(error).__name__}: {error}"
        return Answer(status, headers, text + "\n")

    def _status_of(self, error: BaseException) -> int | None:
        if isinstance(error, BaseExceptionGroup):
            # A group has a status if nothing in it needs another treatment.
            group = cast("BaseExceptionGroup[BaseException]", error)
            statuses = [self._status_of(inner) for inner in group.exceptions]
            return None if None in statuses else statuses[0]
        for kind in type(error).__mro__:
            if (status := self._statuses.get(kind)) is not None:
                return status
        return None


@final
class HandlerCancellation:
    """Cancels the task that enters the `with` block, which is a handler's, because its client has disconnected.

    The cancellation ends with the block, as that of `asyncio.timeout` does, unless something else cancels the task as
    well.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        self._task = task
        self._before = task.cancelling()
        """The number of cancel requests that the task had before."""
        self.is_requested = False
        """Whether `request` has cancelled the task."""

    def request(self, handled: str) -> None:
        """Cancels the task, unless that was done. `handled` names the request that it handles, for the log."""
        # A second cancellation would interrupt the handler's clean-up.
        if self._task.cancelling() == self._before and self._task.cancel("the client has disconnected"):
            logger.debug("cancelled %s: its client has disconnected", handled)
            self.is_requested = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not self.is_requested or self._task.uncancel() > self._before:
            return False
        return kind is not None and issubclass(kind, asyncio.CancelledError)


def metrics_page() -> bytes:
    """Returns the metrics of all pools of this process, as Prometheus reads them."""
    return prometheus().encode()


async def end_pools(pools: Sequence[Pool], drain: float | None) -> None:
    """Shuts down `pools` and the shared pools, whose jobs have `drain` seconds (None: forever) to end.

    After that they are cancelled; at once, if this coroutine is cancelled. The shared pools are made anew when they are
    needed again.
    """
    reports = await asyncio.gather(*(pool.aclose(drain) for pool in (*default.take(), *pools)))
    cancelled = sum(report.cancelled + report.killed for report in reports)
    stuck = [f"{job.name} ({job.worker})" for report in reports for job in report.stuck]
    if cancelled or stuck:
        logger.warning(
            "the service ends after %s s (drain): cancelled or killed jobs: %d; jobs in threads that do not stop: %s",
            drain,
            cancelled,
            ", ".join(stuck) or "none",
        )

"""Answers: JSON, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import offloop
from offloop import request_id
from starlette.responses import Response, StreamingResponse

from .walk import BadDocument


class Failure(Exception):
    """An error as the client gets it."""

    def __init__(
        self, status: int, code: str, message: str, *, offset: int | None = None, retry_after: int = 1
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.offset = offset
        self.retry_after = retry_after


class WorkerLost(Exception):
    """The process that did the work has died."""


def json_bytes(value: Any) -> bytes:
    """Returns a value as JSON of ASCII characters, so that half of a surrogate pair in a text does no harm."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, headers, "application/json")


class HeldStream(StreamingResponse):
    """A response that is sent as it is made, and what has to be held for that long."""

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        held: AsyncExitStack,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(parts, headers=headers, media_type=media_type)
        self._held = held

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        # Not in the generator of the parts: if the client goes early, that never begins.
        async with self._held:
            await super().__call__(scope, receive, send)


def error_answer(failure: Failure, headers: Mapping[str, str] | None = None) -> Response:
    all_headers = dict(headers or {})
    if failure.status == 503:
        all_headers["retry-after"] = str(failure.retry_after)
    if failure.status in (408, 413):
        # The rest of the body is not read.
        all_headers["connection"] = "close"
    return answer(error_body(failure), failure.status, all_headers)


def error_body(failure: Failure) -> dict[str, Any]:
    error: dict[str, Any] = {
        "code": failure.code,
        "message": failure.message,
        "request": request_id.get(),
    }
    if failure.offset is not None:
        error["offset"] = failure.offset
    return {"error": error}


def as_failure(error: Exception) -> Failure | None:
    """Returns what the client gets for an error of the work; None if it is a fault of the service."""
    match error:
        case Failure():
            return error
        case BadDocument():
            return Failure(400, error.code, error.message, offset=error.offset)
        case offloop.QueueFull() | offloop.JobShed():
            return Failure(503, "overloaded", "there is too much work: try again later, more slowly")
        case (
            WorkerLost()
            | offloop.WorkerDied()
            | offloop.WorkerLost()
            | offloop.WorkerStartError()
            | offloop.PoolBroken()
        ):
            return Failure(503, "worker_died", "the process that did the work has died: try again")
        case offloop.ClusterUnreachable() | offloop.NoSuchTask():
            return Failure(503, "system_down", "no machine can do the work now: try again", retry_after=2)
        case offloop.PoolClosed():
            return Failure(503, "stopping", "the service is stopping: try again", retry_after=2)
        case TimeoutError():
            return Failure(
                504, "timeout", "the work took too long and was ended: give it more time by X-Timeout-Ms"
            )
        case _:
            return None

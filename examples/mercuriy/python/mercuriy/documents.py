"""POST /documents: walks a JSON document."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .answers import Failure, HeldStream, answer, as_failure, error_body, json_bytes
from .body import Document, SharedBody
from .front import internal, logger
from .places import Place
from .reading import bad_arguments, chunks
from .service import Service
from .walk import Result
from .walk_job import walk_document, walk_document_in_steps

MAX_DOCUMENT = 64 << 20
AT_ONCE = 16
"""The number of documents that are received or walked at a time. Each needs memory, so further ones are
refused.
"""
TIMEOUT = 60_000
"""The milliseconds that a walk may take, if the client does not say."""


class Documents:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._running = 0

    async def post(self, request: Request) -> Response:
        find = request.query_params.get("find")
        if find is not None and len(find) > 1024:
            raise bad_arguments("`find` may have 1024 characters")
        timeout = self._service.timeout_of(request, TIMEOUT)
        self._service.check_open()
        if self._running >= AT_ONCE:
            raise Failure(503, "overloaded", f"{AT_ONCE} documents are being walked already: try again later")
        async with AsyncExitStack() as stack:
            self._running += 1
            stack.callback(self._done)
            body = stack.enter_context(SharedBody())
            async for chunk in chunks(request, MAX_DOCUMENT, self._service.settings.body_timeout):
                body.write(chunk)
            document = body.seal()
            place = stack.enter_context(self._service.switch.use())
            if "text/event-stream" not in request.headers.get("accept", ""):
                began = time.perf_counter()
                async with asyncio.timeout(timeout):
                    result = await place.compute(walk_document, document, find)
                return answer(_shown(result, began, place))
            # The body is needed for as long as the answer is sent.
            events = _events(place, document, find, timeout)
            return HeldStream(events, stack.pop_all(), "text/event-stream")

    def _done(self) -> None:
        self._running -= 1


async def _events(place: Place, document: Document, find: str | None, timeout: float) -> AsyncIterator[bytes]:
    """Yields the progress of a walk, and its end."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            async for step in place.stream(walk_document_in_steps, document, find):
                if isinstance(step, Result):
                    yield _event("result", _shown(step, began, place))
                else:
                    yield _event("progress", step._asdict())
    except Exception as error:
        # The status is sent already.
        failure = as_failure(error)
        if failure is None:
            logger.exception("a fault of the service")
            failure = internal()
        yield _event("error", error_body(failure))


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), json_bytes(data))


def _shown(result: Result, began: float, place: Place) -> dict[str, Any]:
    return {
        "bytes": result.bytes,
        "keys": result.keys,
        "values": result.values,
        "deepest": {"depth": result.depth, "path": result.path},
        "frequent": [{"key": key, "count": count} for key, count in result.frequent],
        "found": result.found,
        "seconds": round(time.perf_counter() - began, 6),
        "on": place.name,
    }

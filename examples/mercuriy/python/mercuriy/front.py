"""The steps around each request: its trace, its line in the log and in the audit log, its place
in the metrics.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from offloop import request_id
from starlette.requests import ClientDisconnect

from . import telemetry
from .answers import Failure, error_answer
from .audit import Audit
from .metrics import metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_GONE = 499
"""The status in the logs of a request whose client has not waited."""
QUIET = ("/health", "/metrics")
"""The paths without a line in the logs: they are asked often, and must not wait for a disk."""

logger = logging.getLogger("mercuriy.requests")


class Front:
    def __init__(self, app: App, audit: Audit, is_stopping: Callable[[], bool]) -> None:
        self._app = app
        self._audit = audit
        self._is_stopping = is_stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        began = time.perf_counter()
        status = 0
        is_complete = False

        async def send_and_note(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                is_complete = not message.get("more_body", False)
            await send(message)

        is_quiet = scope["path"] in QUIET
        try:
            if not is_quiet:
                await self._audit.room()
            with telemetry.span(f"{scope['method']} {scope['path']}", headers):
                await self._app(scope, receive, send_and_note)
        except (asyncio.CancelledError, ClientDisconnect) as error:
            if self._is_stopping() and not status:
                # The server has cut the request off: its time is over.
                await error_answer(stopping())(scope, receive, send_and_note)
                return
            status = CLIENT_GONE
            metrics.clients_gone += 1
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception:
            logger.exception("a fault of the service")
            if not status:
                await error_answer(internal())(scope, receive, send_and_note)
            elif not is_complete:
                # The server closes the connection, so that the client sees that something is missing.
                raise
        finally:
            seconds = round(time.perf_counter() - began, 6)
            # The first part of the path says which route it is, if the router has found one.
            route = "/" + scope["path"].split("/")[1] if "endpoint" in scope else "none"
            metrics.requests[route, status] += 1
            if not is_quiet:
                fields = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": seconds,
                }
                logger.info("answered", extra={"fields": fields})
                self._audit.add(request=request_id.get(), **fields)


def stopping() -> Failure:
    return Failure(503, "stopping", "the service is stopping: try again", retry_after=2)


def internal() -> Failure:
    return Failure(500, "internal", "a fault of the service: its log has the reason, under the request's id")

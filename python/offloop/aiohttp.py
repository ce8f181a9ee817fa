"""An adapter for aiohttp's server. It does for it what `offloop.asgi` does for ASGI applications.

    import offloop.aiohttp

    app = web.Application()
    offloop.aiohttp.setup(app)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, final

from aiohttp import web
from aiohttp.typedefs import Handler

from . import _web
from ._observe.mounted import MountedView, Page, Request
from ._pools.executor import Pool
from ._requests import HEADER, of_header, request_id
from ._web import STATUSES

__all__ = ["STATUSES", "setup"]

CHECK_EVERY = 0.1
"""The seconds between two looks at a client's connection. aiohttp has no public signal for its end."""


def setup(
    app: web.Application,
    *,
    cancel_on_disconnect: bool | Callable[[web.Request], bool] = True,
    statuses: Mapping[type[BaseException], int] = STATUSES,
    retry_after: int = 1,
    debug: bool = False,
    metrics_path: str | None = None,
    drain: float | None = 10.0,
    pools: Sequence[Pool] = (),
    request_ids: bool = True,
    observe_path: str | None = None,
    observe_token: str | None = None,
    observe_cancel: bool = False,
) -> None:
    """Adds a middleware, routes for the metrics and the live view, and the end of the pools to an application. Call it first.

    The options mean the same as for `offloop.asgi.OffloopMiddleware`. A handler is cancelled about 0.1 s after its
    client has disconnected, or at once if aiohttp does it (`handler_cancellation=True` of the runner). Handlers of
    WebSockets are not cancelled. The pools are shut down after all else that the application cleans up.
    """
    errors = _web.ErrorAnswers(statuses, retry_after, debug)
    has_begun = web.RequestKey("offloop_has_begun", bool)
    request_name = web.RequestKey("offloop_request_name", str)
    view = None if observe_path is None else MountedView(observe_path, observe_token, observe_cancel)

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request_ids:
            return await serve_named(request, handler)
        request[request_name] = name = of_header(_id_of(request))
        token = request_id.set(name)
        try:
            return await serve_named(request, handler)
        finally:
            request_id.reset(token)

    async def serve_named(request: web.Request, handler: Handler) -> web.StreamResponse:
        cancels = cancel_on_disconnect if view is None or not view.covers(request.path) else True
        if not (cancels if isinstance(cancels, bool) else cancels(request)) or _is_upgrade(request):
            return await handle(request, handler)
        with _web.HandlerCancellation() as cancellation, _DisconnectWatch(request, cancellation):
            return await handle(request, handler)
        # aiohttp insists on a response.
        return web.Response(status=_web.CLIENT_CLOSED_REQUEST)

    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:
            if has_begun in request or (answer := errors.answer(error, _name(request))) is None:
                raise
            return web.Response(text=answer.text, status=answer.status, headers=answer.headers)

    async def note_begin(request: web.Request, response: web.StreamResponse) -> None:
        request[has_begun] = True
        if (name := request.get(request_name)) is not None:
            response.headers.setdefault(HEADER, name)

    async def serve_metrics(request: web.Request) -> web.Response:
        headers = {"content-type": _web.METRICS_TYPE, "cache-control": "no-store"}
        return web.Response(body=_web.metrics_page(), headers=headers)

    async def serve_view(request: web.Request) -> web.StreamResponse:
        assert view is not None
        headers = [(name, value.encode("utf-8", "surrogateescape")) for name, value in request.headers.items()]
        # On a Unix socket it is a path.
        name: Any = None if request.transport is None else request.transport.get_extra_info("sockname")
        port: int | None = None if name is None or isinstance(name, str | bytes) else name[1]
        reply = await view.answer(
            Request(request.method, request.path, request.query_string, headers, request.remote, port)
        )
        if isinstance(reply, Page):
            return web.Response(status=reply.status, headers=dict(reply.headers), body=reply.body)
        response = web.StreamResponse(headers=dict(reply.headers))
        await response.prepare(request)
        async with aclosing(reply.events) as events:
            async for event in events:
                await response.write(event)
        return response

    async def begin(app: web.Application) -> None:
        if view is not None:
            view.open()

    async def end_pools(app: web.Application) -> None:
        await _web.end_pools(pools, drain)
        if view is not None:
            view.close()

    app.middlewares.append(serve)
    app.on_response_prepare.append(note_begin)
    app.on_startup.append(begin)
    app.on_cleanup.append(end_pools)
    if metrics_path is not None:
        app.router.add_get(metrics_path, serve_metrics)
    if observe_path is not None:
        app.router.add_route("*", observe_path, serve_view)
        app.router.add_route("*", f"{observe_path}/{{rest:.*}}", serve_view)


@final
class _DisconnectWatch:
    """Cancels a handler, in its `with` block, when the client of its request disconnects."""

    def __init__(self, request: web.Request, cancellation: _web.HandlerCancellation) -> None:
        self._request = request
        self._cancellation = cancellation
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(_web.WATCH_AFTER, self._look)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self._cancellation.request(_name(self._request))
        else:
            self._timer = self._loop.call_later(CHECK_EVERY, self._look)


def _is_upgrade(request: web.Request) -> bool:
    return "upgrade" in request.headers


def _id_of(request: web.Request) -> str | None:
    """Returns the id that the request brings; None if it brings none, or several."""
    values = request.headers.getall(HEADER, [])
    return values[0] if len(values) == 1 else None


def _name(request: web.Request) -> str:
    """Returns the name of a request, for the log."""
    return f"{request.method} {request.path!r}"

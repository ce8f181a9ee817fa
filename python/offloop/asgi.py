"""A middleware for ASGI applications: Starlette, FastAPI, Django, and all others, on any server that runs asyncio.

    from offloop.asgi import OffloopMiddleware

    app = OffloopMiddleware(app)

It depends on no framework.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, final

from . import _web
from ._observe.mounted import MountedView, Page, Request
from ._pools.executor import Pool
from ._requests import HEADER, of_header, request_id
from ._web import STATUSES

__all__ = ["STATUSES", "OffloopMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

READ_AHEAD = 64 * 1024
"""The bytes of a request's body that may be read before the application asks for them. The client's disconnect comes
after the body, so it is noticed only if the rest of the body is shorter."""

MESSAGE_COST = 1024
"""The bytes that each message counts for, besides its body. So messages without a body are limited as well."""


class OffloopMiddleware:
    """Cancels the jobs of clients that have gone, answers the errors of pools, and drains the pools at the end.

    It should be the outermost middleware: wrap the application in it, or add it last.

    - **Disconnects.** When the client of an HTTP request disconnects before the response is complete, the task of its
      handler is cancelled, and with it the jobs that it awaits: queued ones are removed, those in processes are
      killed, those in threads are asked to stop (`offloop.is_cancelled()`). Not cancelled are other tasks that the
      handler has created, what it awaits in `asyncio.shield`, background tasks (they run after the response), and
      functions that a framework runs in threads of its own. An application that waits in `receive` at that moment
      learns of the disconnect there, and is not cancelled. WebSockets are passed through. `cancel_on_disconnect` is
      whether this is done, for all requests or as a function of the scope.

    - **Errors.** An error that leaves the application before the response has begun is answered with its status in
      `statuses`, and logged as a warning by the logger `offloop.web`. By default these are 503 for `QueueFull` and
      `JobShed`, with a `Retry-After` of `retry_after` seconds, and 504 for `QueueTimeout` and `RunTimeout`. All
      others are raised. With `debug` the body contains the error's message. Exception handlers of the framework come
      first.

    - **Metrics.** With a `metrics_path`, such as "/metrics", GET requests for it are answered with the metrics of all
      pools of the process, for Prometheus.

    - **Requests.** While a request is handled, `offloop.request_id` has its id: that of its header `X-Request-ID`, if it
      has up to 64 letters, digits, dots, dashes and underscores, or a new one. The response gets the same header, unless
      the application has set it. With `request_ids=False` none of this is done.

    - **The live view.** With an `observe_path`, such as "/offloop", the page and the data of the live view are served
      there, for all processes of the service. Without an `observe_token`, only clients on loopback get them, and none that
      came through a proxy which says so (`X-Forwarded-For`). A proxy on the same machine that does not say so makes all its
      clients look like loopback: then set a token. With `observe_cancel` viewers may cancel jobs.

    - **Shutdown.** When the server has ended the application's lifespan, the shared pools and `pools` are shut down:
      their jobs have `drain` seconds (None: as long as they take) to end, then they are cancelled. A job in a thread
      that does not stop is abandoned. Applications without a lifespan get one. Choose `drain` so that it ends before
      the server or the system kills the process.
    """

    def __init__(
        self,
        app: App,
        *,
        cancel_on_disconnect: bool | Callable[[Scope], bool] = True,
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
        if metrics_path is not None and not metrics_path.startswith("/"):
            raise ValueError(f"metrics_path is {metrics_path!r}; it must begin with a slash")
        self.app = app
        self._cancel_on_disconnect = cancel_on_disconnect
        self._errors = _web.ErrorAnswers(statuses, retry_after, debug)
        self._metrics_path = metrics_path
        self._drain = drain
        self._pools = pools
        self._request_ids = request_ids
        self._view = None if observe_path is None else MountedView(observe_path, observe_token, observe_cancel)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" and self._metrics_path is not None and _path(scope) == self._metrics_path:
            await _serve_metrics(scope, send)
        elif kind == "http" and self._view is not None and self._view.covers(_path(scope)):
            await self._handle(self._serve_view, scope, receive, _Response(send), True)
        elif kind == "lifespan":
            await self._live(scope, receive, send)
        elif self._request_ids and kind in ("http", "websocket"):
            request = of_header(_header(scope, HEADER))
            token = request_id.set(request)
            try:
                await self._pass_on(scope, receive, send, request)
            finally:
                request_id.reset(token)
        else:
            await self._pass_on(scope, receive, send, None)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, request: str | None) -> None:
        """Passes a request on to the application. `request` is its id."""
        if self._view is not None:
            self._view.open()
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cancels = self._cancel_on_disconnect
        cancels = cancels if isinstance(cancels, bool) else cancels(scope)
        await self._handle(self.app, scope, receive, _Response(send, request), cancels)

    async def _handle(
        self, app: App, scope: Scope, receive: Receive, response: _Response, cancels: bool
    ) -> None:
        """Handles an HTTP request, of which `cancels` says whether its client's disconnect cancels it."""
        if not cancels:
            await self._answer_errors(app, scope, receive, response)
            return
        with _web.HandlerCancellation() as cancellation:
            with _DisconnectWatch(scope, receive, response, cancellation) as watch:
                await self._answer_errors(app, scope, watch.receive, response)
        if cancellation.is_requested and not response.has_begun:
            # Middlewares around this one may insist on a response.
            try:
                await _send_text(response.send, _web.CLIENT_CLOSED_REQUEST, {}, b"")
            except OSError:  # as the server should say that the client is gone
                pass

    async def _answer_errors(self, app: App, scope: Scope, receive: Receive, response: _Response) -> None:
        try:
            await app(scope, receive, response.send)
        except Exception as error:
            if response.has_begun:
                raise
            answer = self._errors.answer(error, _name(scope))
            if answer is None:
                raise
            await _send_text(response.send, answer.status, answer.headers, answer.text.encode())

    async def _serve_view(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application at the path of the live view."""
        assert self._view is not None
        client, server = scope.get("client"), scope.get("server")
        request = Request(
            scope["method"],
            _path(scope),
            scope.get("query_string", b"").decode("latin-1"),
            [(name.decode("latin-1"), value) for name, value in scope["headers"]],
            None if client is None else client[0],
            None if server is None else server[1],
        )
        reply = await self._view.answer(request)
        if isinstance(reply, Page):
            await _send(send, reply.status, reply.headers, reply.body)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(reply.headers)})
        async with aclosing(reply.events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the lifespan on, and ends the pools between the application's end and the server's."""
        has_received = is_ending = has_ended = False

        async def receive_and_note() -> Message:
            nonlocal has_received, is_ending
            has_received = True
            message = await receive()
            if message["type"] == "lifespan.startup" and self._view is not None:
                self._view.open()
            is_ending = message["type"] == "lifespan.shutdown"
            return message

        async def end_pools() -> None:
            nonlocal has_ended
            if not has_ended:
                has_ended = True
                # A server that cancels the lifespan, without a shutdown, waits for nothing.
                await _web.end_pools(self._pools, self._drain if is_ending else 0.0)
                if self._view is not None:
                    self._view.close()

        async def end_pools_and_send(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await end_pools()
            await send(message)

        try:
            try:
                await self.app(scope, receive_and_note, end_pools_and_send)
            except Exception:
                if is_ending:
                    await end_pools()
                if has_received:
                    raise
                _web.logger.debug("the application has no lifespan", exc_info=True)
            if not has_received:
                while (await receive_and_note())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
                await end_pools_and_send({"type": "lifespan.shutdown.complete"})
        except asyncio.CancelledError:
            await end_pools()
            raise


@final
class _Response:
    """The response to a request, as far as it was sent. It has the request's id, if there is one."""

    def __init__(self, send: Send, request: str | None = None) -> None:
        self._send = send
        self._request = request
        self.has_begun = False
        self.is_complete = False

    async def send(self, message: Message) -> None:
        """Sends a message of the application."""
        kind = message["type"]
        if kind == "http.response.start":
            self.has_begun = True
            if self._request is not None:
                message = _with_header(message, HEADER, self._request)
        elif kind == "http.response.pathsend":
            self.is_complete = True
        elif kind in ("http.response.body", "http.response.zerocopysend"):
            # Before it is sent: the server may report the end of the request, as a disconnect, before `send` returns.
            self.is_complete = not message.get("more_body", False)
        await self._send(message)


@final
class _DisconnectWatch:
    """Cancels a handler, in its `with` block, when the client of its request disconnects.

    Servers report that by `receive`, which belongs to the application. At first the application calls it as it likes.
    A handler that takes longer is watched: from then on only the watch calls it, and keeps messages for the
    application. So there is one call at a time, and each message reaches the application, in order.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        response: _Response,
        cancellation: _web.HandlerCancellation,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._cancellation = cancellation
        self._calls = 0
        """The number of the application's own calls of the server's `receive` that have not returned."""
        self._has_called = False
        """Whether the application has called `receive`."""
        self._is_due = False
        """Whether the watch should begin."""
        self._reader: asyncio.Task[None] | None = None
        """Calls the server's `receive`, since the watch has begun."""
        self._messages: deque[Message] = deque()
        """What the reader has received, and the application has not."""
        self._size = 0
        """The cost of these messages."""
        self._has_room = asyncio.Event()
        """Set when the application has taken a message."""
        self._waiters: list[asyncio.Future[None]] = []
        """The calls of the application that wait for the reader."""
        self._end: Callable[[], Message] | None = None
        """Gives the result of all calls of `receive` after the messages: the disconnect, or the reader's exception."""

    def __enter__(self) -> _DisconnectWatch:
        self._timer = self._loop.call_later(_web.WATCH_AFTER, self._set_due)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._is_due = False
        if self._reader is not None:
            self._reader.cancel()
            self._end = self._end or _disconnect
            self._wake()

    async def receive(self) -> Message:
        """Returns the next message to the application."""
        self._has_called = True
        if self._reader is None:
            self._calls += 1
            try:
                return await self._receive()
            finally:
                self._calls -= 1
                self._begin_if_possible()
        while not self._messages:
            if self._end is not None:
                return self._end()
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        message = self._messages.popleft()
        self._size -= _cost(message)
        self._has_room.set()
        return message

    def _set_due(self) -> None:
        self._is_due = True
        self._begin_if_possible()

    def _begin_if_possible(self) -> None:
        if not self._is_due or self._calls or self._reader is not None:
            return
        # The server asks such a client for the body when `receive` is called, which the application may not want.
        if not self._has_called and any(name == b"expect" for name, _ in self._scope["headers"]):
            return
        self._reader = self._loop.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (message := await self._receive())["type"] != "http.disconnect":
                self._messages.append(message)
                self._size += _cost(message)
                self._wake()
                while self._size >= READ_AHEAD:
                    self._has_room.clear()
                    await self._has_room.wait()
        except Exception as error:
            self._end = _raiser(error)
            self._wake()
            return
        self._end = _disconnect
        if self._wake() or self._response.is_complete:
            return
        self._cancellation.request(_name(self._scope))

    def _wake(self) -> bool:
        """Wakes the application's calls of `receive`. Returns whether there are any."""
        waiting = [waiter for waiter in self._waiters if not waiter.done()]
        for waiter in waiting:
            waiter.set_result(None)
        return bool(waiting)


def _cost(message: Message) -> int:
    return len(message.get("body", b"")) + MESSAGE_COST


def _disconnect() -> Message:
    return {"type": "http.disconnect"}


def _raiser(error: Exception) -> Callable[[], Message]:
    def throw() -> Message:
        raise error

    return throw


def _name(scope: Scope) -> str:
    """Returns the name of a request, for the log."""
    return f"{scope['method']} {scope['path']!r}"


def _path(scope: Scope) -> str:
    """Returns the path of a request, relative to the path under which the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def _serve_metrics(scope: Scope, send: Send) -> None:
    if scope["method"] in ("GET", "HEAD"):
        headers = {"content-type": _web.METRICS_TYPE, "cache-control": "no-store"}
        await _send_text(send, 200, headers, _web.metrics_page())
    else:
        await _send_text(send, 405, {"allow": "GET, HEAD"}, b"")


def _header(scope: Scope, name: str) -> str | None:
    """Returns the value of a request's header, whose name is in lower case; None if there is none, or several."""
    wanted = name.encode()
    values = [value for found, value in scope.get("headers", ()) if found.lower() == wanted]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _with_header(message: Message, name: str, value: str) -> Message:
    """Returns the start of a response with this header, unless it has it."""
    headers = list(message.get("headers", ()))
    if any(found.lower() == name.encode() for found, _ in headers):
        return message
    return {**message, "headers": [*headers, (name.encode(), value.encode())]}


async def _send_text(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Sends a whole response."""
    await _send(send, status, headers.items(), body)


async def _send(send: Send, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    """Sends a whole response. Its length need not be among the headers."""
    sent = [header for header in _encoded(headers) if header[0].lower() != b"content-length"]
    sent.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]

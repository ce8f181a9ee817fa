"""The application: routes, and what is around them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import offloop
from offloop.asgi import OffloopMiddleware
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .answers import Failure, WorkerLost, as_failure, error_answer
from .documents import Documents
from .files import Files
from .front import App, Front, internal
from .functions import Functions
from .messages import Messages
from .places.pools import DRAIN
from .service import Service
from .walk import BadDocument


def make_app(service: Service) -> App:
    """Returns the application. The service starts and stops with it."""
    documents, functions = Documents(service), Functions(service)
    files, messages = Files(service), Messages(service)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.stop()

    routes = [
        Route("/documents", documents.post, methods=["POST"]),
        Route("/functions/{system}/{name}", functions.post, methods=["POST"]),
        # With slashes, so that a name with some is refused as one.
        Route("/files/{name:path}", files.get, methods=["GET"]),
        Route("/messages", messages.post_or_count, methods=["POST", "GET"]),
        Route("/messages/{id}", messages.get, methods=["GET"]),
        Route("/health", service.health, methods=["GET"]),
        Route("/status", service.status, methods=["GET"]),
        Route("/mode", service.set_mode, methods=["POST"]),
        Route("/metrics", service.show_metrics, methods=["GET"]),
        Route("/openapi.json", service.openapi, methods=["GET"]),
        Route("/", service.page, methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            HTTPException: _http_error,
            **dict.fromkeys((Failure, BadDocument, WorkerLost, offloop.OffloopError, TimeoutError), _known),
            Exception: _unknown,
        },
    )
    app.router.redirect_slashes = False
    # Outermost: it cancels a handler whose client has gone, and with it the jobs that the handler awaits.
    # It also serves the live view, to clients on this machine.
    return OffloopMiddleware(
        Front(app, service.audit, lambda: service.is_stopping),
        drain=DRAIN,
        observe_path="/offloop",
        observe_cancel=True,
    )


def _http_error(request: Request, error: Any) -> Response:
    """Answers what the router raises."""
    if error.status_code == 405:
        message = f"this route does not take {request.method}: see /openapi.json"
        return error_answer(Failure(405, "method_not_allowed", message), error.headers)
    return error_answer(Failure(404, "no_such_route", "there is no such route: see /openapi.json"))


def _known(request: Request, error: Exception) -> Response:
    """Answers an error of the work."""
    return error_answer(as_failure(error) or internal())


def _unknown(request: Request, error: Exception) -> Response:
    """Answers a fault of the service. Starlette raises it again, and `Front` logs it."""
    return error_answer(internal())

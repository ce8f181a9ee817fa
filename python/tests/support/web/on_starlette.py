from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import offloop
from offloop.asgi import OffloopMiddleware

from . import work


def answering(fn: Any) -> Any:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(json.dumps(await fn()))

    return Route(f"/{fn.__name__}", endpoint)


async def upload(request: Request) -> Response:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        await offloop.run(len, chunk)
    return JSONResponse(size)


async def stream(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for number in range(3):
            yield f"{await offloop.run_cpu(int, number)}\n"
        if "forever" in request.query_params:
            await work.hang()

    return StreamingResponse(lines())


async def later(request: Request) -> Response:
    async def task() -> None:
        await offloop.run_cpu(work.slow, "later", 0.5)

    return PlainTextResponse("now", background=BackgroundTask(task))


async def pass_on(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    return response


# With `--preload` this runs in the process from which the server's workers are forked.
preloaded = None
if "OFFLOOP_TEST_PRELOAD" in os.environ:
    asyncio.run(work.pids())
    preloaded = offloop.ThreadPoolExecutor(1)


async def use_preloaded(request: Request) -> Response:
    assert preloaded is not None
    try:
        return JSONResponse(await preloaded.run(int))
    except RuntimeError as error:
        return PlainTextResponse(repr(error), 500)


functions = work.request, work.pids, work.hang, work.hang_in_thread, work.full, work.late, work.leave
routes = [
    *map(answering, functions),
    Route("/upload", upload, methods=["POST"]),
    Route("/stream", stream),
    Route("/later", later),
    Route("/preloaded", use_preloaded),
]
app = Starlette(
    routes=routes,
    middleware=[
        Middleware(OffloopMiddleware, **work.OPTIONS),
        # This one runs what is within it in a task of its own.
        Middleware(BaseHTTPMiddleware, dispatch=pass_on),
    ],
)

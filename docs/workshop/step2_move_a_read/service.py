"""The service whose reads freeze nobody.

python service.py
"""

import contextlib
import os
from collections.abc import AsyncIterator

import offloop
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

FILE = os.environ.get("FILE", "/dev/urandom")


def blocking_io(path: str) -> bytes:
    """File operations, such as logging, can block the event loop."""
    with open(path, "rb") as file:
        return file.read(100)


def cpu_bound(n: int) -> int:
    """Operations that need the CPU block the event loop."""
    return sum(i * i for i in range(n))


async def read(request: Request) -> Response:
    data = await offloop.run(blocking_io, FILE)
    return JSONResponse({"read": data.hex()})


async def add(request: Request) -> Response:
    return JSONResponse({"sum": cpu_bound(int(request.query_params.get("n", "10000000")))})


async def health(request: Request) -> Response:
    return JSONResponse({"ok": True})


async def stalls(request: Request) -> Response:
    return JSONResponse([str(place) for place in request.app.state.watch.stalls])


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    with offloop.watch(threshold=0.1) as app.state.watch:
        yield


app = Starlette(
    routes=[Route("/read", read), Route("/sum", add), Route("/health", health), Route("/stalls", stalls)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run("service:app", port=8000)

"""The service whose sums freeze nobody, either.

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
from work import cpu_bound

FILE = os.environ.get("FILE", "/dev/urandom")


def blocking_io(path: str) -> bytes:
    """File operations, such as logging, can block the event loop."""
    with open(path, "rb") as file:
        return file.read(100)


async def read(request: Request) -> Response:
    data = await offloop.run(blocking_io, FILE)
    return JSONResponse({"read": data.hex()})


async def add(request: Request) -> Response:
    n = int(request.query_params.get("n", "10000000"))
    return JSONResponse({"sum": await offloop.run_cpu(cpu_bound, n)})


async def health(request: Request) -> Response:
    return JSONResponse({"ok": True})


async def stalls(request: Request) -> Response:
    return JSONResponse([str(place) for place in request.app.state.watch.stalls])


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    # The worker processes are ready before the first request.
    await offloop.warm_up()
    with offloop.watch(threshold=0.1) as app.state.watch:
        yield


app = Starlette(
    routes=[Route("/read", read), Route("/sum", add), Route("/health", health), Route("/stalls", stalls)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run("service:app", port=8000)

"""The service that refuses what it cannot do in time.

python service.py
"""

import contextlib
import os
from collections.abc import AsyncIterator

import offloop
import uvicorn
from offloop.asgi import OffloopMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connector import Connection
from work import cpu_bound

FILE = os.environ.get("FILE", "/dev/urandom")
SYSTEM = os.environ.get("SYSTEM", "127.0.0.1:9000")
TIMEOUT = float(os.environ.get("TIMEOUT", "2"))
"""The seconds that a call of the system may take."""
QUEUE = 4
"""The calls that may wait for a connection: no more than can be done while a client waits."""


def blocking_io(path: str) -> bytes:
    """File operations, such as logging, can block the event loop."""
    with open(path, "rb") as file:
        return file.read(100)


def connect() -> Connection:
    return Connection(SYSTEM)


def ask(seconds: float) -> str:
    try:
        connection: Connection = offloop.worker_state()
        # If the call is cancelled, its connection is closed, and so the system ends it.
        with offloop.on_cancel(connection.hang_up):
            return connection.ask(seconds)
    except OSError:
        # It cannot be used any more. The worker's next job gets a new one.
        offloop.discard_worker_state()
        raise


async def read(request: Request) -> Response:
    data = await offloop.run(blocking_io, FILE)
    return JSONResponse({"read": data.hex()})


async def add(request: Request) -> Response:
    n = int(request.query_params.get("n", "10000000"))
    return JSONResponse({"sum": await offloop.run_cpu(cpu_bound, n)})


async def ask_system(request: Request) -> Response:
    seconds = float(request.query_params.get("seconds", "0.1"))
    try:
        answer = await request.app.state.system.options(timeout=TIMEOUT).run(ask, seconds)
    except ConnectionError:
        return JSONResponse({"error": "the system does not answer"}, 503)
    return JSONResponse({"answer": answer})


async def health(request: Request) -> Response:
    return JSONResponse({"ok": True})


async def stalls(request: Request) -> Response:
    return JSONResponse([str(place) for place in request.app.state.watch.stalls])


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    # The worker processes are ready before the first request.
    await offloop.warm_up()
    async with offloop.ThreadPoolExecutor(
        4,
        worker_state=connect,
        close_worker_state=Connection.close,
        queue_capacity=QUEUE,
        on_full="reject",
    ) as app.state.system:
        with offloop.watch(threshold=0.1) as app.state.watch:
            yield


app = Starlette(
    routes=[
        Route("/read", read),
        Route("/sum", add),
        Route("/ask", ask_system),
        Route("/health", health),
        Route("/stalls", stalls),
    ],
    # Cancels a handler whose client has gone, answers 504 if a job was not done in time, and 503 if the queue is full.
    middleware=[Middleware(OffloopMiddleware)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run("service:app", port=int(os.environ.get("PORT", "8000")))

"""The service whose calls end in time, on the other system, too.

python service.py
"""

import contextlib
import os
from collections.abc import AsyncIterator

import offloop
import uvicorn
from driver import Client
from offloop.asgi import OffloopMiddleware
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


def connect() -> Client:
    return Client(os.environ["SYSTEM"])


def ask(question: str) -> str:
    client: Client = offloop.worker_state()
    try:
        with offloop.on_cancel(client.hang_up):
            return client.ask(question)
    except BaseException:
        # The next call needs another connection.
        offloop.discard_worker_state()
        raise


async def square(request: Request) -> Response:
    number = int(request.query_params["of"])
    return JSONResponse({"square": int(await request.app.state.pool.run(ask, f"SQUARE {number}"))})


async def wait(request: Request) -> Response:
    calls = request.app.state.pool.options(timeout=int(request.query_params["ms"]) / 1000)
    return JSONResponse({"answer": await calls.run(ask, "WAIT")})


async def health(request: Request) -> Response:
    return JSONResponse({"ok": True})


async def stalls(request: Request) -> Response:
    return JSONResponse([str(place) for place in request.app.state.watch.stalls])


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    # The worker processes are ready before the first request.
    await offloop.warm_up()
    with offloop.watch(threshold=0.1) as app.state.watch:
        async with offloop.ThreadPoolExecutor(
            4, worker_state=connect, close_worker_state=Client.close
        ) as app.state.pool:
            yield


app = Starlette(
    routes=[
        Route("/read", read),
        Route("/sum", add),
        Route("/square", square),
        Route("/wait", wait),
        Route("/health", health),
        Route("/stalls", stalls),
    ],
    lifespan=lifespan,
)
# It cancels the handler of a client that has gone, and answers 504 when a call is out of time.
app.add_middleware(OffloopMiddleware)

if __name__ == "__main__":
    uvicorn.run("service:app", port=8000)

"""The service that freezes: its event loop waits for whatever it calls.

python service.py
"""

import os

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
    return JSONResponse({"read": blocking_io(FILE).hex()})


async def add(request: Request) -> Response:
    return JSONResponse({"sum": cpu_bound(int(request.query_params.get("n", "10000000")))})


async def health(request: Request) -> Response:
    return JSONResponse({"ok": True})


app = Starlette(routes=[Route("/read", read), Route("/sum", add), Route("/health", health)])

if __name__ == "__main__":
    uvicorn.run("service:app", port=8000)

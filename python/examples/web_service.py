"""A small service on FastAPI: calls that compute go to processes, and do not outlive their clients.

    python web_service.py [PORT]

Then, in another terminal:

    curl 'http://127.0.0.1:8000/primes?limit=1000000'      # press Ctrl-C: its worker process is killed
    curl 'http://127.0.0.1:8000/primes?limit=90000000'     # 504 after 10 seconds
    curl 'http://127.0.0.1:8000/metrics'

It needs fastapi and uvicorn. `uvicorn web_service:app --reload` and other servers run it as well.
"""

import math
import sys

import uvicorn
from fastapi import FastAPI

import offloop
from offloop.asgi import OffloopMiddleware

app = FastAPI()
app.add_middleware(OffloopMiddleware, metrics_path="/metrics", drain=5)


def count_primes(limit: int) -> int:
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(2, limit))


@app.get("/primes")
async def primes(limit: int = 1000) -> int:
    return await offloop.options(timeout=10, queue_timeout=5).run_cpu(count_primes, limit)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    uvicorn.run(app, host="127.0.0.1", port=port, timeout_graceful_shutdown=5)

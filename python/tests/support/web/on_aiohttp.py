from __future__ import annotations

import sys
from typing import Any

from aiohttp import web

import offloop.aiohttp

from . import work


def answering(fn: Any) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(await fn())

    return web.get(f"/{fn.__name__}", handler)


app = web.Application()
offloop.aiohttp.setup(app, **work.OPTIONS)
functions = work.request, work.pids, work.hang, work.hang_in_thread, work.full, work.late, work.leave
app.add_routes(map(answering, functions))

if __name__ == "__main__":
    print("serving", file=sys.stderr)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from offloop.asgi import OffloopMiddleware

from . import work

app = FastAPI()
app.add_middleware(OffloopMiddleware, **work.OPTIONS)


@app.middleware("http")  # around the one above
async def pass_on(request: Request, call_next: Any) -> Any:
    return await call_next(request)


for fn in (work.pids, work.hang, work.hang_in_thread, work.full, work.late, work.leave):
    app.get(f"/{fn.__name__}")(fn)

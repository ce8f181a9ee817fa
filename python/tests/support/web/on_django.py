from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from offloop.asgi import OffloopMiddleware

from . import work

settings.configure(
    SECRET_KEY="of the tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["offloop.django.OffloopMiddleware"],
    OFFLOOP_RETRY_AFTER=3,
)


def answering(fn: Any) -> Any:
    async def view(request: HttpRequest) -> JsonResponse:
        return JsonResponse(await fn(), safe=False)

    return path(fn.__name__, view)


functions = work.request, work.pids, work.hang, work.hang_in_thread, work.full, work.late, work.leave
urlpatterns = [answering(fn) for fn in functions]
app = OffloopMiddleware(get_asgi_application(), **work.OPTIONS)

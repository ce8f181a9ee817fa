"""A middleware for Django: it answers the errors of pools. For all else wrap the application: see `offloop.asgi`.

    MIDDLEWARE = [..., "offloop.django.OffloopMiddleware"]

Django turns the exceptions of views into responses itself, so `offloop.asgi` does not see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]
from django.http import (  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]
    HttpRequest,
    HttpResponse,
)

from ._web import STATUSES, ErrorAnswers

__all__ = ["OffloopMiddleware"]


class OffloopMiddleware:
    """Answers the errors of pools that a view raises, as `offloop.asgi.OffloopMiddleware` does.

    It takes the settings OFFLOOP_STATUSES and OFFLOOP_RETRY_AFTER, which have the same meanings. With DEBUG the body
    contains the error's message. It works in synchronous views, too.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):  # pyright: ignore[reportDeprecated]
            markcoroutinefunction(self)
        self._errors = ErrorAnswers(
            getattr(settings, "OFFLOOP_STATUSES", STATUSES),
            getattr(settings, "OFFLOOP_RETRY_AFTER", 1),
            settings.DEBUG,
        )

    def __call__(self, request: HttpRequest) -> Any:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Returns the response to a view's exception; None if it is not one of a pool."""
        answer = self._errors.answer(exception, f"{request.method} {request.path!r}")
        if answer is None:
            return None
        return HttpResponse(answer.text.encode(), status=answer.status, headers=answer.headers)

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

from ._requests import HEADER, of_header, request_id
from ._web import STATUSES, ErrorAnswers

__all__ = ["OffloopMiddleware"]


class OffloopMiddleware:
    """Answers the errors of pools that a view raises, and gives each request an id, as `offloop.asgi.OffloopMiddleware` does.

    It takes the settings OFFLOOP_STATUSES, OFFLOOP_RETRY_AFTER and OFFLOOP_REQUEST_IDS, which have the same meanings. With
    DEBUG the body contains the error's message. It works in synchronous views, too.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)  # pyright: ignore[reportDeprecated]
        if self._is_async:
            markcoroutinefunction(self)
        self._request_ids = getattr(settings, "OFFLOOP_REQUEST_IDS", True)
        self._errors = ErrorAnswers(
            getattr(settings, "OFFLOOP_STATUSES", STATUSES),
            getattr(settings, "OFFLOOP_RETRY_AFTER", 1),
            settings.DEBUG,
        )

    def __call__(self, request: HttpRequest) -> Any:
        # Under `offloop.asgi` the request has its id already.
        if not self._request_ids or request_id.get() is not None:
            return self._get_response(request)
        return self._answer_async(request) if self._is_async else self._answer(request)

    def _answer(self, request: HttpRequest) -> Any:
        name = _id_of(request)
        token = request_id.set(name)
        try:
            response = self._get_response(request)
        finally:
            request_id.reset(token)
        response.headers.setdefault(HEADER, name)
        return response

    async def _answer_async(self, request: HttpRequest) -> Any:
        name = _id_of(request)
        token = request_id.set(name)
        try:
            response = await self._get_response(request)
        finally:
            request_id.reset(token)
        response.headers.setdefault(HEADER, name)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Returns the response to a view's exception; None if it is not one of a pool."""
        answer = self._errors.answer(exception, f"{request.method} {request.path!r}")
        if answer is None:
            return None
        return HttpResponse(answer.text.encode(), status=answer.status, headers=answer.headers)


def _id_of(request: Any) -> str:
    given: str | None = request.headers.get(HEADER)
    return of_header(given)

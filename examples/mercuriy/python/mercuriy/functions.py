"""POST /functions/{system}/{name}: calls a stored function."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from . import catalog
from .answers import Failure, answer
from .reading import bad_arguments, read_object
from .service import Service
from .systems import FunctionFailed, SystemDown

TIMEOUT = 5_000
"""The milliseconds that a call may take, if the client does not say."""


class Functions:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def post(self, request: Request) -> Response:
        name, function = request.path_params["system"], request.path_params["name"]
        system = self._service.calls.systems[check(name, function)]
        via = request.query_params.get("via", "blocking")
        if via not in ("blocking", "async"):
            raise bad_arguments("`via` is blocking or async")
        if via == "async" and not system.is_async:
            raise Failure(
                400, "no_async_connector", f"there is no async connector to {name} here: leave `via` out"
            )
        timeout = self._service.timeout_of(request, TIMEOUT)
        (args,) = await read_object(request, self._service.settings.body_timeout, {"args": list})
        if problem := catalog.problem(function, args):
            raise bad_arguments(problem)
        self._service.check_open()

        began = time.perf_counter()
        calls = self._service.calls
        try:
            # The deadline counts the waiting for a connection as well.
            async with asyncio.timeout(timeout):
                called = await (calls.call_async if via == "async" else calls.call)(name, function, args)
        except FunctionFailed as error:
            raise Failure(502, "function_failed", str(error) or "the function gave no reason") from error
        except SystemDown as error:
            raise Failure(
                503, "system_down", f"{name} does not answer, try again: {error}", retry_after=2
            ) from error
        seconds = time.perf_counter() - began
        if seconds > timeout:
            # On the loop nothing could end it.
            raise TimeoutError
        return answer(
            {
                "result": called.result,
                "system": name,
                "via": via,
                "seconds": round(seconds, 6),
                "worker": called.worker,
                "stand_in": system.stand_in,
            }
        )


def check(system: str, function: str) -> str:
    """Returns the system's name. Raises Failure if there is no such system or function."""
    if system not in catalog.systems:
        raise Failure(
            404, "unknown_system", f"there is no such system; there are: {', '.join(catalog.systems)}"
        )
    if function not in catalog.functions:
        raise Failure(
            404, "unknown_function", f"there is no such function; there are: {', '.join(catalog.functions)}"
        )
    return system

"""Reads the bodies of requests, within limits of size and time."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from starlette.requests import Request

from .answers import Failure

MAX_BODY = 256 * 1024
"""The bytes of a body that is no document."""


async def chunks(request: Request, limit: int, patience: float) -> AsyncIterator[bytes]:
    """Yields a body as it comes. Raises Failure if it is too large, or stops for `patience` seconds."""
    too_large = Failure(
        413, "too_large", f"the body is too large: {limit} bytes are allowed; send it in parts"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    stream = request.stream()
    received = 0
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Failure(
                408,
                "body_timeout",
                f"nothing of the body has come for {patience:g} s, after {received} bytes: send all of it",
            ) from None
        if chunk is None:
            return
        received += len(chunk)
        if received > limit:
            raise too_large
        yield chunk


async def read_object(request: Request, patience: float, fields: dict[str, type]) -> list[Any]:
    """Returns the values of the fields of a JSON object, which has all of them and no others."""
    body = b"".join([chunk async for chunk in chunks(request, MAX_BODY, patience)])
    value = _parse(body)
    if not isinstance(value, dict):
        raise bad_arguments("the body must be a JSON object")
    if unknown := value.keys() - fields.keys():
        raise bad_arguments(
            f"the body has an unknown field {sorted(unknown)[0]!r}; it has: {', '.join(fields)}"
        )
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind):
            raise bad_arguments(f"the field {name!r} of the body must be there, and be a {_NAMES[kind]}")
    return [value[name] for name in fields]


def bad_arguments(message: str) -> Failure:
    return Failure(422, "bad_arguments", message)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_NAMES: dict[type, str] = {str: "text", list: "list"}


def _parse(body: bytes) -> Any:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Failure(
            400,
            "not_utf8",
            f"the body is not UTF-8 at its byte {error.start}: encode it as UTF-8",
            offset=error.start,
        ) from None
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        # Half of a surrogate pair is no character, and no system takes it. UTF-8 has none, so only an escape makes one.
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise Failure(400, "not_json", "a text in the body has half of a surrogate pair") from None
    except RecursionError:
        raise Failure(400, "not_json", "the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode())
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            raise Failure(
                400,
                "truncated",
                f"the body ends too early, after {len(body)} bytes: send all of it",
                offset=len(body),
            ) from None
        raise Failure(400, "not_json", f"the body is no JSON: see its byte {offset}", offset=offset) from None
    except ValueError as error:  # a number of more than some thousand digits
        raise Failure(400, "not_json", f"the body has a number that is not allowed: {error}") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value

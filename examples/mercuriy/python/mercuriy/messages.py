"""/messages: accepts messages, and tells what has become of them."""

from __future__ import annotations

import uuid

from offloop import request_id
from starlette.requests import Request
from starlette.responses import Response

from . import catalog
from .answers import Failure, answer
from .functions import check
from .reading import bad_arguments, read_object
from .service import Service
from .store import STATES, Database, Message


class Messages:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def post_or_count(self, request: Request) -> Response:
        # One route, so that an answer to another method names both.
        return await (self.post(request) if request.method == "POST" else self.count(request))

    async def post(self, request: Request) -> Response:
        fields: dict[str, type] = {"to": str, "function": str, "args": list}
        to, function, args = await read_object(request, self._service.settings.body_timeout, fields)
        check(to, function)
        if problem := catalog.problem(function, args):
            raise bad_arguments(problem)
        self._service.check_open()
        message = Message(str(uuid.uuid4()), request_id.get() or "", to, function, args, 0)
        await self._service.delivery.accept(message)
        return answer({"id": message.id, "state": "accepted"}, 202)

    async def get(self, request: Request) -> Response:
        message = await self._service.delivery.ask(Database.read, request.path_params["id"])
        if message is None:
            raise Failure(404, "no_such_message", "there is no message with this id")
        return answer(message)

    async def count(self, request: Request) -> Response:
        state = request.query_params.get("state")
        if state is not None and state not in STATES:
            raise bad_arguments(f"`state` is one of: {', '.join(STATES)}")
        counts = await self._service.delivery.ask(Database.count)
        return answer({"counts": counts if state is None else {state: counts[state]}})

"""The service: its parts, in the order in which they begin and end; and the routes that tell about it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

import offloop
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from . import __version__, catalog, resources
from .answers import answer
from .audit import Audit, AuditFile
from .calls import Calls
from .delivery import Delivery
from .front import stopping
from .heartbeat import Heartbeat
from .metrics import metrics
from .places import Place, Switch
from .places.cluster import ClusterPlace
from .places.loop import LoopPlace
from .places.pools import OffloopPlace
from .places.processes import ProcessesPlace
from .places.threads import ThreadsPlace
from .reading import bad_arguments, read_object
from .settings import Settings
from .store import Database, Store
from .systems import System
from .systems.embedded import EmbeddedServer

PATIENCE = 2.0
"""The seconds that the end of the service leaves to deliveries that have begun."""
WELCOME = "This is a file of mercuriy, read by blocking calls that no event loop waits for.\n"

logger = logging.getLogger("mercuriy")


class Service:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_stopping = False
        """Whether new work is refused. Set by the signal that ends the service."""
        self.heartbeat = Heartbeat()

    async def start(self) -> None:
        settings = self.settings
        files = settings.data / "files"
        files.mkdir(parents=True, exist_ok=True)
        if not any(files.iterdir()):
            (files / "welcome.txt").write_text(WELCOME)

        self._watch = offloop.watch(threshold=0.1)
        self._beating = asyncio.create_task(self.heartbeat.beat())
        cores = max(1, len(os.sched_getaffinity(0)))
        places: dict[str, Callable[[], Place]] = {
            "loop": LoopPlace,
            "threads": lambda: ThreadsPlace(cores),
            "processes": lambda: ProcessesPlace(cores),
            "offloop": lambda: OffloopPlace(cores, settings.otlp),
        }
        if settings.on == "cluster":
            # Only then: it needs a server that may not be installed.
            places["cluster"] = lambda: ClusterPlace(cores, settings.cluster)
        self.switch = Switch(places, settings.on)
        self._embedded = EmbeddedServer()
        await self._embedded.start()
        self.calls = Calls(self._systems(), self.switch)
        self.audit = Audit(AuditFile(settings.data / "audit.jsonl"), self.switch)
        self.audit.start()
        self.delivery = Delivery(Store(settings.data / "messages.sqlite"), self.switch, self.calls)
        await self.switch.warm_up()
        await self.delivery.start()
        await self.calls.probe()

    async def stop(self) -> None:
        self.is_stopping = True
        await self.delivery.stop(PATIENCE)
        await self.audit.stop()
        await self.calls.aclose()
        await self.switch.aclose()
        await self._embedded.stop()
        self._beating.cancel()
        self._watch.stop()

    def _systems(self) -> dict[str, System]:
        """Returns the systems by name. Where no address is given, another one stands in."""
        settings = self.settings
        addresses = {
            "rfc": settings.rfc or self._embedded.address,
            "postgres": settings.postgres,
            "tarantool": settings.tarantool,
        }
        systems: dict[str, System] = {}
        for name, about in catalog.systems.items():
            address = addresses.get(name)
            stand_in = about.get("stand_in") if address is None else None
            kind = stand_in or name
            if stand_in is not None:
                address = addresses.get(stand_in)
            is_async = about["async"] and stand_in is None
            systems[name] = System(name, kind, address, settings.connections, is_async)
        return systems

    def check_open(self) -> None:
        """Raises Failure if the service takes no new work."""
        if self.is_stopping:
            raise stopping()

    def timeout_of(self, request: Request, default: int) -> float:
        """Returns the seconds that a request's work may take."""
        given = request.headers.get("x-timeout-ms")
        if given is None:
            return default / 1000
        if not (given.isascii() and given.isdigit() and len(given) <= 5 and 1 <= int(given) <= 60_000):
            raise bad_arguments("X-Timeout-Ms is a number of milliseconds from 1 to 60000")
        return int(given) / 1000

    async def health(self, request: Request) -> Response:
        return answer({"ok": True, "late_ms": round(self.heartbeat.worst() * 1000, 3)})

    async def status(self, request: Request) -> Response:
        self.calls.probe_soon()
        systems = {
            name: {
                "up": self.calls.is_up(name),
                "stand_in": system.stand_in,
                "async": system.is_async,
                "address": system.shown_address(),
                "pid": self._embedded.pid if system.address == self._embedded.address else None,
            }
            for name, system in self.calls.systems.items()
        }
        return answer(
            {
                "on": self.switch.name,
                "modes": self.switch.names,
                "systems": systems,
                "functions": list(catalog.functions),
                "language": "python",
                "version": __version__,
                "pid": os.getpid(),
            }
        )

    async def set_mode(self, request: Request) -> Response:
        (on,) = await read_object(request, self.settings.body_timeout, {"on": str})
        if on not in self.switch.names:
            raise bad_arguments(f"`on` is one of: {', '.join(self.switch.names)}")
        return answer({"on": on, "was": await self.switch.set(on)})

    async def show_metrics(self, request: Request) -> Response:
        page = metrics.page(
            self.heartbeat.worst(),
            self.switch.name,
            self.switch.names,
            await self.delivery.ask(Database.count),
        )
        return Response(page, media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def page(self, request: Request) -> Response:
        return FileResponse(resources.shared("page/index.html"), headers={"cache-control": "no-cache"})

    _openapi = resources.shared("openapi.json").read_bytes()

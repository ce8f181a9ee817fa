"""Starts the service: `python -m mercuriy`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from . import logs, telemetry
from .app import make_app
from .service import Service
from .settings import Settings, parse, settings_of

REQUESTS_END = 3
"""The seconds that requests have at the end. Then their handlers are cancelled."""
LAST_RESORT = 9.0
"""The seconds after which the process ends, whatever still runs: standard threads cannot be ended."""


class Server(uvicorn.Server):
    """uvicorn's server, which tells the service of a signal at once, and says where it listens."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.is_stopping = True
        last_resort = threading.Timer(LAST_RESORT, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: object = None) -> None:
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"mercuriy (python) listens on http://{host}:{port}", flush=True)


async def serve(settings: Settings) -> None:
    service = Service(settings)
    await service.start()
    config = uvicorn.Config(
        make_app(service),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=REQUESTS_END,
        backlog=2048,
    )
    await Server(config, service).serve()


def main() -> None:
    given = parse()
    logs.to_stderr()
    with tempfile.TemporaryDirectory(prefix="mercuriy-") as temporary:
        settings = settings_of(given, (given.data or Path(temporary)).absolute())
        if settings.otlp is not None:
            try:
                telemetry.set_up(settings.otlp)
            except ImportError as error:
                sys.exit(
                    f"mercuriy: traces need a package that is missing: pip install 'mercuriy[telemetry]' ({error})"
                )
        for name, package in (("postgres", "psycopg"), ("tarantool", "tarantool")):
            if getattr(settings, name) is not None:
                _need(name, package)
        # While the service starts, and when uvicorn raises the signal again that has ended it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        asyncio.run(serve(settings))


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _need(system: str, package: str) -> None:
    try:
        __import__(package)
    except ImportError:
        sys.exit(f"mercuriy: to call {system}, install its connector: pip install 'mercuriy[{system}]'")


if __name__ == "__main__":
    main()

"""The embedded server of the RFC-shaped protocol: a child process, started again whenever it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

logger = logging.getLogger("mercuriy.systems")

PAUSE = 0.2
"""The seconds between its death and its next start."""


class EmbeddedServer:
    def __init__(self) -> None:
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        await self._start_process()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _start_process(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mercuriy.systems.rfc_server", str(self._port)),
            # It ends when this process has ended, whatever ends it: then its input ends.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"the embedded server has ended: status {await process.wait()}")
        # The port stays the same, so that connectors find it again.
        self._port = int(line)
        self._process = process

    async def _keep(self) -> None:
        while True:
            if self._process is not None:
                status = await self._process.wait()
                logger.warning(
                    "the embedded server has ended: it is started again", extra={"fields": {"status": status}}
                )
                self._process = None
            await asyncio.sleep(PAUSE)
            try:
                await self._start_process()
            except (RuntimeError, OSError):
                logger.exception("the embedded server does not start: this is tried again")

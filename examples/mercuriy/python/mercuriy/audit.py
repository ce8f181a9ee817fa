"""The audit log: a line of JSON for each request, in a file. Writing blocks until the disk has it, so lines
go in batches.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .places import Switch

ROOM = 10_000
"""The number of lines that may wait. When there are as many, requests wait for room: no line is dropped."""

logger = logging.getLogger("mercuriy.audit")


@dataclass(frozen=True)
class AuditFile:
    """The file, as a resource of a place."""

    path: Path
    name: str = "audit"
    workers: int = 1

    def open(self) -> Appender:
        return Appender(self.path)


class Appender:
    is_broken = False

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def append(self, data: bytes) -> None:
        """Appends lines. When this returns, they are on the disk."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)

    def cancel(self) -> None:
        """Does nothing: lines must not be cut off."""

    def close(self) -> None:
        os.close(self._descriptor)


class Audit:
    def __init__(self, file: AuditFile, switch: Switch) -> None:
        self._file = file
        self._switch = switch
        self._lines: list[bytes] = []
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Writes what is left."""
        self._is_stopping = True
        self._changed.set()
        if self._task is not None:
            await self._task

    async def room(self) -> None:
        """Waits until there is room for another line."""
        await self._has_room.wait()

    def add(self, **fields: Any) -> None:
        """Adds a line, which is written soon. Does not block."""
        moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._lines.append(json.dumps({"time": moment, **fields}).encode() + b"\n")
        self._changed.set()
        if len(self._lines) >= ROOM:
            self._has_room.clear()

    async def _write(self) -> None:
        while not self._is_stopping or self._lines:
            await self._changed.wait()
            self._changed.clear()
            lines, self._lines = self._lines, []
            self._has_room.set()
            if not lines:
                continue
            try:
                with self._switch.use() as place:
                    await place.wait(self._file, Appender.append, b"".join(lines))
            except Exception:
                logger.exception("the audit log cannot be written: this is tried again")
                self._lines = lines + self._lines
                self._changed.set()
                if self._is_stopping:
                    return
                await asyncio.sleep(1)

"""GET /files/{name}: sends a file. Each read blocks, so each is a job."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from .answers import Failure, HeldStream
from .places import Place
from .service import Service

CHUNK = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Disk:
    """The disk, as a resource of a place: it needs no connection."""

    name: str = "files"
    workers: int = 8
    is_broken = False

    def open(self) -> Disk:
        return self

    def cancel(self) -> None:
        """Does nothing: a read ends by itself."""

    def close(self) -> None:
        """Does nothing."""


def size_of(disk: Disk, path: str) -> int | None:
    """Returns the size of a file; None if there is no such file."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def read(disk: Disk, path: str, offset: int, size: int) -> bytes:
    """Reads a part of a file. It opens the file each time, so that it may run in another process than the
    last one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


class Files:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def get(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not _NAME.fullmatch(name):
            raise Failure(
                400,
                "bad_name",
                "a file's name has at most 128 of the characters A-Z a-z 0-9 _ . - and begins with no dot",
            )
        path = str(self._service.settings.data / "files" / name)
        async with AsyncExitStack() as stack:
            place = stack.enter_context(self._service.switch.use())
            size = await place.wait(DISK, size_of, path)
            if size is None:
                raise Failure(404, "no_such_file", "there is no file of this name")
            headers = {"content-length": str(size)}
            # The first part is read before the status is sent, as it may fail.
            try:
                first = await place.wait(DISK, read, path, 0, min(CHUNK, size))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    raise Failure(404, "no_such_file", "there is no file of this name") from error
                raise
            parts = _parts(place, path, first, size)
            return HeldStream(parts, stack.pop_all(), "application/octet-stream", headers)


async def _parts(place: Place, path: str, first: bytes, size: int) -> AsyncIterator[bytes]:
    sent, part = 0, first
    while part:
        yield part
        sent += len(part)
        part = await place.wait(DISK, read, path, sent, min(CHUNK, size - sent)) if sent < size else b""
    if sent < size:
        raise OSError(f"{path} has become shorter while it was sent")


DISK = Disk()

"""A request's body in memory that another process can read in place.

The chunks of the body are written into shared memory as they come, which is the copy that joining them would be. What
travels to a worker is the name of that memory: some dozens of bytes. The worker maps it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""Nothing can change the memory any more: a reader would be killed if it shrank."""


class SharedBody:
    """Shared memory that grows as the body comes. It exists until it is closed, and the workers that read it
    have ended.
    """

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("mercuriy-body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.length = 0

    def write(self, chunk: bytes) -> None:
        """Appends a chunk. It is copied, but nothing waits for a disk."""
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.length += len(chunk)

    def seal(self) -> Document:
        """Returns the body as it can be sent to workers. Afterwards it cannot be written to."""
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
        # Another process of this user may open the descriptor of this one by this path, while it is open here.
        return Document(f"/proc/{os.getpid()}/fd/{self._descriptor}", self.length)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> SharedBody:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Document:
    """The name of a body. It is pickled in some dozens of bytes, whatever the body's length."""

    def __init__(self, path: str, length: int) -> None:
        self.path = path
        self.length = length

    @contextmanager
    def opened(self) -> Iterator[mmap.mmap | bytes]:
        """Gives the bytes, in place."""
        if not self.length:
            yield b""  # which cannot be mapped
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = mmap.mmap(descriptor, self.length, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        finally:
            os.close(descriptor)
        # Closed when nothing refers to it: the error of a walk that has failed may still do.
        yield data

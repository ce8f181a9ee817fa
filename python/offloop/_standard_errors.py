"""The standard library's errors of process pools, which ours derive from.

Their module imports multiprocessing, which takes long, so this is imported when one of them is needed.
"""

from __future__ import annotations

from typing import Any

__all__ = ["BrokenProcessPool", "RemoteTraceback"]

RemoteTraceback: Any
"""The type of the `__cause__` of an exception from a process. It takes the traceback's text."""

try:
    from concurrent.futures import process
    from concurrent.futures.process import BrokenProcessPool

    RemoteTraceback = process._RemoteTraceback  # pyright: ignore
except RuntimeError:
    # The interpreter exits, and so late that module refuses to be imported. It has not been imported before, so no
    # program can look for its errors by their type.
    from concurrent.futures import BrokenExecutor as BrokenProcessPool  # type: ignore[assignment]

    class _RemoteTraceback(Exception):
        """The traceback of another process."""

    RemoteTraceback = _RemoteTraceback

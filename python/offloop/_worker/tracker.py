"""multiprocessing's resource tracker in a worker: that of the process that has the pool."""

from __future__ import annotations

import os
import sys

from .._imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = "multiprocessing.resource_tracker"


def adopt(descriptor: int) -> None:
    """Makes this process use the tracker at the other end of `descriptor`, once it imports multiprocessing's module.

    Its import takes long, and most jobs do not need it.
    """

    def use(module: Any) -> None:
        module._resource_tracker._fd = descriptor

    when_imported(_NAME, use)


def fork() -> int:
    """Forks this process. The child uses the same tracker; since Python 3.14 that of a plain `os.fork` does not."""
    module = sys.modules.get(_NAME)
    intent: Any = getattr(module, "_fork_intent", None)
    if intent is None:
        return os.fork()
    intent.preserve_fd = True
    try:
        return os.fork()
    finally:
        intent.preserve_fd = False

"""multiprocessing's resource tracker in a worker: that of the process that has the pool."""

from __future__ import annotations

import os
import sys
from typing import Any

_NAME = "multiprocessing.resource_tracker"


def adopt(descriptor: int) -> None:
    """Makes this process use the tracker at the other end of `descriptor`, once it imports multiprocessing's module.

    Its import takes long, and most jobs do not need it.
    """
    module = sys.modules.get(_NAME)
    if module is not None:
        _set(module, descriptor)
    else:
        sys.meta_path.insert(0, _Finder(descriptor))


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


def _set(module: Any, descriptor: int) -> None:
    module._resource_tracker._fd = descriptor


class _Finder:
    """Waits until the module is imported."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != _NAME:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec: Any = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                load = spec.loader.exec_module

                def exec_module(module: Any) -> None:
                    load(module)
                    _set(module, self._descriptor)

                spec.loader.exec_module = exec_module
                return spec
        return None

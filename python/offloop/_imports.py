"""Work that waits until the program imports a module, which takes long and may never be needed.

It is used as an interpreter starts, so it imports as little as it can.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def when_imported(name: str, then: Callable[[Any], object]) -> None:
    """Calls `then` with a module: at once if it has been imported, else right after it will have been.

    Then it is called on the thread that imports the module, before that uses it.
    """
    module = sys.modules.get(name)
    if module is not None:
        then(module)
    else:
        sys.meta_path.insert(0, _Finder(name, then))


class _Finder:
    """Waits for a module."""

    def __init__(self, name: str, then: Callable[[Any], object]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec: Any = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._then)
                return spec
        return None


class _Loader:
    """Stands for a module's loader, which may be that of other modules as well, until the module has been loaded."""

    def __init__(self, loader: Any, then: Callable[[Any], object]) -> None:
        self._loader = loader
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then(module)

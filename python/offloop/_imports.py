"""Work that waits until the program imports a module, which takes long and may never be needed.

It is used as an interpreter starts, so it imports as little as it can.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


_waiting: dict[str, list[Callable[[Any], object]]] = {}
"""What is to be called with modules that are not there yet, by their names."""


def when_imported(name: str, then: Callable[[Any], object]) -> None:
    """Calls `then` with a module: at once if it has been imported, else right after it will have been.

    Then it is called on the thread that imports the module, before that uses it.
    """
    module = sys.modules.get(name)
    if module is not None:
        then(module)
        return
    _waiting.setdefault(name, []).append(then)
    # The finder goes before those that were added since the last time.
    sys.meta_path.insert(0, _finder)
    if _finder in sys.meta_path[1:]:
        del sys.meta_path[sys.meta_path.index(_finder, 1)]


class _Finder:
    """Finds the modules that are waited for, as the other finders do."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in _waiting:
            return None
        for finder in sys.meta_path:
            spec: Any = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


_finder = _Finder()


class _Loader:
    """Stands for a module's loader, which may be that of other modules as well, until the module has been loaded."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for then in _waiting.pop(module.__spec__.name, ()):
            then(module)

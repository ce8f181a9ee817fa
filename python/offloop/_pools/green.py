"""Programs whose threads gevent or eventlet has replaced by green ones."""

from __future__ import annotations

import sys
from typing import Any

_LIBRARIES = {
    "gevent": ("gevent.monkey", "is_module_patched", "threading", "monkey.patch_all(thread=False)"),
    "eventlet": ("eventlet.patcher", "is_monkey_patched", "thread", "eventlet.monkey_patch(thread=False)"),
}
"""For each library: the module and the function that say whether it has replaced threads, the function's argument, and the
call that does not replace them."""


def refuse_for_threads() -> None:
    """Raises RuntimeError if a library has replaced the threads of this program.

    The pool's threads wait outside of Python. A green thread that does so holds all others, forever.
    """
    for library in _LIBRARIES:
        _refuse(library, "use `concurrent.futures.ThreadPoolExecutor`, or the library's own pool of threads")


def refuse_for_processes() -> None:
    """Raises RuntimeError if eventlet has replaced the threads of this program.

    A result that another thread brings does not wake its green threads. It does wake those of gevent.
    """
    _refuse("eventlet", "use `concurrent.futures.ProcessPoolExecutor`")


def _refuse(library: str, instead: str) -> None:
    module, function, argument, call = _LIBRARIES[library]
    is_patched: Any = getattr(sys.modules.get(module), function, None)
    if is_patched is not None and is_patched(argument):
        raise RuntimeError(
            f"{library} has replaced the threads of this program, and this pool needs real ones: {instead}, or keep "
            f"real threads: {call}"
        )

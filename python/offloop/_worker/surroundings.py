"""What workers share with the program around them: the search path, and for the shared pool also the environment and the
directory.

A worker begins with those that the program had when it made the pool. If the program has changed them since, calls tell
the worker so, and it follows before it looks up the function.
"""

from __future__ import annotations

import _thread
import os
import sys

from . import main_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Change = tuple[int, list[str], dict[bytes, "bytes | None"], "str | None"]
    """A number that grows with each change, the search path, the environment variables that have changed (None: deleted),
    and the directory, if that has changed."""


class Surroundings:
    """The program's surroundings, as the workers of one pool know them."""

    def __init__(self, own_cwd: bool, own_env: Mapping[str, str] | None) -> None:
        self._lock = _thread.allocate_lock()
        """Held while what follows is written. What `departing` compares is written last, so that it is read without."""
        self._follows_all = False
        self._own_cwd = own_cwd
        """Whether the workers have a directory of their own."""
        self._own_env = frozenset(map(os.fsencode, own_env or ()))
        """The environment variables that the workers have of their own."""
        self._path = list(sys.path)
        self._env = dict(_environment())
        self._cwd = _directory()
        self._changed_env: set[bytes] = set()
        """The environment variables that have changed since the pool was made."""
        self._moved = False
        """Whether the directory has changed since then."""
        self._change: Change | None = None

    def follow_all(self) -> None:
        """Makes the workers follow the environment and the directory, too."""
        self._follows_all = True

    def path_alone(self) -> list[str] | None:
        """Returns the search path, if calls have nothing to tell as long as the program has this one. It is not changed."""
        return None if self._follows_all or self._change is not None else self._path

    def departing(self) -> Change | None:
        """Returns the change that a call must tell its worker; None if there was none since the pool was made."""
        if sys.path == self._path and (
            not self._follows_all or (_environment() == self._env and _directory() == self._cwd)
        ):
            return self._change
        with self._lock:
            return self._look_again()

    def _look_again(self) -> Change:
        path, env, cwd = list(sys.path), self._env, self._cwd
        if self._follows_all:
            env, cwd = dict(_environment()), _directory()
        self._changed_env |= {
            name for name in env.keys() | self._env if env.get(name) != self._env.get(name)
        } - self._own_env
        self._moved = not self._own_cwd and (self._moved or cwd != self._cwd)
        number = 1 if self._change is None else self._change[0] + 1
        env_now = {name: env.get(name) for name in self._changed_env}
        self._change = number, main_module.search_path(), env_now, cwd if self._moved else None
        self._path, self._env, self._cwd = path, env, cwd
        return self._change


def _environment() -> dict[bytes, bytes]:
    """Returns the environment as `os.environ` has it: comparing that itself would take ten times as long."""
    environment: Any = os.environ
    known: dict[bytes, bytes] = environment._data
    return known


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


_entered = 0
"""In a worker, the number of the change that it has followed last."""
_parents_path: list[str] | None = None
"""In a worker, the search path that its parent had at that time. None in other processes."""


def begin(parents_path: list[str]) -> None:
    """Makes this process, which is about to be a worker, follow its parent's changes."""
    global _parents_path
    _parents_path = parents_path


def enter(change: Change) -> None:
    """Makes this worker follow a change. Entries that it has added to its own search path stay. Does nothing in other
    processes."""
    global _entered, _parents_path
    number, path, env, cwd = change
    if _parents_path is None or number == _entered:
        return
    # Otherwise modules could not be found by entries that are relative.
    if cwd is not None:
        os.chdir(cwd)
    if path != _parents_path or cwd is not None:
        own = [entry for entry in sys.path if entry not in _parents_path and entry not in path]
        sys.path[:] = path + own
        _parents_path = path
        import importlib

        importlib.invalidate_caches()
    for name, value in env.items():
        if value is None:
            os.environb.pop(name, None)
        else:
            os.environb[name] = value
    _entered = number

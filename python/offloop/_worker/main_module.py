"""`__main__` in workers: as with multiprocessing's start method "spawn", but imported only when needed.

The parent describes itself with `preparation`. A worker takes over its `sys.path`, `sys.argv` and the
like at once (`prepare_base`), and imports the parent's main module as `__mp_main__` before the first
call that refers to it (`needs_main`, `prepare_main`). Most workers never need it, and start sooner.
"""

from __future__ import annotations

import functools
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_MAIN_KEYS = ("init_main_from_name", "init_main_from_path")
_BASE_KEYS = ("dir", "sys_path", "sys_argv")

_inherited: dict[str, Any] | None = None
"""In a worker, the keys that locate the main module of the pool's process. Set once, by `prepare_base`.

A pool that a job makes passes them on, whether or not this worker has imported the main module.
"""


def preparation(name: str = "OffloopWorker", cwd: str | None = None) -> dict[str, Any]:
    """Describes this process to workers that will have the name `name` and the directory `cwd` (None: this one's).

    The keys are those of `multiprocessing.spawn.get_preparation_data`, and two about the parent. All values can be
    pickled. Unlike that function, this one leaves the user free to choose a start method afterwards.
    """
    from multiprocessing import get_start_method, process, util

    current = process.current_process()
    orig_dir: str | None = getattr(process, "ORIGINAL_DIR", None)
    if cwd is None:
        try:
            cwd = os.getcwd()
        except OSError:  # it was deleted; workers inherit it as it is
            pass
    described: dict[str, Any] = {
        "name": name,
        # An AuthenticationString refuses to be pickled; its bytes can be.
        "authkey": bytes(current.authkey),
        "log_to_stderr": getattr(util, "_log_to_stderr", False),
        "sys_path": search_path(),
        "sys_argv": list(sys.argv),
        "orig_dir": orig_dir,
        "dir": cwd,
        "parent_name": current.name,
        "parent_pid": os.getpid(),
        **_find_main(),
    }
    if getattr(util, "_logger", None) is not None:
        described["log_level"] = util.get_logger().getEffectiveLevel()
    start_method = get_start_method(allow_none=True)
    if start_method:
        described["start_method"] = start_method
    return described


def search_path() -> list[str]:
    """Returns this process's `sys.path`, as its workers are to have it."""
    from multiprocessing import process

    orig_dir: str | None = getattr(process, "ORIGINAL_DIR", None)
    return [orig_dir if entry == "" and orig_dir else entry for entry in sys.path]


def prepare_base(described: dict[str, Any]) -> None:
    """Gives this process the search path, the arguments and the directory of the described one."""
    global _inherited
    _inherited = _main_keys(described)
    if described["dir"] is not None:
        # If it is gone or closed to this process by now, the directory that the process has inherited has to do.
        try:
            os.chdir(described["dir"])
        except OSError:
            pass
    sys.path[:] = described["sys_path"]
    sys.argv[:] = described["sys_argv"]


def prepare_multiprocessing(described: dict[str, Any]) -> None:
    """Makes multiprocessing in this process behave as in a child of the described one.

    Imports multiprocessing, which takes longer than everything else here, so it is called only when needed.
    """
    from multiprocessing import spawn

    spawn.prepare({key: value for key, value in described.items() if key not in _MAIN_KEYS + _BASE_KEYS})
    _set_parent(described["parent_name"], described["parent_pid"])


def prepare_main(described: dict[str, Any]) -> None:
    """Imports the parent's main module as `__main__`, once. Raises what its code raises.

    Meanwhile no pool and no process can be made: see `refuse_while_importing_main`.
    """
    from multiprocessing import process, spawn

    current: Any = process.current_process()
    current._inheriting = True  # multiprocessing looks at it as well
    try:
        spawn.prepare(_main_keys(described))
    except SystemExit as error:
        # The caller's `future.result()` would raise it, which would end the parent.
        raise RuntimeError(
            "a worker process could not import __main__, because __main__ calls sys.exit() while it is "
            f"imported. {_GUARD}"
        ) from error
    finally:
        del current._inheriting


def refuse_while_importing_main() -> None:
    """Raises RuntimeError in a worker that is importing the main module. Called by the pool's constructor.

    A script that makes a pool when it is imported would start workers that import it, without end.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "__main__ makes a process pool while it is imported, and worker processes import it to "
            f"find the functions that they are to call. {_GUARD}"
        )


_GUARD = 'Put the code that starts the program under `if __name__ == "__main__":`.'


def needs_main(pickled: bytes) -> bool:
    """Returns whether unpickling may look something up in `__main__` or `__mp_main__`.

    May be true for another pickle, such as one of a string of that name. It is never false for a plain pickle that
    refers to the main module.
    """
    return pickled.find(b"_main__") >= 0  # `in` takes several times as long for `bytes`


def is_importable() -> bool:
    """Returns whether workers can import the main module: not that of a REPL, `-c`, stdin or a notebook."""
    return bool(_find_main())


def _main_keys(described: dict[str, Any]) -> dict[str, Any]:
    return {key: described[key] for key in _MAIN_KEYS if key in described}


def _find_main() -> dict[str, Any]:
    """Returns the one of `_MAIN_KEYS` by which workers find the main module; nothing if there is none."""
    if _inherited is not None:
        return _inherited
    main = sys.modules.get("__main__")
    if getattr(sys, "frozen", False):
        # Its workers run it themselves, up to the call of `freeze_support`.
        return {"init_main_from_path": getattr(main, "__file__", None)}
    name: object = getattr(getattr(main, "__spec__", None), "name", None)
    if isinstance(name, str):
        # The `__main__.py` of a package or an archive runs its code without a guard.
        if name == "__main__" or name.endswith(".__main__"):
            return {}
        return {"init_main_from_name": name}
    path: object = getattr(main, "__file__", None)
    path = _existing_script(path) if isinstance(path, str) else None
    return {} if path is None else {"init_main_from_path": path}


@functools.lru_cache(maxsize=1)
def _existing_script(path: str) -> str | None:
    from multiprocessing import process

    path = os.path.normpath(os.path.join(getattr(process, "ORIGINAL_DIR", None) or "", path))
    # "<stdin>" is not a file, and multiprocessing does not import the script of IPython.
    if not os.path.isfile(path) or os.path.splitext(os.path.basename(path))[0] == "ipython":
        return None
    return path


def _set_parent(name: str, pid: int) -> None:
    """Makes `multiprocessing.parent_process()` return the process that has the pool."""
    try:
        ends_with_parent = os.pidfd_open(pid)
    except OSError:  # the parent has exited, and this worker is about to exit as well
        return
    from multiprocessing import process

    module: Any = process
    module._parent_process = module._ParentProcess(name, pid, ends_with_parent)

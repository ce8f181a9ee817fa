"""`__main__` in workers, by the rules of multiprocessing's spawn, but imported only when needed.

The parent describes itself with `preparation`. A worker takes on its `sys.path`, `sys.argv` and the
like at once (`prepare_base`), and imports the parent's main module as `__mp_main__` before the first
call that refers to it (`needs_main`, `prepare_main`). Most workers never do, and start sooner.
"""

import functools
import os
import sys
from typing import Any


_MAIN_KEYS = ("init_main_from_name", "init_main_from_path")
_BASE_KEYS = ("dir", "sys_path", "sys_argv")

# In a worker: where the main module of the pool's process is. A pool that a job makes passes it on,
# whether or not this worker has imported it.
_inherited: dict[str, Any] | None = None


def preparation(name: str = "OffloopWorker", cwd: str | None = None) -> dict[str, Any]:
    """Describes this process to workers that will be called `name` and live in `cwd` (None: here).

    The keys are those of `multiprocessing.spawn.get_preparation_data`, and two for the parent. All
    can be pickled. Unlike that function, this one leaves the user free to choose a start method.
    """
    from multiprocessing import get_start_method, process, util

    current = process.current_process()
    orig_dir: str | None = getattr(process, "ORIGINAL_DIR", None)
    described: dict[str, Any] = {
        "name": name,
        # An AuthenticationString refuses to be pickled, and its bytes do not.
        "authkey": bytes(current.authkey),
        "log_to_stderr": getattr(util, "_log_to_stderr", False),
        "sys_path": [orig_dir if entry == "" and orig_dir else entry for entry in sys.path],
        "sys_argv": list(sys.argv),
        "orig_dir": orig_dir,
        "dir": os.getcwd() if cwd is None else cwd,
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


def prepare_base(described: dict[str, Any]) -> None:
    """Makes this process a worker of the one described, except for the main module."""
    global _inherited
    _inherited = _main_keys(described)
    os.chdir(described["dir"])
    sys.path[:] = described["sys_path"]
    sys.argv[:] = described["sys_argv"]


def prepare_multiprocessing(described: dict[str, Any]) -> None:
    """The same for multiprocessing, which takes longer to import than all else: when it is needed."""
    from multiprocessing import spawn

    spawn.prepare({key: value for key, value in described.items() if key not in _MAIN_KEYS + _BASE_KEYS})
    _set_parent(described["parent_name"], described["parent_pid"])


def prepare_main(described: dict[str, Any]) -> None:
    """Imports the parent's main module as `__main__`, once. Raises what its code raises.

    Meanwhile, pools and processes refuse to be made: see `refuse_while_importing_main`.
    """
    from multiprocessing import process, spawn

    current: Any = process.current_process()
    current._inheriting = True  # where multiprocessing looks, too
    try:
        spawn.prepare(_main_keys(described))
    except SystemExit as error:
        # It would reach the caller's `future.result()`, and end the parent.
        raise RuntimeError(
            "a worker process could not import __main__, because it calls sys.exit() while it is "
            f"imported. {_GUARD}"
        ) from error
    finally:
        del current._inheriting


def refuse_while_importing_main() -> None:
    """Raises RuntimeError in a worker that imports the main module: for the pool's constructor.

    A script that makes a pool when it is imported would start workers that import it, without end.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "__main__ makes a process pool while it is imported, and worker processes import it to "
            f"find the functions they shall call. {_GUARD}"
        )


_GUARD = 'Put the code that starts the program under `if __name__ == "__main__":`.'


def needs_main(pickled: bytes) -> bool:
    """Whether unpickling may look something up in `__main__` or `__mp_main__`.

    Says yes to some others, as to a string of that name, and never no to a plain pickle that does.
    """
    return pickled.find(b"_main__") >= 0  # `in` takes several times as long for `bytes`


def is_importable() -> bool:
    """Whether workers can import the main module: not that of a REPL, `-c`, stdin or a notebook."""
    return bool(_find_main())


def _main_keys(described: dict[str, Any]) -> dict[str, Any]:
    return {key: described[key] for key in _MAIN_KEYS if key in described}


def _find_main() -> dict[str, Any]:
    """Which of `_MAIN_KEYS` leads workers to the main module; empty if none does."""
    if _inherited is not None:
        return _inherited
    main = sys.modules.get("__main__")
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
    # "<stdin>" is no file, and multiprocessing leaves the script of IPython alone.
    if not os.path.isfile(path) or os.path.splitext(os.path.basename(path))[0] == "ipython":
        return None
    return path


def _set_parent(name: str, pid: int) -> None:
    """Makes `multiprocessing.parent_process()` speak of the process that has the pool."""
    try:
        ends_with_parent = os.pidfd_open(pid)
    except OSError:  # it is gone, and this worker is about to follow
        return
    from multiprocessing import process

    module: Any = process
    module._parent_process = module._ParentProcess(name, pid, ends_with_parent)

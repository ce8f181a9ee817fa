"""The files of the package stand in layers, and each public name has one home.

A file imports files of lower layers and of its own package, never in a circle. Imports within functions and under
TYPE_CHECKING count as well: a reader follows them too.

- base: `_calls`, `_errors`, `_process_errors`, `_standard_errors`, `_cluster_errors`, `_imports`, `_jobs`, `_metrics`, `_requests`, and the stub of the engine, `_offloop`
- `_worker`: the worker's side of a process pool, and what it shares with the parent
- `_pools`: the executors
- `_auto`, `_watch`: two features that do not know each other
- `_observe`: the live view
- `_cluster`: the executor on a cluster, and the worker of one
- `_web`, and on it the adapters `aiohttp`, `asgi` and `django`, which do not know each other
- `_engines`, and on it the executors on engines of others, `dask` and `ray`, which do not know each other
- `pytest_plugin`, which uses `_watch`
- `_cli`, the command, and `__main__`, which runs it
- `__init__`: the public names
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import offloop
import pytest

PACKAGE = Path(offloop.__file__).parent

BELOW: dict[str, set[str]] = {
    "": set(),
    "_worker": {""},
    "_pools": {"", "_worker"},
    "_auto": {"", "_worker", "_pools"},
    "_watch": {""},
    "_observe": {"", "_pools", "_watch"},
    "_cluster": {"", "_worker", "_pools"},
    "_web": {"", "_pools"},
    "aiohttp": {"", "_observe", "_pools", "_web"},
    "asgi": {"", "_observe", "_pools", "_web"},
    "django": {"", "_web"},
    "_engines": {"", "_worker", "_pools"},
    "dask": {"", "_worker", "_pools", "_engines"},
    "ray": {"", "_engines"},
    "pytest_plugin": {"_watch"},
    "_cli": {"", "_cluster"},
    "__main__": {"_cli"},
    "__init__": {"", "_worker", "_pools", "_auto", "_watch", "_observe", "_cluster"},
}
"""The layers that a layer may import. The base is the empty string."""


def files() -> dict[str, Path]:
    """Returns the source files by their module names, relative to the package."""
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


FILES = files()


def layer_of(module: str) -> str:
    first = module.partition(".")[0]
    return first if first in BELOW else ""


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """Yields the modules of the package that a module imports."""
    package = [] if FILES[module].parent == PACKAGE else module.split(".")
    if package and FILES[module].name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "offloop":
                    yield alias.name.partition(".")[2] or "__init__"
        elif isinstance(node, ast.ImportFrom):
            source = node.module.split(".") if node.module else []
            if node.level:
                source = package[: len(package) - node.level + 1] + source
            elif source[:1] == ["offloop"]:
                source = source[1:]
            else:
                continue
            for alias in node.names:
                # The name may be a module of the package, or something within it.
                whole = ".".join([*source, alias.name])
                yield whole if whole in FILES else ".".join(source) or "__init__"


def graph() -> dict[str, set[str]]:
    trees = {module: ast.parse(path.read_text()) for module, path in FILES.items()}
    return {module: set(imports(module, tree)) - {module} for module, tree in trees.items()}


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    """Returns the modules of a circle, if there is one."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for target in sorted(edges.get(module, ())):
            if found := visit(target, [*path, module]):
                return found
        done.add(module)
        return None

    for module in sorted(edges):
        if found := visit(module, []):
            return found
    return None


def wrong_directions(edges: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {target}"
        for module, targets in sorted(edges.items())
        for target in sorted(targets)
        if layer_of(target) != layer_of(module) and layer_of(target) not in BELOW[layer_of(module)]
    ]


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(graph()) is None


def test_files_import_lower_layers_only() -> None:
    edges = graph()
    assert wrong_directions(edges) == []
    # The imports were found.
    assert "_pools.executor" in edges["_pools.threads"]
    assert "_worker.context" in edges["_worker.main"]
    assert "_watch.watch" in edges["_watch.start"]
    assert "_errors" in edges["__init__"]


def test_a_circle_and_a_wrong_direction_are_found() -> None:
    edges = graph()
    edges["_worker.main"].add("_pools.pickled_call")
    assert circle(edges) == ["_pools.pickled_call", "_worker.main", "_pools.pickled_call"]
    assert wrong_directions(edges) == ["_worker.main imports _pools.pickled_call"]


def test_each_public_name_has_one_home() -> None:
    trees = {module: ast.parse(path.read_text()) for module, path in FILES.items()}
    starred = {
        node.module
        for node in ast.walk(trees["__init__"])
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    }
    # Type checkers see the same modules as programs.
    assert starred == set(offloop._NAMES)
    for module, names in offloop._NAMES.items():
        assert names.split() == import_module(f"offloop.{module}").__all__
    assert len(offloop.__all__) == len(set(offloop.__all__)) > 30
    # A value has no docstring of its own: the string below it is one.
    documented = {
        target.id
        for tree in trees.values()
        for node, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(node, ast.AnnAssign) and isinstance(target := node.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    for name in offloop.__all__:
        assert name in documented or getattr(offloop, name).__doc__, f"{name} is not documented"
        assert name in dir(offloop)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'offloop' has no attribute 'ThreadPool'"):
        offloop.ThreadPool  # type: ignore[attr-defined]


def test_the_package_and_a_worker_import_little() -> None:
    """The import of the package needs no multiprocessing; that of a worker no module that only parents need."""
    code = "import sys, {}; print(*(name for name in sys.modules if name.split('.')[0] == 'offloop'))"
    started_by_a_pool = {**os.environ, "OFFLOOP_WORKER": "1"}

    def imported(module: str) -> set[str]:
        command = [sys.executable, "-c", code.format(module)]
        printed = subprocess.run(
            command, check=True, timeout=60, capture_output=True, text=True, env=started_by_a_pool
        ).stdout
        return {name.partition(".")[2] for name in printed.split()} - {""}

    assert imported("offloop") == {"_offloop"}
    assert imported("offloop._worker.main") == {
        "_calls",
        "_imports",
        "_offloop",
        "_worker",
        "_worker.forwarding",
        "_worker.main",
        "_worker.main_module",
        "_worker.pickling",
        "_worker.remote_errors",
        "_worker.replies",
        "_worker.streams",
        "_worker.surroundings",
        "_worker.tracker",
    }
    # What a first worker does not wait for.
    code = "import sys; before = set(sys.modules); import {}; print(*sys.modules.keys() - before)"
    light = {"contextlib", "enum", "importlib.util", "pickle", "re", "signal", "struct", "threading", "typing"}
    command = [sys.executable, "-S", "-c", code.format("offloop._worker.main")]
    path = os.path.dirname(os.path.dirname(offloop.__file__))
    bare = {**started_by_a_pool, "PYTHONPATH": path}
    printed = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True, env=bare).stdout
    assert not light & set(printed.split())

    command = [sys.executable, "-c", "import sys, offloop; print(*sys.modules)"]
    printed = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout
    modules = set(printed.split())
    # The first call imports nothing on its event loop: all that it needs is there.
    assert {"offloop._pools.default", "offloop._pools.threads", "offloop._worker.main"} <= modules
    assert not {"multiprocessing", "concurrent.futures.process", "offloop._pools.processes"} & modules

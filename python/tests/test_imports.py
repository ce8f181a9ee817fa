"""Work that waits until a module is imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from offloop import _imports
from offloop._imports import when_imported


@pytest.fixture(autouse=True)
def nothing_else_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_imports, "_waiting", {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Returns a folder whose modules can be imported meanwhile."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_it_is_called_at_once_if_the_module_is_there() -> None:
    seen: list[ModuleType] = []
    when_imported("sys", seen.append)
    assert seen == [sys]


def test_it_is_called_once_with_the_whole_module_before_the_importer_goes_on(folder: Path) -> None:
    (folder / "awaited.py").write_text("first = 1\nlast = 2\n")
    (folder / "importer.py").write_text("import awaited\nfound = awaited.hooked\n")
    seen: list[ModuleType] = []

    def then(module: ModuleType) -> None:
        seen.append(module)
        module.hooked = module.last + 1  # type: ignore[attr-defined]

    when_imported("awaited", then)
    assert not seen
    assert importlib.import_module("importer").found == 3
    importlib.reload(importlib.import_module("awaited"))
    assert len(seen) == 1


def test_modules_with_the_same_loader_are_loaded_as_always(folder: Path) -> None:
    class Finder:
        """Finds two modules, whose loader it is, as that of a frozen program is."""

        def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
            return importlib.machinery.ModuleSpec(name, self) if name in ("awaited", "other") else None

        def create_module(self, spec: object) -> None:
            return None

        def exec_module(self, module: ModuleType) -> None:
            module.loaded = True  # type: ignore[attr-defined]

    finder = Finder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        seen: list[str] = []
        when_imported("awaited", lambda module: seen.append(module.__name__))
        for name in ("awaited", "other"):
            module = importlib.import_module(name)
            assert module.loaded
            assert module.__loader__ is finder
            assert module.__spec__ is not None and module.__spec__.loader is finder
        assert seen == ["awaited"]
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


def test_several_may_wait_for_one_module(folder: Path) -> None:
    (folder / "awaited.py").write_text("")
    seen: list[int] = []
    when_imported("awaited", lambda _: seen.append(1))
    when_imported("awaited", lambda _: seen.append(2))
    importlib.import_module("awaited")
    assert seen == [1, 2]


def test_a_module_that_fails_is_handed_over_once_it_is_imported(folder: Path) -> None:
    file = folder / "awaited.py"
    file.write_text("raise ValueError('broken, and longer than what comes')")
    seen: list[ModuleType] = []
    when_imported("awaited", seen.append)
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("awaited")
    assert not seen
    file.write_text("")
    assert [importlib.import_module("awaited")] == seen


def test_a_program_that_looks_whether_there_is_a_module_does_not_import_it(folder: Path) -> None:
    (folder / "awaited.py").write_text("")
    seen: list[ModuleType] = []
    when_imported("awaited", seen.append)
    assert importlib.util.find_spec("awaited") is not None
    assert not seen
    assert [importlib.import_module("awaited")] == seen


def test_a_module_that_is_missing_is_missed_as_always() -> None:
    when_imported("offloop_misses_this", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="offloop_misses_this"):
        importlib.import_module("offloop_misses_this")

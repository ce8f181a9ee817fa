"""The executors on engines of others, without these: `python/tests_engines` runs them."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("name", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_engine_is_an_import_error_that_says_what_to_install(name: str, package: str) -> None:
    printed = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        f"try: import offloop.{name}\n"
        "except ImportError as error: print(error, error.name)"
    )
    assert f"pip install 'offloop[{name}]'" in printed
    assert printed.split()[-1] == package


def test_the_package_imports_no_engine() -> None:
    printed = run("import offloop, sys; dir(offloop); offloop.ProcessPoolExecutor; print(*sys.modules)")
    assert not {"dask", "distributed", "ray", "offloop._engines"} & set(printed.split())


def test_the_cluster_is_imported_when_it_is_used() -> None:
    printed = run("import offloop, sys; offloop.run; offloop.ProcessPoolExecutor; print(*sys.modules)")
    assert not {"offloop._cluster", "offloop._cluster_errors"} & set(printed.split())
    assert "ClusterExecutor" in run("import offloop; print(offloop.ClusterExecutor)")

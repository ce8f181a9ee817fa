"""Tests on engines of others, Dask and Ray, which are really started, for this machine alone: `cargo xtask test --only engines`.

Each engine is started once for all of its tests. Those that take it down start one of their own.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["hang_guard"]
pytest.register_assert_rewrite("contract")

HERE = Path(__file__).parent

# The engines' workers import the functions of the tests.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
# Ray would ask for statistics of its use to be sent, and would look for accelerators.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

Executor = Any


def pytest_configure(config: pytest.Config) -> None:
    # A program in the background inherits it as ignored, and so would the programs that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def dask_client() -> Iterator[Any]:
    """A cluster of two workers with two threads each."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def ray_started() -> Iterator[Any]:
    """Ray with four cores."""
    import ray

    ray.init(
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        num_cpus=4,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def make(new: Callable[..., Executor]) -> Iterator[Callable[..., Executor]]:
    """Makes executors by the `new` of a test file. Those that a test leaves open are ended."""
    made: list[Executor] = []

    def make(**options: Any) -> Executor:
        made.append(new(**options))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(drain=0)


@pytest.fixture
def pool(make: Callable[..., Executor]) -> Executor:
    """An executor on the engine."""
    return make()


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """A file to which calls write."""
    return Trace(tmp_path / "trace")


class Trace:
    """A file with a line for each run."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def pids(self) -> list[int]:
        """Returns the processes of the runs so far."""
        if not os.path.exists(self.path):
            return []
        with open(self.path) as file:
            return [int(line.split()[1]) for line in file]


def on_page(engine: str) -> list[str]:
    """Returns the programs on the page about the engines that are about this one."""
    page = (HERE.parents[1] / "docs" / "ray-and-dask.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [program for program in programs if f"from offloop.{engine} import" in program]


def program(script: str) -> list[str]:
    """Returns the command of a script beside this file."""
    return [sys.executable, str(HERE / script)]

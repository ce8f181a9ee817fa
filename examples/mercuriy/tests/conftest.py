"""The services that the tests use: one of each implementation for most tests, and more where a test needs
its own.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from services import Service, rust_binary

HANG = 150.0
"""The seconds after which a test counts as hung, besides those that it was asked to take."""

_stderr = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        choices=["python", "rust", "both"],
        help="default: both, if the Rust binary is built",
    )
    parser.addoption(
        "--rust-binary", type=Path, help="default: target/release/mercuriy or target/debug/mercuriy"
    )
    parser.addoption("--seconds", type=float, default=6.0, help="the time for which test_killed kills")


def pytest_configure(config: pytest.Config) -> None:
    global _stderr
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        with capture.global_and_fixture_disabled():
            _stderr = os.dup(2)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "implementation" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--implementation")
    binary = metafunc.config.getoption("--rust-binary") or rust_binary()
    if chosen is None:
        chosen = "both" if binary is not None else "python"
    names = ["python", "rust"] if chosen == "both" else [chosen]
    metafunc.parametrize("implementation", names, scope="session")


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    patience = HANG + request.config.getoption("--seconds")
    faulthandler.dump_traceback_later(patience, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def make_service(request: pytest.FixtureRequest) -> Callable[..., Service]:
    """Makes services, which are not started yet."""
    binary = request.config.getoption("--rust-binary") or rust_binary()

    def make(implementation: str, data: Path, *options: str, **environment: str) -> Service:
        return Service(implementation, binary, data, options, environment)

    return make


@pytest.fixture(scope="session")
def shared_service(
    implementation: str, make_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    service = make_service(
        implementation, tmp_path_factory.mktemp(f"data-{implementation}"), "--body-timeout", "1"
    )
    with service:
        yield service


@pytest.fixture
def service(shared_service: Service) -> Service:
    """A service that many tests share. It is as new: on offloop, and with nothing running."""
    assert shared_service.is_running(), shared_service.log()
    return shared_service


@pytest.fixture
def start(
    implementation: str, make_service: Callable[..., Service], tmp_path: Path
) -> Iterator[Callable[..., Service]]:
    """Starts a service of the test's own. Called again, it starts another one with the same data."""
    started: list[Service] = []

    def start_one(*options: str, **environment: str) -> Service:
        service = make_service(implementation, tmp_path / "data", *options, **environment)
        service.__enter__()
        started.append(service)
        return service

    yield start_one
    for service in started:
        service.__exit__()

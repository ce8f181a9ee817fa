"""Tests of the live view's page in a real browser, Debian's Chromium, on running programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

pytest_plugins = ["hang_guard"]

PATIENCE = 20_000
"""The milliseconds that an expectation waits: a guard against hanging, not a promise."""

HERE = Path(__file__).parent

expect.set_options(timeout=PATIENCE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="DIRECTORY", help="Keep screenshots of the page there.")


class Program:
    """A program that is watched. It does what it is told by `do`."""

    def __init__(self, port: int, service: str, runtime: Path, *token: str) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.process = subprocess.Popen(
            # By the names that a screenshot may show.
            ["python", "observed.py", str(port), service, *token],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PATH": path},
        )
        self.address = self._line()
        self.port = urlsplit(self.address).port or 0
        self.pid = self.process.pid

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return line.rstrip("\n")

    def begin(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def do(self, *commands: str) -> str:
        """Returns the answer to the last command."""
        answer = ""
        for command in commands:
            self.begin(command)
            answer = self._line()
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts programs that see each other, and no others."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    programs: list[Program] = []

    def start(port: int = 0, service: str = "shop", *token: str) -> Program:
        programs.append(Program(port, service, runtime, *token))
        return programs[-1]

    yield start
    for program in programs:
        if program.process.returncode is None:
            program.kill()


@pytest.fixture
def program(start: Start) -> Program:
    return start()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages, and checks that none of them asks any other than its own program, or complains."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(address: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        own = urlsplit(address).netloc

        def on_request(request: Request) -> None:
            if urlsplit(request.url).netloc != own and not request.url.startswith("data:"):
                complaints.append(f"asked {request.url}")

        def on_console(message: ConsoleMessage) -> None:
            # A program that is stopped refuses the connection, and the browser notes that.
            if message.type == "error" and "ERR_" not in message.text:
                complaints.append(f"printed {message.text}")

        context.on("request", on_request)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"raised {error}"))
        page.on("console", on_console)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


class Keep:
    """Keeps screenshots, if the run was asked to."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self.wanted = directory is not None

    def __call__(self, page: Page, name: str) -> None:
        if self._directory is not None:
            page.screenshot(path=Path(self._directory).absolute() / f"{name}.png")


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Keep:
    return Keep(request.config.getoption("--screenshots"))

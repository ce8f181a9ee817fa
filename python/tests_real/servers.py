"""The servers of these tests, and programs that use them."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "python" / "examples"
sys.path.insert(0, str(EXAMPLES))


def need(server: str, variable: str) -> str:
    """Returns the variable's value. Skips the test, or the module, if it is not set."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"no {server}: {variable} is not set", allow_module_level=True)
    return value


def restart(server: str, variable: str) -> None:
    command = need(server, variable)
    # Its output goes to a file: a server that is left running would keep a pipe open.
    subprocess.run(
        command,
        shell=True,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    """Waits until the condition holds. The watchdog limits the time."""
    while not await holds():
        await asyncio.sleep(0.01)


def run_program(*command: "str | Path") -> list[str]:
    """Runs a Python program. Returns the lines that it prints."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def programs(variable: str) -> list[Any]:
    """Returns the programs of the guide that need the server which the variable names."""
    page = (ROOT / "docs" / "blocking-connectors.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    found = [
        pytest.param(code, id=f"block-{number}")
        for number, code in enumerate(blocks)
        if variable in code
    ]
    assert found
    return found

"""Programs that tests run as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).parent.parent)
HANG = 60.0


def environment() -> dict[str, str]:
    """This process's, with the tests' modules in reach."""
    return {**os.environ, "PYTHONPATH": TESTS, "PYTHONUNBUFFERED": "1"}


def write(path: Path, code: str) -> Path:
    path.write_text(textwrap.dedent(code))
    return path


def run(*args: str | Path, stdin: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs this Python. Its workers are to end with it: its output is read to the end."""
    return subprocess.run(
        [sys.executable, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=HANG,
        env=environment(),
        **options,
    )


def start(*args: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Starts this Python as the leader of its own process group."""
    return subprocess.Popen(
        [sys.executable, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        **options,
    )


def group_members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(name))
    return found

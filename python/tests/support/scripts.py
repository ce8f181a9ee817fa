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
    """Returns this process's environment, with the tests' modules on the search path."""
    return {**os.environ, "PYTHONPATH": TESTS, "PYTHONUNBUFFERED": "1"}


def write(path: Path, code: str) -> Path:
    path.write_text(textwrap.dedent(code))
    return path


def run(*args: str | Path, stdin: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs this Python. Reads its output to the end, so its workers must end with it."""
    return subprocess.run(
        [sys.executable, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=HANG,
        env=environment(),
        **options,
    )


def start(*args: str | Path) -> subprocess.Popen[str]:
    """Starts this Python as the leader of its own session and process group."""
    return subprocess.Popen(
        [sys.executable, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def members(session: int) -> list[int]:
    """Returns the processes of a session that have not ended. Zombies have."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(name))
    return found

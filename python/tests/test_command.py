"""The command `offloop` that is shipped with the package."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import sysconfig
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "offloop")
MODULE = [sys.executable, "-m", "offloop"]
TIMEOUT = 60

PROGRAM = """
import offloop, sys, threading
with offloop.ThreadPoolExecutor(max_workers=2) as pool:
    end = threading.Event()
    job = pool.submit(end.wait)
    print("ready", flush=True)
    sys.stdin.read()
    end.set()
"""


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory for sockets that no other test sees. The path of a socket must be short."""
    with tempfile.TemporaryDirectory(prefix="offloop-") as directory:
        yield Path(directory)


def environment(runtime: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OFFLOOP")}
    return {**kept, "XDG_RUNTIME_DIR": str(runtime), "TERM": "xterm", **more}


@contextmanager
def program(runtime: Path, service: str) -> Iterator[int]:
    """A program that knows nothing of the view, started so that it can be watched."""
    watched = environment(runtime, OFFLOOP_OBSERVE="1", OFFLOOP_SERVICE=service)
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=watched, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


def run(command: list[str], runtime: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(runtime, **more), capture_output=True, text=True, timeout=TIMEOUT
    )


@pytest.mark.parametrize("command", [[SCRIPT], MODULE], ids=["script", "module"])
def test_a_program_is_shown_after_it_was_started_with_one_variable(command: list[str], runtime: Path) -> None:
    with program(runtime, "reports") as pid:
        shown = run([*command, "top", "--once", "--json"], runtime)
        assert shown.returncode == 0, shown.stderr
        (process,) = json.loads(shown.stdout)["processes"]
        assert (process["process"]["pid"], process["process"]["service"]) == (pid, "reports")
        (pool,) = process["pools"]
        assert pool["running"] == 1
        assert "reports" in run([*command, "top", "--once"], runtime).stdout
    nothing = run([*command, "top"], runtime)
    assert nothing.returncode == 3
    assert "OFFLOOP_OBSERVE=1" in nothing.stderr


def test_the_command_is_no_program_to_be_watched(runtime: Path) -> None:
    for command in [SCRIPT], MODULE:
        nothing = run([*command, "top", "--json"], runtime, OFFLOOP_OBSERVE="127.0.0.1:0")
        assert nothing.returncode == 3
        assert nothing.stderr.count("\n") == 1, nothing.stderr
        assert not (runtime / "offloop").exists()


@pytest.mark.parametrize("end", [b"q", b"\x03", signal.SIGINT, signal.SIGTERM], ids=str)
def test_the_terminal_is_left_as_it_was_found(end: bytes | signal.Signals, runtime: Path) -> None:
    own, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    before = termios.tcgetattr(terminal)
    with program(runtime, "reports"):
        command = [*MODULE, "top"]
        with subprocess.Popen(
            command, env=environment(runtime), stdin=terminal, stdout=terminal, stderr=terminal
        ) as process:
            drawn = b""
            while b"reports" not in drawn:
                drawn += os.read(own, 65536)
            assert termios.tcgetattr(terminal) != before
            if isinstance(end, bytes):
                os.write(own, end)
            else:
                process.send_signal(end)
            # What is drawn has to be read, or the program waits for that.
            os.set_blocking(own, False)
            begin = time.monotonic()
            while process.poll() is None and time.monotonic() - begin < TIMEOUT:
                try:
                    drawn += os.read(own, 65536)
                except BlockingIOError:
                    time.sleep(0.01)
            assert process.wait(TIMEOUT) == (0 if isinstance(end, bytes) else -end)
    assert termios.tcgetattr(terminal) == before
    try:
        drawn += os.read(own, 65536)
    except BlockingIOError:
        pass
    # It leaves the other screen, and shows the cursor, after the last that it draws.
    assert drawn.rindex(b"\x1b[?1049l") > drawn.rindex(b"\x1b[?1049h")
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")
    os.close(own)
    os.close(terminal)

"""The command `offloop`. It is that of the crate `offloop-cli`, built into the engine's module, but for `offloop worker`."""

from __future__ import annotations

import signal
import sys

from . import _offloop


def main() -> int:
    """Runs the command line and returns the exit code. Blocks until the command is done."""
    if sys.argv[1:2] == ["worker"]:
        from ._cluster.command import main as serve

        return serve(sys.argv[2:])
    # The interpreter's handler waits until Python code runs, and none does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _offloop.run_command(["offloop", *sys.argv[1:]])

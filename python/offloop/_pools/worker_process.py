"""Workers as programs know them from the standard pool: processes of multiprocessing."""

from __future__ import annotations

import os
import time
import weakref

from .. import _offloop


class WorkerProcess:
    """A worker in `_processes`, with the methods of `multiprocessing.Process` that programs call there."""

    def __init__(self, pid: int, engine: _offloop.ProcessPool) -> None:
        self.pid = pid
        self._engine = engine
        self._exitcode: int | None = None
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1
        else:
            weakref.finalize(self, os.close, self._pidfd)

    def terminate(self) -> None:
        """Ends the process with SIGTERM, and with SIGKILL after the pool's `grace`. Does not wait for it."""
        self._engine.stop_worker(self.pid, False)

    def kill(self) -> None:
        """Ends the process with SIGKILL. Does not wait for it."""
        self._engine.stop_worker(self.pid, True)

    @property
    def exitcode(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it. None while it runs, if the system has not
        reported it, and if 64 other workers of the pool have ended since."""
        deadline = time.monotonic() + 1
        while self._exitcode is None and not self.is_alive():
            exits = dict(self._engine.exits())
            self._exitcode = exits.get(self.pid)
            if self.pid in exits or time.monotonic() > deadline:
                break
            # The system has ended it a moment ago, and the engine has yet to notice.
            time.sleep(0.001)
        return self._exitcode

    def join(self, timeout: float | None = None) -> None:
        """Waits until the process has ended, for at most `timeout` seconds."""
        import select

        if self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(None if timeout is None else timeout * 1000)

    def is_alive(self) -> bool:
        """Returns whether the process has not ended."""
        import select

        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

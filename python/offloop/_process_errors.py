"""The errors of jobs in processes.

They have a module of their own because their standard base class takes longer to import than the rest of this package.
The engine's binding makes them by name.
"""

from __future__ import annotations

from ._errors import OffloopError
from ._standard_errors import BrokenProcessPool

__all__ = ["PoolBroken", "WorkerDied", "WorkerStartError"]


class PoolBroken(OffloopError, BrokenProcessPool):
    """The pool broke: a worker crashed, and the pool was made with `on_crash="break"`."""


class WorkerStartError(OffloopError, BrokenProcessPool):
    """No worker could be started for the job; the message says why."""


class WorkerDied(OffloopError, BrokenProcessPool):
    """The worker process died while it ran this job. Other jobs are not affected, and the worker is replaced."""

    pid: int
    """The id of the process that died."""
    exitcode: int | None
    """Its exit status; the negative number of the signal that ended it; None if the system did not report it."""
    task: str
    """The function that it ran."""
    max_rss: int
    """The largest amount of memory that it had resident, in bytes; 0 if the system did not report it."""
    out_of_memory: bool
    """Whether it probably died because it needed too much memory, as far as that can be seen from outside."""
    stderr: str
    """The end of what it wrote to standard error."""

    def __init__(
        self,
        message: str = "",
        *,
        pid: int = 0,
        exitcode: int | None = None,
        task: str = "",
        max_rss: int = 0,
        out_of_memory: bool = False,
        stderr: str = "",
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task
        self.max_rss = max_rss
        self.out_of_memory = out_of_memory
        self.stderr = stderr

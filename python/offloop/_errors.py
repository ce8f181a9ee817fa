"""The errors of jobs, one class for each reason.

The engine's binding makes them by name.
"""

from __future__ import annotations

import queue
from concurrent.futures import CancelledError as CancelledError
from concurrent.futures.process import BrokenProcessPool

__all__ = [
    "JobShed",
    "OffloopError",
    "PoolBroken",
    "PoolClosed",
    "QueueFull",
    "QueueTimeout",
    "RunTimeout",
    "WorkerDied",
    "WorkerStartError",
]


class OffloopError(Exception):
    """A job has no result, for a reason other than an exception of its own."""


class PoolClosed(OffloopError, RuntimeError):
    """The pool takes no more jobs: it was shut down, or this process is a fork of the one that made it."""


class QueueFull(OffloopError, queue.Full):
    """The pool's queue was full and its policy is to reject."""


class JobShed(OffloopError):
    """The queue was full, and a newer job took the place of this one."""


class QueueTimeout(OffloopError, TimeoutError):
    """The job waited for a worker for longer than its `queue_timeout`, and was removed without being run."""


class RunTimeout(OffloopError, TimeoutError):
    """The job ran for longer than its `timeout`: its process is being ended, or its thread was asked to stop."""


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

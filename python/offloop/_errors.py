"""What can go wrong with a job, told apart by type."""

from __future__ import annotations

import queue
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool

__all__ = [
    "Broken",
    "CancelledError",
    "Closed",
    "CouldNotStart",
    "Error",
    "QueueFull",
    "QueueTimeout",
    "RunTimeout",
    "Shed",
    "WorkerDied",
]


class Error(Exception):
    """A job has no result, for a reason that is not its own exception."""


class Closed(Error, RuntimeError):
    """The pool no longer takes jobs: it was shut down, or belongs to the process that this one was forked from."""


class QueueFull(Error, queue.Full):
    """The pool's queue was full and its policy is to reject."""


class Shed(Error):
    """The queue was full, and newer work took this job's place."""


class QueueTimeout(Error, TimeoutError):
    """The job waited to start for longer than its limit and was removed unrun."""


class RunTimeout(Error, TimeoutError):
    """The job ran for longer than its limit: its process was killed, or its thread was asked to stop."""


class Broken(Error, BrokenProcessPool):
    """Another worker crashed, and the pool was made with `on_crash="break"`."""


class CouldNotStart(Error, BrokenProcessPool):
    """No worker could be started for the job; the message says why."""


class WorkerDied(Error, BrokenProcessPool):
    """The worker process died while it ran this job. Other jobs are not affected, and the worker is replaced."""

    pid: int
    """The process that died."""
    exitcode: int | None
    """Its exit status; minus the signal's number if a signal ended it; None if the system did not say."""
    task: str
    """The function that it ran."""
    peak_memory: int
    """The most memory that it ever had resident, in bytes; 0 if the system did not say."""
    out_of_memory: bool
    """Whether memory is to blame, as far as that can be told from outside."""
    stderr: str
    """The last that it wrote to standard error."""

    def __init__(
        self,
        message: str = "",
        *,
        pid: int = 0,
        exitcode: int | None = None,
        task: str = "",
        peak_memory: int = 0,
        out_of_memory: bool = False,
        stderr: str = "",
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task
        self.peak_memory = peak_memory
        self.out_of_memory = out_of_memory
        self.stderr = stderr

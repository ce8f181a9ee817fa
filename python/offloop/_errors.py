"""The errors of jobs that every pool can have, one class for each reason.

The engine's binding makes them by name.
"""

from __future__ import annotations

import queue
from concurrent.futures import CancelledError as CancelledError

__all__ = [
    "JobShed",
    "OffloopError",
    "PoolClosed",
    "QueueFull",
    "QueueTimeout",
    "RunTimeout",
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

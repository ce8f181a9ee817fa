"""The errors of jobs on a cluster. The engine's binding makes them by name."""

from __future__ import annotations

from ._errors import OffloopError

__all__ = ["ClusterUnreachable", "NoSuchTask", "NotTrusted", "WorkerLost"]


class ClusterUnreachable(OffloopError, ConnectionError):
    """The cluster's server could not be reached, or the job's end cannot be had from it; the message says why."""


class NoSuchTask(OffloopError, LookupError):
    """No worker of the queue has the task; the message names it, and the workers that were there."""


class NotTrusted(OffloopError, PermissionError):
    """A job was not run, or its end is ignored, because of who signed it; the message says what to do."""


class WorkerLost(OffloopError):
    """The worker that ran the job was lost, with its machine or its connection, and no start was left.

    The call may have run, in part or whole. `options(retries=...)` allows further starts.
    """

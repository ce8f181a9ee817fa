"""The reports of pools that are shut down within a limit."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ShutdownReport", "StuckJob"]


class StuckJob(NamedTuple):
    """A job that goes on although its pool was shut down: in a thread, which cannot be stopped."""

    name: str
    """The function."""
    worker: str
    """The thread or the process that runs it."""
    running_for: float
    """The seconds since it began to run."""


class ShutdownReport(NamedTuple):
    """What became of the jobs that a pool had when its shutdown began."""

    drained: int = 0
    """The number of jobs that ended by themselves."""
    cancelled: int = 0
    """The number of jobs that were removed from the queue, or that were asked to stop and stopped."""
    killed: int = 0
    """The number of jobs whose worker process was killed."""
    stuck: tuple[StuckJob, ...] = ()
    """The jobs that still run."""


def report_of(counts: tuple[int, int, int, list[tuple[str, str, float]]]) -> ShutdownReport:
    """Returns the engine's report as an object."""
    drained, cancelled, killed, stuck = counts
    return ShutdownReport(drained, cancelled, killed, tuple(StuckJob(*job) for job in stuck))


def check_drain_alone(wait: bool, cancel_futures: bool, timeout: float | None, kill_workers: bool = False) -> None:
    """Refuses what a shutdown with `drain` has no use for."""
    if not wait or cancel_futures or timeout is not None or kill_workers:
        raise TypeError(
            "shutdown(drain=...) takes no other argument: it waits for that many seconds, then cancels and ends what is left"
        )


def still_running(timeout: float | None, queued: int) -> TimeoutError:
    """Returns the exception of a shutdown that has waited for `timeout` seconds."""
    return TimeoutError(
        f"the pool was still running jobs {timeout} s after its shutdown, with {queued} more in its queue; they go on"
    )

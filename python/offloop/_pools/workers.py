"""Pools of workers of their own."""

from __future__ import annotations

from .executor import Pool


def check_max_workers(max_workers: int) -> None:
    """Raises ValueError unless there may be a worker."""
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")


class WorkerPool(Pool):
    """A pool of threads or processes, whose number has a limit."""

    _max_workers: int
    """The largest number of workers. The standard pools have it under this name, too."""

    @property
    def max_workers(self) -> int:
        """The largest number of workers. Threads that wait for another call of the pool are not counted."""
        return self._max_workers

    def resize(self, max_workers: int) -> None:
        """Sets the largest number of workers. More are started as they are needed; surplus ones finish what they run and
        leave. Does not block."""
        check_max_workers(max_workers)
        self._max_workers = max_workers
        self._set_max_workers(max_workers)

    def _set_max_workers(self, max_workers: int) -> None:
        """Tells the engine the largest number of workers."""
        raise NotImplementedError

    def __repr__(self) -> str:
        metrics = self.metrics()
        workers = sum(metrics.workers.values())
        parts = [f"{workers} of {self._max_workers} workers", f"{metrics.running} running"]
        parts += [f"{metrics.queued} queued", *self._end()]
        return f"<{type(self).__name__} {metrics.pool!r}: {', '.join(parts)}>"

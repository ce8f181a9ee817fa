"""Workers of a cluster: each is an agent of the engine, and a process pool that it feeds."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .._offloop import ClusterWorker
from .._pools.cores import usable_cores
from .._pools.processes import ProcessPoolExecutor
from .._worker import cluster

GRACE = 0.5
"""The seconds between SIGTERM and SIGKILL when a job is to end. Well below the lease of a job."""


class Agent:
    """A worker that serves."""

    def __init__(
        self,
        url: str,
        modules: Sequence[str],
        *,
        slots: int | None,
        preload: Sequence[str] = (),
        settings: Mapping[str, Any],
    ) -> None:
        self.slots = slots or usable_cores()
        self.pool = ProcessPoolExecutor(
            self.slots, preload=[*preload, *modules], name="cluster", grace=GRACE, nice=0, exit_timeout=0.0
        )
        try:
            # In a worker process, so that this one imports none of the modules.
            tasks = self.pool.submit(cluster.offers, tuple(modules)).result() if modules else []
            self.tasks = sorted(tasks)
            self._worker = ClusterWorker(
                url,
                self.pool._engine,
                set(self.tasks),
                f"{sys.version_info.major}.{sys.version_info.minor}",
                {**settings, "slots": self.slots},
            )
        except BaseException:
            self.pool._abort()
            raise

    @property
    def id(self) -> str:
        """The worker's id."""
        return self._worker.id

    def drain(self) -> None:
        """Takes no more jobs, and ends when those that run have ended or their time is over. Does not block."""
        self._worker.drain()

    def stop(self) -> None:
        """Ends now. Jobs that run are killed, and started elsewhere if they have a start left. Does not block."""
        self._worker.stop()

    def wait(self) -> list[str]:
        """Waits until the worker has ended. Returns the ids of the jobs that it could not let go of."""
        try:
            return self._worker.wait()
        finally:
            self.pool._abort()

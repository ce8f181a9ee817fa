"""A cluster of the program's own in the place of the standard process pool, for CPython's own tests:

    python cpython_suite.py process --target cluster_pool:ClusterPool

It needs a NATS server: see `ClusterExecutor.embedded`.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import time
from typing import Any

from offloop import ClusterExecutor
from offloop._cluster.embedded import EmbeddedCluster


class ClusterPool(ClusterExecutor):
    """An embedded cluster with one worker, which has as many processes as the test wants."""

    LEFT_OUT = {
        "Fork": "a cluster has no start methods, so the tests run with one of them",
        "Initializer": "a cluster's processes have no initializer: `preload` imports modules",
        "initializer": "the same",
        "test_processes_terminate": "looks into the processes of the pool, which are another program's here",
        "test_context_manager_shutdown": "the same; see tests_cluster",
        "test_del_shutdown": "the same",
        "test_shutdown_no_wait": "the same",
        "test_deadlock.": "expect that a crash breaks the pool; it ends one job here",
        "max_tasks": "a cluster does not count the tasks of its processes",
        "test_killed_child": "kills a process of the pool, which is another program's here",
        "test_spawn": "looks into the processes of the pool",
        "idle_process": "the same",
        "test_saturation": "the same",
        "terminate_workers": "a pool's own method",
        "kill_workers": "the same",
        "force_shutdown": "the same",
        "test_max_workers": "the standard pool's own limits",
    }
    """The tests that are left out, by a part of their names, and the reasons."""

    def __init__(self, max_workers: int | None = None, mp_context: Any = None, **options: Any) -> None:
        started = EmbeddedCluster(1, max_workers or os.cpu_count() or 1, ())
        self._open(started.url, {**started.settings, "name": "cluster"}, True, 60.0)
        self._cluster = started
        self._keep()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # type: ignore[override]
        """Shuts down as the standard pool does: it does not cancel jobs whose workers are still starting."""
        while cancel_futures and self._engine.queued() > self._engine.running() == 0:
            time.sleep(0.001)
        super().shutdown(wait, cancel_futures=cancel_futures)

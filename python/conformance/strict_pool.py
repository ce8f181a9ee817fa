"""The process pool with the standard one's behaviour and private names, for CPython's own tests."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.context import BaseContext
from typing import Any

from offloop import ProcessPoolExecutor
from offloop._offloop import Job
from offloop._pools.executor import PicklingFailed


class StrictProcessPoolExecutor(ProcessPoolExecutor):
    """Breaks at a crash and starts workers as the standard pool does, and has the private attributes that its tests
    use."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        *args: Any,
        max_tasks_per_child: int | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("on_crash", "break")
        # A standard worker has any time to hand over what it has put into queues.
        options.setdefault("grace", 10.0)
        super().__init__(
            max_workers, mp_context, *args, max_tasks_per_child=max_tasks_per_child, **options
        )
        if mp_context is None:
            mp_context = multiprocessing.get_context("spawn" if max_tasks_per_child else None)
        self._mp_context = mp_context
        self._executor_manager_thread = self._call_queue = _Joinable(self)

    def _dispatch(self, *args: Any, **options: Any) -> Job:
        """Starts a worker for a call that cannot be pickled, as the standard pool does: it pickles calls later."""
        try:
            return super()._dispatch(*args, **options)
        except PicklingFailed:
            self._engine.prestart(self._engine.target_workers() + 1)
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shuts down as the standard pool does: it does not cancel jobs whose workers are still starting."""
        while cancel_futures and not self._broken and self._engine.outstanding() == self._engine.queued() > 0:
            time.sleep(0.001)
        super().shutdown(wait, cancel_futures=cancel_futures)


class _Joinable:
    """Stands for the thread and the queue that the standard pool has, which its tests join."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._engine = pool._engine

    def join(self, timeout: float | None = None) -> None:
        """Waits until the pool's workers are gone. `timeout` is only the signature's."""
        self._engine.shutdown(None)

    def is_alive(self) -> bool:
        """Returns whether there are workers."""
        return bool(self._engine.workers())

    join_thread = join

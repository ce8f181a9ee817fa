"""The part that executors share whose jobs run in other processes."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._offloop import CallOptions
from .executor import PicklingFailed, Pool
from .futures import Future
from .listening import Listening
from .outcomes import Translator
from .process_future import ProcessFuture


class RemotePool(Pool):
    """An executor whose calls are pickled, and whose jobs can be killed."""

    _translator: Translator
    """Gives the users of futures the exceptions of their jobs."""
    _future_type: type[ProcessFuture[Any]] = ProcessFuture
    """The futures that `submit` returns."""
    _listening: Listening | None = None
    """What makes an event loop take the answers of workers, if this program has the workers."""

    def _submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> Future[Any]:
        future = self._future_type(self._translator)
        future._listening = self._listening
        try:
            try:
                job = self._dispatch(future, None, fn, args, kwargs, options)
            except PicklingFailed as failed:
                future._raise(failed.error)
            else:
                future._job = job
            return future
        finally:
            # The traceback of a pickling error leads to this frame, which must not hold the future that holds the error.
            del future

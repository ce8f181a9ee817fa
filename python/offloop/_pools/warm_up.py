"""The start of workers ahead of their first jobs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from typing import Any, final

__all__ = ["WarmUp"]


@final
class WarmUp:
    """Workers that are being started. Await it on an event loop, or call `wait()`."""

    def __init__(self, start: Callable[[], object]) -> None:
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            try:
                start()
            except BaseException as error:
                self._started.set_exception(error)
            else:
                self._started.set_result(None)

        threading.Thread(target=run, name="offloop-warm-up", daemon=True).start()

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the workers have started, for at most `timeout` seconds. Raises TimeoutError if they pass, and
        `WorkerStartError` if no worker can be started."""
        self._started.result(timeout)

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.wrap_future(self._started).__await__()

"""The items of a generator, in a worker process."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    _T = TypeVar("_T")
else:
    import _signal as signal

ends_by_signal = False
"""Whether a job that is to be stopped gets SIGTERM here: in a worker. Set once, when it begins. A job in the pool's own process,
which the policy "caller_runs" may put there, must leave that one's signals alone."""

is_stopped = False
"""Whether the job that runs here is being stopped. Then nobody reads its items and its log records any more. Never cleared,
since the process ends with the job."""


def send(make: Callable[[], Iterable[_T]], emit: Callable[[_T], object]) -> None:
    """Sends the items of the iterable that `make` returns.

    When the job is to be stopped, the pool ends this process by SIGTERM, and by SIGKILL after its grace period. So that the
    generator can clean up in between, the signal raises GeneratorExit in it, as `close()` does; then the process ends. If
    the job has a handler for the signal, that decides.
    """
    if not ends_by_signal or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        for item in make():
            emit(item)
        return

    def stop(_: int, __: object) -> None:
        global is_stopped
        is_stopped = True
        raise GeneratorExit("the job is stopped")

    items: Any = ()
    signal.signal(signal.SIGTERM, stop)
    try:
        items = make()
        for item in items:
            emit(item)
    finally:
        if is_stopped:
            _end(items)
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(items: Any) -> None:
    """Closes a generator, unless its code has just been left by an exception, and ends this process by SIGTERM."""
    # No second one may interrupt this.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        close: Callable[[], object] = getattr(items, "close", int)
        close()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, ValueError, OSError):
                pass
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

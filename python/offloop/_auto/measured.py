"""What calls cost, measured where they run. Worker processes import it, so it imports little."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import time
from threading import Thread
from typing import Any

from .. import _calls
from .._worker import pickling as _pickling
from .._worker import remote_errors as _remote_errors


class Stopwatch:
    """The CPU time that this thread burns, and the time in which it waits for something outside of this process."""

    def __init__(self, sees_queue: bool) -> None:
        self._delay = run_delay() if sees_queue else None
        self._cpu = time.thread_time()
        self._all_cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """CPU seconds, and seconds of waiting.

        Waiting for the GIL is not counted, as far as it shows: it is held by a thread that burns CPU, so only the
        time in which no thread of the process did can have been spent on anything else. Nor is the time, if the
        stopwatch sees it, in which the system had no core for this thread.
        Unseen is only the time in which the thread that holds the GIL has no core.
        """
        wall = time.perf_counter() - self._wall
        all_cpu = time.process_time() - self._all_cpu
        cpu = time.thread_time() - self._cpu
        waited = wall - max(cpu, all_cpu)
        if self._delay is not None:
            waited -= run_delay() - self._delay
        return cpu, max(0.0, waited)


def run_delay() -> float:
    """For how many seconds this thread could have run but had no core; 0 where the system does not say."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class GilProbe(Thread):
    """Wants the GIL again and again while a call runs, and sees how long it has to wait for it.

    Of a call that holds the GIL it gets it every 5 ms (`sys.getswitchinterval()`); of one that has released it, at
    once. It cannot tell who holds it.
    """

    NAP = 0.001

    def __init__(self) -> None:
        super().__init__(name="offloop-gil-probe", daemon=True)
        self._begun = time.perf_counter()
        self._ended: float | None = None
        self._waited = 0.0

    def run(self) -> None:
        self._begun = now = time.perf_counter()
        delay = run_delay()
        napped = 0.0
        while self._ended is None:
            now = time.perf_counter()
            time.sleep(self.NAP)
            napped += self.NAP
        # The last nap went on after the end.
        napped -= max(0.0, now + self.NAP - self._ended)
        self._waited = self._ended - self._begun - napped - (run_delay() - delay)

    def stop(self) -> float:
        """The share of the time in which it had to wait for the GIL, from 0 to 1; if it could not be started, 1."""
        self._ended = time.perf_counter()
        if self.ident is None:
            return 1.0
        self.join()
        took = self._ended - self._begun
        # If it came to begin only when the call had ended, it has waited for all of it.
        return min(1.0, max(0.0, self._waited / took)) if took > 0 else 1.0


class InWorker(functools.partial[Any]):
    """A function whose calls in a worker return a `Reply`, whether they return or raise."""

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[object, ...]:
        stopwatch = Stopwatch(sees_queue=True)
        failed = False
        try:
            value = super().__call__(*args, **kwargs)
            _calls.check_result(self, value)
        except BaseException as error:
            failed = True
            value = _remote_errors.pack(error)
        cpu, waited = stopwatch.stop()
        # Unpickling goes from left to right, so between the times is what it took to unpickle the value.
        return failed, cpu, waited, _Now(), _pickling.wrap_large(value), _Now()


class _Now:
    """Unpickles to the CPU time of the thread that does it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.thread_time, ()


class Reply:
    """What a call through `InWorker` came to, and what it cost."""

    def __init__(self, reply: tuple[Any, ...]) -> None:
        failed, self.cpu, self.waited, begun, self.value, ended = reply
        self.error = _remote_errors.unpack(self.value) if failed else None
        self.shipping: float = ended - begun
        """Seconds that it took to unpickle the value."""

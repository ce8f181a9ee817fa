"""The cost of calls, measured where they run. Worker processes import this module, so it imports little."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import time
from threading import Thread
from typing import Any

from .. import _calls
from .._offloop import run_delay
from .._worker import pickling, remote_errors


class Stopwatch:
    """Measures the CPU time of this thread, and the time in which it waits for something outside of this process.

    The engine's own meter serves another purpose: it leaves calls below 2 ms out, and takes a wait for the GIL for
    waiting.
    """

    def __init__(self, sees_queue: bool) -> None:
        self._delay = run_delay() if sees_queue else None
        self._cpu = time.thread_time()
        self._all_cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """Returns the CPU seconds, and the seconds of waiting.

        Time in which this thread waits for the GIL is not counted as waiting. The thread that holds the GIL uses CPU
        time, so only the time in which no thread of the process used any can be a wait for something else. With
        `sees_queue`, the time in which the system had no core for this thread is not counted either. The time in
        which the thread that holds the GIL has no core cannot be seen, and counts.
        """
        wall = time.perf_counter() - self._wall
        all_cpu = time.process_time() - self._all_cpu
        cpu = time.thread_time() - self._cpu
        waited = wall - max(cpu, all_cpu)
        if self._delay is not None:
            waited -= run_delay() - self._delay
        return cpu, max(0.0, waited)


class GilProbe(Thread):
    """Asks for the GIL again and again while a call runs, and measures how long it waits for it.

    While a call holds the GIL, the probe gets it every 5 ms (`sys.getswitchinterval()`); while the call has released
    it, at once. It cannot tell which thread holds the GIL.

    Both are measured in the time in which the process had a core. A thread that holds the GIL and has no core is not
    computing, and a probe that has no core is not waiting for the GIL.
    """

    NAP = 0.001
    """Seconds between two requests."""

    def __init__(self) -> None:
        super().__init__(name="offloop-gil-probe", daemon=True)
        self._begun = time.perf_counter()
        self._cpu = time.process_time()
        self._ended: float | None = None
        self._waited = 0.0

    def start(self) -> None:
        self._begun = time.perf_counter()
        self._cpu = time.process_time()
        super().start()

    def run(self) -> None:
        # The first request is that of the new thread itself, whose delay begins at 0.
        begun, delay, cpu, nap = self._begun, 0.0, self._cpu, 0.0
        while True:
            now, delayed, used = time.perf_counter(), run_delay(), time.process_time()
            ended = self._ended
            # After its nap it has waited for a core, or while the process used one, for the GIL.
            waited = min(now - begun - nap - (delayed - delay), used - cpu)
            if ended is not None:
                waited = min(waited, ended - begun - nap)
            self._waited += max(0.0, waited)
            if ended is not None:
                return
            begun, delay, cpu, nap = now, delayed, used, self.NAP
            time.sleep(nap)

    def stop(self) -> float:
        """Returns the share of the time in which it waited for the GIL, from 0 to 1; 1 if it could not be started."""
        self._ended = time.perf_counter()
        cpu = time.process_time() - self._cpu
        if self.ident is None:
            return 1.0
        self.join()
        ran = min(cpu, self._ended - self._begun)
        return min(1.0, self._waited / ran) if ran > 0 else 0.0


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
            value = remote_errors.pack(error)
        cpu, waited = stopwatch.stop()
        # Unpickling goes from left to right, so the two times enclose the unpickling of the value.
        return failed, cpu, waited, _Now(), pickling.wrap_large(value), _Now()


class _Now:
    """Unpickles to the CPU time of the thread that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.thread_time, ()


class Reply:
    """The result of a call through `InWorker`, and its cost."""

    def __init__(self, reply: tuple[Any, ...]) -> None:
        failed, self.cpu, self.waited, begun, self.value, ended = reply
        self.error = remote_errors.unpack(self.value) if failed else None
        self.shipping: float = ended - begun
        """The CPU seconds of unpickling the value."""

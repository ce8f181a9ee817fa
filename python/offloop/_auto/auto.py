"""`offloop.auto`: threads or processes for a function, by what its calls were measured to do."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, TypeVar, final

from .._pools import default as _default
from .._worker import pickling as _pickling
from .._calls import check_sync, name_of
from .._errors import Error
from .._pools.loop import JobFuture
from .._auto.measured import GilProbe, InWorker, Reply, Stopwatch
from .._worker.replies import Unreadable

R = TypeVar("R")
Place = Literal["threads", "processes"]

ENOUGH = 2
"""How many calls have to be seen before one is examined."""
LONG = 0.002
"""Seconds of CPU from which on a call is worth a process: the round trip is a twentieth of that."""
SHORT = 0.001
"""Seconds of CPU below which a call is not worth it any more."""
COMPUTES = 0.3
"""The share of CPU time in a call's time from which on it computes."""
WAITS = 0.15
"""And below which, in a process, it waits: the gap between the two keeps a function from going to and fro."""
HOLDS_GIL = 0.5
"""The share of a call's time for which others have to wait for the GIL, if it holds that. With an idle machine it is five
sixths or next to nothing."""
CHEAP = 0.25
"""What pickling may cost of the CPU time that it moves to a process."""
DEAR = 0.5
"""And at which cost the function comes back."""
TRIAL = 3
"""How many calls in processes have to be seen before their function may come back."""
FIRST_PATIENCE, LAST_PATIENCE = 8, 2048
"""After how many calls it is examined again, the first time and at most; four times as many each time."""
FADING = 0.25
"""What the latest call counts for in a mean, so that older ones fade."""

_UNPICKLABLE = "it does not pickle"
_UNPICKLABLE_RESULT = "its result does not pickle"

_logger = logging.getLogger("offloop.auto")


@dataclass(frozen=True)
class Placement:
    """Where `offloop.auto` runs a function, and why. `str()` of it says it all."""

    place: Place
    reason: str
    calls: int
    """How many of its calls have been measured."""
    cpu: float
    """CPU seconds of a call, a mean of the latest ones where it runs now."""
    share: float
    """The share of CPU time in a call's time, from 0 to 1."""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@final
class _Mean:
    """What calls cost of late."""

    def __init__(self) -> None:
        self.calls = 0
        self.cpu = 0.0
        self.waited = 0.0
        self.shipping = 0.0

    def add(self, cpu: float, waited: float, shipping: float) -> None:
        self.calls += 1
        weight = max(FADING, 1 / self.calls)
        self.cpu += weight * (cpu - self.cpu)
        self.waited += weight * (waited - self.waited)
        self.shipping += weight * (shipping - self.shipping)

    @property
    def share(self) -> float:
        time = self.cpu + self.waited
        return self.cpu / time if time else 0.0

    def __str__(self) -> str:
        return f"{_percent(self.share)} CPU, which is {_duration(self.cpu)} a call"


# Reentrant, as a garbage collection may call in here.
_lock = threading.RLock()


@final
class _Record:
    """What is known of a function."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.place: Place = "threads"
        self.is_pinned = False
        self.calls = 0
        self.mean = _Mean()
        """Of the calls that ran where it is now."""
        self._reason = ""
        """Why it is in processes; in threads, why it is there although it computes."""
        self._next_exam = ENOUGH
        self._patience = FIRST_PATIENCE
        self._is_examined = False

    def begin_exam(self) -> bool:
        """Whether the call that begins is the one to be examined. Then `end_exam` is to be called."""
        with _lock:
            due = self.calls >= self._next_exam and not self._is_examined and not self.is_pinned
            if not due or self.place == "processes" or not self.computes():
                return False
            self._is_examined = True
            return True

    def end_exam(self, objection: str | None) -> None:
        """Without an objection, the function goes to processes; None: there was no result."""
        with _lock:
            self._is_examined = False
            if objection is None or self.is_pinned:
                return
            if objection:
                self._reason = objection
                self._wait_longer()
                return
            self.place = "processes"
            self._reason = f"since call {self.calls + 1}, {self.mean}, and it pickles"
            self.mean = _Mean()
        _logger.info("%s goes to processes: %s", self.name, self._reason)

    def computes(self) -> bool:
        return self.mean.cpu >= LONG and self.mean.share >= COMPUTES

    def add(self, place: Place, cpu: float, waited: float, shipping: float = 0.0) -> None:
        """Notes a call that ran there."""
        with _lock:
            self.calls += 1
            if place != self.place:
                return
            mean = self.mean
            mean.add(cpu, waited, shipping)
            if place == "threads" or mean.calls < TRIAL or self.is_pinned:
                return
            if mean.cpu < SHORT:
                why = f"in processes its calls were too short to be sent there: {_duration(mean.cpu)} of CPU"
            elif mean.share < WAITS:
                why = f"in processes it waited: {mean}"
            elif mean.shipping > DEAR * mean.cpu:
                why = f"{_duration(mean.cpu)} of CPU are not worth the pickling, {_duration(mean.shipping)} a call"
            else:
                return
        self.come_back(why)

    def come_back(self, why: str) -> None:
        """From processes to threads."""
        with _lock:
            if self.is_pinned or self.place == "threads":
                return
            self.place = "threads"
            self.mean = _Mean()
            self._reason = why
            self._wait_longer()
        _logger.info("%s comes back to threads: %s", self.name, why)

    def _wait_longer(self) -> None:
        self._next_exam = self.calls + self._patience
        self._patience = min(4 * self._patience, LAST_PATIENCE)

    def pin(self, place: Place) -> None:
        with _lock:
            self.is_pinned = True
            if place != self.place:
                self.place = place
                self.mean = _Mean()

    def explain(self) -> Placement:
        with _lock:
            mean = self.mean
            return Placement(self.place, self._explain(), self.calls, mean.cpu, mean.share)

    def _explain(self) -> str:
        mean = self.mean
        measured = f"{self.calls} call{'' if self.calls == 1 else 's'}"
        if mean.calls:
            measured += f", lately {mean}"
        if self.is_pinned:
            return f"pinned; {measured}"
        if self.place == "processes":
            return f"{self._reason}; {measured}" if mean.calls else self._reason
        if self._reason and (self.computes() or not mean.calls):
            again = max(1, self._next_exam - self.calls)
            return f"CPU-bound, but {self._reason}; {measured}; examined again in {again} calls"
        if not mean.calls:
            return "none of its calls has ended yet"
        if self.computes():
            return f"{measured}: CPU-bound as it seems, which a call that is examined has to confirm"
        if mean.share >= COMPUTES:
            return f"{measured}: too little for a process"
        if mean.cpu >= LONG:
            return f"{measured}: it mostly waits, and what it computes could go to offloop.run_cpu by itself"
        return f"{measured}: it waits"


class Auto:
    """Runs calls on the shared threads or in the shared processes, by what was measured of their function.

    Each function begins in threads. When its calls turn out to compute (2 ms of CPU or more, in 30 % of their time or
    more) one more of them is examined in its thread: whether it pickles, what that costs, and whether it holds the GIL.
    If a process is of use, the *following* calls go there; a call that has begun stays where it is, and none is
    run twice. They come back when they have come to wait there, to be short, or not to pickle, and then it takes more
    calls, each time, until they are tried again. A first burst of calls therefore runs in threads, all of it;
    `offloop.run_cpu` knows better from the first call on.

    It is for functions that take values and return values. In a process a function cannot change its arguments or
    this process's variables, sees no context variables of its caller (OpenTelemetry's excepted), and is killed when it
    is cancelled; in a thread it can, it does, and it is only asked to stop. What depends on one of these belongs to `offloop.run` or
    `offloop.run_cpu`, or is pinned.

    It goes by means over the latest calls, so a function that is given small and large arguments in turn is judged by
    their mixture. It knows functions by their code: closures of one `def` or `lambda` are one function, decorated
    ones count as what `__wrapped__` leads to, methods as the function of their class.

    What it cannot see: who holds the GIL. Where other threads keep it busy, or the machine has no core to spare, a
    function that releases it (hashing, NumPy) may be sent to a process, which is of no use but does no harm. And of
    a call that waits and computes by turns the one part is in the wrong place either way: split it.

    Moves are logged by "offloop.auto", as INFO.
    """

    def __init__(self) -> None:
        self._records: dict[tuple[int, str], tuple[weakref.ref[Any], _Record]] = {}

    def __call__(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> JobFuture[R]:
        """Runs `fn(*args, **kwargs)` in the shared threads or processes; await it.

        See `Pool.run` for the keywords. Does not block, but to pickle the call if that goes to a process. A call that
        does not pickle runs in a thread. A result that does not pickle is an error of the one call that found it so.
        """
        check_sync(fn)
        loop = asyncio.get_running_loop()
        record = self._record_of(fn)
        limits = timeout, queue_timeout, priority
        if record.place == "processes":
            return _in_process(record, loop, fn, args, kwargs, limits)
        future: JobFuture[R] = JobFuture(loop=loop)
        _in_thread(future, record, loop, fn, args, kwargs, limits)
        return future

    def explain(self, fn: Callable[..., object], /) -> Placement:
        """Where the next call of `fn` would run, and why."""
        return self._record_of(fn).explain()

    def pin(self, fn: Callable[..., object], /, place: Place) -> None:
        """Has all calls of `fn` run in "threads" or "processes" from now on, whatever is measured, until `forget`.

        What does not pickle still runs in threads.
        """
        if place not in ("threads", "processes"):
            raise ValueError(f'place is {place!r}; it must be "threads" or "processes"')
        self._record_of(fn).pin(place)

    def forget(self, fn: Callable[..., object] | None = None, /) -> None:
        """Forgets what is known of `fn`, or of all functions: they begin in threads again."""
        if fn is None:
            self._records = {}
        else:
            anchor, name = _anchor(fn)
            self._records.pop((id(anchor), name), None)

    def _record_of(self, fn: Callable[..., object]) -> _Record:
        anchor, name = _anchor(fn)
        key = id(anchor), name
        records = self._records
        known = records.get(key)
        if known is not None and known[0]() is anchor:
            return known[1]

        def leave(gone: weakref.ref[Any]) -> None:
            if (known := records.get(key)) is not None and known[0] is gone:
                del records[key]

        with _lock:
            known = records.get(key)
            if known is None or known[0]() is not anchor:
                known = weakref.ref(anchor, leave), _Record(name_of(fn))
                records[key] = known
        return known[1]


auto = Auto()


def _reset() -> None:
    global _lock
    _lock = threading.RLock()
    auto.forget()


# What the parent's calls were doing is not the child's.
os.register_at_fork(after_in_child=_reset)


def _anchor(fn: object) -> tuple[object, str]:
    """What stands for a function: an object that lives as long as calls of it may come, and a name beside it."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        elif isinstance(fn, FunctionType):
            # Not the function, which is made anew each time if it is a lambda.
            if (wrapped := fn.__dict__.get("__wrapped__")) is None:
                return fn.__code__, ""
            fn = wrapped
        else:
            break
    if isinstance(fn, BuiltinFunctionType):
        owner: object = fn.__self__
        if isinstance(owner, ModuleType):
            return fn, ""
        # A method of a type in C: the function is made anew at each look at it.
        return owner if isinstance(owner, type) else type(owner), fn.__name__
    if isinstance(fn, type):
        return fn, ""
    called: object = getattr(type(fn), "__call__", None)
    if isinstance(called, FunctionType):
        return called.__code__, ""
    try:
        weakref.ref(fn)
    except TypeError:
        return type(fn), str(getattr(fn, "__qualname__", ""))
    return fn, ""


Limits = tuple["float | None", "float | None", int]


class _Timed(functools.partial[Any]):
    """A function whose calls are measured on their thread. A partial, as those are seen through."""

    record: _Record

    def __repr__(self) -> str:
        # What the engine names the call by.
        return self.record.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        record = self.record
        if record.begin_exam():
            objection = None
            try:
                value, objection = self._examine(args, kwargs)
            finally:
                record.end_exam(objection)
            return value
        # To look at the queue takes a while, which short calls are spared.
        stopwatch = Stopwatch(sees_queue=record.mean.calls == 0 or record.mean.cpu >= LONG)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            record.add("threads", *stopwatch.stop())

    def _examine(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str | None]:
        """What the call returns, and what keeps it from going to a process: "" if nothing does."""
        objection = ""
        begun = time.thread_time()
        try:
            # Before the call, which may change them.
            sent = _pickling.wrap_call(args, kwargs)
            _pickling.dumps((InWorker(self.func), (*self.args, *sent[0]), {**self.keywords, **sent[1]}), _keep)
        except Exception as error:
            objection = f"{_UNPICKLABLE} ({error})"
        shipping = time.thread_time() - begun

        probe = GilProbe()
        with contextlib.suppress(RuntimeError):  # there are too many threads
            probe.start()
        stopwatch = Stopwatch(sees_queue=True)
        try:
            value = super().__call__(*args, **kwargs)
        finally:
            cpu, waited = stopwatch.stop()
            held = probe.stop()
            self.record.add("threads", cpu, waited)

        if objection:
            return value, objection
        begun = time.thread_time()
        try:
            _pickling.dumps(_pickling.wrap_large(value), _keep)
        except Exception as error:
            return value, f"{_UNPICKLABLE_RESULT} ({error})"
        shipping += time.thread_time() - begun
        if cpu < LONG:
            return value, None
        if shipping > CHEAP * cpu:
            return value, f"the pickling would take {_duration(shipping)} for {_duration(cpu)} of CPU"
        if held < HOLDS_GIL:
            return value, f"it leaves the GIL to others, who waited for it {_percent(held)} of the time"
        return value, ""


def _keep(buffer: Any) -> bool:
    from .._worker import main as _worker

    return _worker.keep(buffer)


def _in_thread(
    future: JobFuture[Any],
    record: _Record,
    loop: asyncio.AbstractEventLoop,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    limits: Limits,
) -> None:
    timed = _Timed(fn)
    timed.record = record
    _default.threads()._start(future, loop, timed, args, kwargs, *limits)


def _in_process(
    record: _Record,
    loop: asyncio.AbstractEventLoop,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    limits: Limits,
) -> JobFuture[Any]:
    from .._pools.processes import Unsent

    context = contextvars.copy_context()

    def in_thread(future: JobFuture[Any]) -> None:
        context.run(_in_thread, future, record, loop, fn, args, kwargs, limits)

    future = _Sent(loop, record, in_thread)
    begun = time.thread_time()
    try:
        _default.processes()._send(future, loop, InWorker(fn), args, kwargs, *limits)
    except Unsent as unsent:
        future._return(unsent.error, _UNPICKLABLE)
    else:
        future._shipping = time.thread_time() - begun
    return future


class _Sent(JobFuture[Any]):
    """The future of a call in a process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        record: _Record,
        in_thread: Callable[[JobFuture[Any]], None],
    ) -> None:
        super().__init__(loop=loop)
        self._record = record
        self._in_thread: Callable[[JobFuture[Any]], None] | None = in_thread
        """Runs the call in a thread; None if it does run there."""
        self._shipping = 0.0

    def _return(self, error: BaseException, why: str) -> None:
        """The call could not be made in a process, and has not begun there."""
        self._record.come_back(f"{why} ({error})")
        in_thread, self._in_thread = self._in_thread, None
        if self.done():
            return
        if in_thread is None or not isinstance(error, Exception):
            super()._fail(error)
            return
        self._translate = None
        try:
            in_thread(self)
        except Exception as refusal:  # by a thread pool that is shut down
            super()._fail(refusal)

    def _arrive(self, value: Any) -> None:
        if self._in_thread is None:
            super()._arrive(value)
            return
        self._in_thread = None
        reply = Reply(value)
        self._record.add("processes", reply.cpu, reply.waited, self._shipping + reply.shipping)
        if reply.error is not None:
            super()._fail(reply.error)
        else:
            super()._arrive(reply.value)

    def _fail(self, error: BaseException) -> None:
        if self._in_thread is not None:
            if isinstance(error, Unreadable) and not error.has_run:
                self._return(error.error, "worker processes cannot unpickle it")
                return
            # What the function raises is in a reply; this is about the pool, or about the result.
            if not isinstance(error, (Error, CancelledError)):
                self._record.come_back(f"{_UNPICKLABLE_RESULT} ({error})")
        super()._fail(error)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"

"""`offloop.auto`: chooses threads or processes for each function, by measurements of its calls."""
# pyright: reportPrivateUsage=false
# mypy: disable-error-code="overload-overlap"

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
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, Never, ParamSpec, TypeVar, final, overload

from .._calls import check_sync, name_of
from .._offloop import CallOptions
from .._pools import default
from .._pools.executor import PicklingFailed
from .._pools.loop import JobFuture
from .._worker import pickling
from .._worker.main import travels_beside
from .._worker.replies import Unreadable
from .measured import GilProbe, InWorker, Reply, Stopwatch

if TYPE_CHECKING:
    from .._calls import AsyncFunctionRefused, AsyncResult

__all__ = ["AutoOptions", "Placement", "auto"]

P = ParamSpec("P")
R = TypeVar("R")
Place = Literal["threads", "processes"]

# The numbers of all decisions. The pools' advice and the watch say "computes" from half of the time on, a bound of
# the engine. The two bounds here are others, because they do not describe a call but move it: a call that holds the
# GIL for a third of its time is worth a process, and between the bounds a function stays where it is.

ENOUGH = 2
"""The number of calls that are measured before one is examined."""
LONG = 0.002
"""The CPU seconds from which a call is worth a process: the round trip takes a twentieth of that."""
SHORT = 0.001
"""The CPU seconds below which the calls of a function that is in processes come back."""
COMPUTES = 0.3
"""The share of CPU time in a call's time from which it computes."""
WAITS = 0.15
"""The share of CPU time below which a call in a process waits. The gap to `COMPUTES` keeps a function from moving
back and forth."""
HOLDS_GIL = 0.5
"""The share of a call's time for which the probe waits for the GIL, from which the call is taken to hold it. On an
idle machine the share is five sixths or nearly nothing."""
CHEAP = 0.25
"""The largest cost of pickling, as a share of the CPU time that moves to a process."""
DEAR = 0.5
"""The cost of pickling, as such a share, from which the function comes back."""
TRIAL = 3
"""The number of calls in processes that are measured before their function may come back."""
FIRST_WAIT, LAST_WAIT = 8, 2048
"""The number of calls after which a function is examined again, at first and at most. It grows fourfold each time."""
FADING = 0.25
"""The weight of the latest call in a mean."""

_UNPICKLABLE = "it cannot be pickled"
_UNPICKLABLE_RESULT = "its result cannot be pickled"

_logger = logging.getLogger("offloop.auto")


@dataclass(frozen=True)
class Placement:
    """The place where `offloop.auto` runs a function, and the reason. `str()` of it has both."""

    place: Place
    reason: str
    calls: int
    """The number of its calls that have been measured."""
    cpu: float
    """The CPU seconds of a call: a mean over the latest calls in this place."""
    share: float
    """The share of CPU time in a call's time, from 0 to 1."""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@final
class _Mean:
    """The mean cost of the latest calls, in seconds."""

    def __init__(self) -> None:
        self.calls = 0
        self.cpu = 0.0
        self.waited = 0.0
        self.shipping = 0.0
        """The CPU time of pickling calls and unpickling results."""

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


# Guards all records. Reentrant, because a garbage collection while it is held may call `forget`.
_lock = threading.RLock()


@final
class _Record:
    """The measurements of one function, and the decision about it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.place: Place = "threads"
        self.is_pinned = False
        self.calls = 0
        """The number of calls measured, in both places."""
        self.mean = _Mean()
        """The cost of the calls since the last move."""
        self._reason = ""
        """The reason why it is in processes; in threads, why it is there although it computes."""
        self._next_exam = ENOUGH
        """The number of calls from which one is examined."""
        self._next_wait = FIRST_WAIT
        """The number of calls until the next examination, if the function stays in threads or comes back."""
        self._is_examined = False
        """Whether a call is being examined."""

    def begin_exam(self) -> bool:
        """Returns whether the call that begins is to be examined. If so, `end_exam` must be called."""
        with _lock:
            due = self.calls >= self._next_exam and not self._is_examined and not self.is_pinned
            if not due or self.place == "processes" or not self.computes():
                return False
            self._is_examined = True
            return True

    def end_exam(self, objection: str | None) -> None:
        """Moves the function to processes if the objection is empty; None means that the call has no result."""
        with _lock:
            self._is_examined = False
            if objection is None or self.is_pinned:
                return
            if objection:
                self._reason = objection
                self._wait_longer()
                return
            self.place = "processes"
            self._reason = f"since call {self.calls + 1}, {self.mean}, and it can be pickled"
            self.mean = _Mean()
        _logger.info("%s goes to processes: %s", self.name, self._reason)

    def computes(self) -> bool:
        """Returns whether the latest calls compute, for long enough to be worth a process."""
        return self.mean.cpu >= LONG and self.mean.share >= COMPUTES

    def add(self, place: Place, cpu: float, waited: float, shipping: float = 0.0) -> None:
        """Records a call that ran in `place`."""
        with _lock:
            self.calls += 1
            if place != self.place:
                return
            mean = self.mean
            mean.add(cpu, waited, shipping)
            if place == "threads" or mean.calls < TRIAL or self.is_pinned:
                return
            if mean.cpu < SHORT:
                why = f"in processes its calls were too short to be worth sending: {_duration(mean.cpu)} of CPU"
            elif mean.share < WAITS:
                why = f"in processes it waited: {mean}"
            elif mean.shipping > DEAR * mean.cpu:
                why = f"{_duration(mean.cpu)} of CPU are not worth the pickling, {_duration(mean.shipping)} a call"
            else:
                return
        self.come_back(why)

    def come_back(self, why: str) -> None:
        """Moves the function from processes to threads."""
        with _lock:
            if self.is_pinned or self.place == "threads":
                return
            self.place = "threads"
            self.mean = _Mean()
            self._reason = why
            self._wait_longer()
        _logger.info("%s comes back to threads: %s", self.name, why)

    def _wait_longer(self) -> None:
        self._next_exam = self.calls + self._next_wait
        self._next_wait = min(4 * self._next_wait, LAST_WAIT)

    def pin(self, place: Place) -> None:
        """Keeps the function in `place`, whatever is measured."""
        with _lock:
            self.is_pinned = True
            if place != self.place:
                self.place = place
                self.mean = _Mean()

    def explain(self) -> Placement:
        """Returns the place of the function's next call, with the reason."""
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
            return f"{measured}: it seems CPU-bound, which the examination of a call has to confirm"
        if mean.share >= COMPUTES:
            return f"{measured}: too little for a process"
        if mean.cpu >= LONG:
            return f"{measured}: it mostly waits; the part that computes could go to offloop.run_cpu by itself"
        return f"{measured}: it waits"


class Auto:
    """Runs calls on the shared threads or in the shared processes, by measurements of their function.

    Each function begins in threads. When its calls turn out to compute (2 ms of CPU or more, which are 30 % of their
    time or more), one more call is examined in its thread: whether it can be pickled, what that costs, and whether it
    holds the GIL. If a process is of use, the *following* calls go there. A call that has begun stays where it is,
    and no call runs twice. The function comes back to threads if its calls in processes wait, are short, or cannot be
    pickled; after each return it takes more calls until the function is tried again. A first burst of calls therefore
    runs entirely in threads; use `offloop.run_cpu` for functions that are known to compute.

    It is for functions that take values and return values. In a process a function cannot change its arguments or
    this process's variables, sees no context variables of its caller (except OpenTelemetry's), and is killed when it
    is cancelled; in a thread it can change them, sees them all, and is only asked to stop. Use `offloop.run` or
    `offloop.run_cpu` for functions that depend on one of these, or pin them.

    The measurements are means over the latest calls, so a function that gets small and large arguments in turn is
    judged by their mixture. Functions are told apart by their code: closures of one `def` or `lambda` are one
    function, a decorated function counts as the one that `__wrapped__` leads to, and a method as the function of its
    class.

    It cannot see which thread holds the GIL. Where other threads keep it busy, or the machine has no free core, a
    function that releases it (hashing, NumPy) may be sent to a process, which is of no use but does no harm. If a
    call waits and computes in turn, one of the two parts is in the wrong place either way: split it.

    Moves are logged by the logger "offloop.auto", at level INFO.
    """

    def __init__(self) -> None:
        self._records: dict[tuple[int, str], tuple[weakref.ref[Any], _Record]] = {}

    @overload
    def __call__(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[Any]: ...
    @overload
    def __call__(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def __call__(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[R]: ...
    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs `fn(*args, **kwargs)` in the shared threads or processes; await it.

        Use `options` to limit the time. Does not block, except while it pickles a call that goes to a
        process. A call that cannot be pickled runs in a thread. If the result of a call in a process cannot be
        pickled, that call ends with an error, and the following ones run in threads.
        """
        return self._run(fn, args, kwargs)

    def options(
        self,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: int = 0,
        name: str | None = None,
        request: str | None = None,
        retries: int = 0,
    ) -> AutoOptions:
        """Returns this function with options, which are those of `offloop.options`:
        `await offloop.auto.options(timeout=5)(fn, ...)`."""
        return AutoOptions(
            self,
            CallOptions(
                timeout=timeout,
                queue_timeout=queue_timeout,
                priority=priority,
                name=name,
                request=request,
                retries=retries,
            ),
        )

    def _run(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> JobFuture[Any]:
        check_sync(fn)
        loop = asyncio.get_running_loop()
        record = self._record_of(fn)
        if record.place == "processes":
            return _in_process(record, loop, fn, args, kwargs, options)
        future: JobFuture[Any] = JobFuture(loop=loop)
        _in_thread(future, record, loop, fn, args, kwargs, options)
        return future

    def explain(self, fn: Callable[..., object], /) -> Placement:
        """Returns the place where the next call of `fn` would run, with the reason."""
        return self._record_of(fn).explain()

    def pin(self, fn: Callable[..., object], /, place: Place) -> None:
        """Runs all calls of `fn` in "threads" or in "processes" from now on, whatever is measured, until `forget`.

        Calls that cannot be pickled still run in threads.
        """
        if place not in ("threads", "processes"):
            raise ValueError(f"place is {place!r}; it must be 'threads' or 'processes'")
        self._record_of(fn).pin(place)

    def forget(self, fn: Callable[..., object] | None = None, /) -> None:
        """Forgets the measurements of `fn`, or of all functions: they begin in threads again."""
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
            with _lock:
                if (known := records.get(key)) is not None and known[0] is gone:
                    del records[key]

        with _lock:
            known = records.get(key)
            if known is None or known[0]() is not anchor:
                known = weakref.ref(anchor, leave), _Record(name_of(fn))
                records[key] = known
        return known[1]


@final
class AutoOptions:
    """`offloop.auto` with options for calls, made by `offloop.auto.options(...)`. Immutable."""

    def __init__(self, auto: Auto, options: CallOptions) -> None:
        self._auto = auto
        self._options = options

    @overload
    def __call__(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[Any]: ...
    @overload
    def __call__(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def __call__(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[R]: ...
    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs `fn(*args, **kwargs)` in the shared threads or processes, as `offloop.auto` does, with these options."""
        return self._auto._run(fn, args, kwargs, self._options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AutoOptions):
            return NotImplemented
        return self._auto is other._auto and self._options == other._options

    def __hash__(self) -> int:
        return hash(self._options)

    def __repr__(self) -> str:
        return f"offloop.auto.options({self._options})"


auto = Auto()


def _reset_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    auto.forget()


# Measurements of the parent's calls do not hold in a child made by fork().
os.register_at_fork(after_in_child=_reset_in_child)


def _anchor(fn: object) -> tuple[object, str]:
    """Returns the identity of a function: an object that lives as long as it can be called, and a name beside it."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        elif isinstance(fn, FunctionType):
            # The code, because a lambda or a closure is a new function object each time.
            if (wrapped := fn.__dict__.get("__wrapped__")) is None:
                return fn.__code__, ""
            fn = wrapped
        else:
            break
    if isinstance(fn, BuiltinFunctionType):
        owner: object = fn.__self__
        if isinstance(owner, ModuleType):
            return fn, ""
        # A method of a type in C: each access to it makes a new function object.
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


class _Timed(functools.partial[Any]):
    """A function whose calls are measured on their thread. It is a partial so that `name_of` sees through it."""

    record: _Record

    def __repr__(self) -> str:
        # The engine uses it as the name of the call.
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
        # Reading the system's queue takes too long for short calls.
        stopwatch = Stopwatch(sees_queue=record.mean.calls == 0 or record.mean.cpu >= LONG)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            record.add("threads", *stopwatch.stop())

    def _examine(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str | None]:
        """Runs the call. Returns its value, and the objection to running it in a process: "" if there is none."""
        objection = ""
        begun = time.thread_time()
        try:
            # The arguments are pickled before the call, which may change them.
            sent = pickling.wrap_call(args, kwargs)
            call = InWorker(self.func), (*self.args, *sent[0]), {**self.keywords, **sent[1]}
            pickling.dumps(call, travels_beside)
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
            pickling.dumps(pickling.wrap_large(value), travels_beside)
        except Exception as error:
            return value, f"{_UNPICKLABLE_RESULT} ({error})"
        shipping += time.thread_time() - begun
        if cpu < LONG:
            return value, None
        if shipping > CHEAP * cpu:
            return value, f"the pickling would take {_duration(shipping)} for {_duration(cpu)} of CPU"
        if held < HOLDS_GIL:
            return value, f"it releases the GIL: another thread waited for that in {_percent(held)} of the time"
        return value, ""


def _in_thread(
    future: JobFuture[Any],
    record: _Record,
    loop: asyncio.AbstractEventLoop,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: CallOptions | None,
) -> None:
    timed = _Timed(fn)
    timed.record = record
    future._job = default.threads()._dispatch(future, loop, timed, args, kwargs, options)


def _in_process(
    record: _Record,
    loop: asyncio.AbstractEventLoop,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: CallOptions | None,
) -> JobFuture[Any]:
    context = contextvars.copy_context()

    def in_thread(future: JobFuture[Any]) -> None:
        context.run(_in_thread, future, record, loop, fn, args, kwargs, options)

    future = _ProcessCall(loop, record, in_thread)
    begun = time.thread_time()
    try:
        future._job = default.cpu_pool()._dispatch(future, loop, InWorker(fn), args, kwargs, options)
    except PicklingFailed as failed:
        future._retry_in_thread(failed.error, _UNPICKLABLE)
    else:
        future._shipping = time.thread_time() - begun
    return future


class _ProcessCall(JobFuture[Any]):
    """The future of a call in a process. If the call cannot be sent there, it runs in a thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        record: _Record,
        in_thread: Callable[[JobFuture[Any]], None],
    ) -> None:
        super().__init__(loop=loop)
        self._record = record
        self._in_thread: Callable[[JobFuture[Any]], None] | None = in_thread
        """Runs the call in a thread; None once it has ended in a process, or runs in a thread."""
        self._shipping = 0.0
        """The CPU seconds of pickling the call."""

    def _retry_in_thread(self, error: BaseException, why: str) -> None:
        """Runs the call in a thread, because it could not be sent to a process and has not begun there."""
        self._record.come_back(f"{why} ({error})")
        in_thread, self._in_thread = self._in_thread, None
        if self.done():
            return
        if in_thread is None or not isinstance(error, Exception):
            super()._raise(error)
            return
        self._translator = None
        try:
            in_thread(self)
        except Exception as refusal:  # the interpreter is exiting, for example
            super()._fail(refusal)

    def _arrive(self, value: Any) -> None:
        if self._in_thread is not None:
            self._in_thread = None
            reply = Reply(value)
            self._record.add("processes", reply.cpu, reply.waited, self._shipping + reply.shipping)
            if reply.error is not None:
                super()._raise(reply.error)
                return
            value = reply.value
        super()._arrive(value)

    def _raise(self, error: BaseException) -> None:
        if self._in_thread is not None:
            if isinstance(error, Unreadable) and not error.has_run:
                self._retry_in_thread(error.error, "worker processes cannot unpickle it")
                return
            # An exception of the function is in a reply. This one is about the result.
            self._record.come_back(f"{_UNPICKLABLE_RESULT} ({error})")
        super()._raise(error)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"

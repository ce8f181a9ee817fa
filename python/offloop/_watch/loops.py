"""One watched loop: its beats, and a look at it when those fail to come."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import time
import weakref
from collections import Counter
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

from .._offloop import Notice, Pulse, Stacks, cpu_clocks
from . import station
from .advice import Advice, advise, culprit, deepest
from .report import Cause, Stall, StallSummary
from .source import is_async
from .stack import Frame, of_dump, of_frame, of_frames

if TYPE_CHECKING:
    from .watch import Watch

GRACE = 0.03
"""Seconds to get the interpreter in: Python code hands it over after 5 ms."""

_WINDOW = 0.02
"""Seconds for which is looked at which thread uses the cores."""

_LOOKS = 3
_BETWEEN = 0.003
"""Seconds."""

_NEVER = 1e9


class _Look(NamedTuple):
    """What the loop's thread is at."""

    stack: list[Frame]
    """What the loop has called."""
    is_called: bool
    """Whether it has called anything."""
    callback: str | None = None
    """What it has called, if that has no frame."""


class _Holder(NamedTuple):
    """The thread that has the interpreter."""

    name: str
    stack: list[Frame]


class _Episode:
    """One stall."""

    def __init__(self) -> None:
        self.places: Counter[int] = Counter()
        """By the identity of their summaries."""
        self.summaries: dict[int, StallSummary] = {}
        self.reported = 0.0
        """How late the loop was at the last report."""

    def seen(self, summary: StallSummary) -> bool:
        """Whether it is the first time in this stall."""
        self.summaries[id(summary)] = summary
        self.places[id(summary)] += 1
        return self.places[id(summary)] == 1

    @property
    def main(self) -> StallSummary:
        """Where it was seen most often."""
        return self.summaries[self.places.most_common(1)[0][0]]


class WatchedLoop:
    """A loop, as long as it is watched."""

    def __init__(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = watch
        self._loop = weakref.ref(loop)
        # Our beats need nothing of the context in which the watch was begun.
        self._context = contextvars.Context()
        self._timer: asyncio.TimerHandle | None = None
        self._depth = 0
        self._base: CodeType | None = None
        self._episode: _Episode | None = None
        self._has_ended = False
        self._station, self._key = station.enter(self)
        self._stacks: Stacks | None = None
        mute = _NEVER if watch.stderr_after is None else watch.stderr_after
        try:
            self._stacks = station.stacks(watch.signal)
            self._pulse = Pulse(
                self._station.post, self._key, watch.threshold, GRACE, mute, self._stacks
            )
        except BaseException:
            self._leave()
            raise

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop beats from its next turn on; if it is in one that runs here, from now on."""
        if asyncio._get_running_loop() is loop:
            self._find_base(loop)
            self._pulse.beat()
            loop.call_soon(self._beat, context=self._context)
        else:
            loop.call_soon_threadsafe(self._beat, context=self._context)

    def end(self) -> None:
        """Watches no longer; blocks while a report is under way."""
        if self._has_ended:
            return
        self._has_ended = True
        silence = self._silence()
        self._pulse.stop()
        self._station.settle()
        if self._episode is not None:  # the monitor hasn't seen the end of it
            self._over(silence - self._pulse.interval)
        self._leave()
        loop = self._loop()
        if loop is None or loop.is_closed() or self._timer is None:
            return
        if asyncio._get_running_loop() is loop or not loop.is_running():
            self._timer.cancel()
        else:
            try:
                loop.call_soon_threadsafe(self._timer.cancel)
            except RuntimeError:  # it was closed meanwhile
                pass

    def _leave(self) -> None:
        if self._stacks is not None:
            station.release(self._stacks)
        station.leave(self._station, self._key)

    def _beat(self) -> None:
        """Called by the loop, again and again."""
        self._pulse.beat()
        loop = self._loop()
        if loop is None or self._has_ended:
            return
        # What is below this is below all that the loop calls.
        frame = sys._getframe(1)
        self._base = frame.f_code
        depth = 1
        while (below := frame.f_back) is not None:
            depth += 1
            frame = below
        self._depth = depth
        self._timer = loop.call_later(self._pulse.interval, self._beat, context=self._context)

    def _find_base(self, loop: asyncio.AbstractEventLoop) -> None:
        """What is below the task that runs here is below all that the loop calls."""
        task = asyncio.current_task(loop)
        outermost = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
        frames = of_frames(sys._getframe(1))  # its own would hold itself
        if outermost in frames:
            self._depth = frames.index(outermost)
            self._base = frames[self._depth - 1].f_code

    def hear(self, notice: Notice) -> None:
        """What the monitor has noticed. Called on the thread that reports."""
        if notice.kind == "over":
            if self._episode is not None:
                self._over(notice.seconds)
            return
        loop = self._loop()
        if loop is None:
            return
        if notice.stack is None and not loop.is_running():
            # It rightly stands still. If it runs again, its timer is overdue and beats at once.
            self._pulse.pause()
            return
        self._look(loop, notice)

    def _look(self, loop: asyncio.AbstractEventLoop, notice: Notice) -> None:
        is_fresh = self._is_late()
        live = self._live() if is_fresh else None
        if notice.stack is not None:
            look = self._dumped(notice.stack, live)
        elif live is not None:
            look = live
        elif notice.holder is not None and notice.holder[1] is not None:
            look = _Look([], False)
        else:
            if notice.kind == "stalled":
                self._watch.unseen += 1
            return
        if notice.kind == "still" and self._episode is not None and self._episode.places:
            is_own = all(os.path.dirname(frame.file) == _ASYNCIO for frame in look.stack)
            if is_own and look.is_called and look.callback is None:
                # What was found before is over, and the loop itself on its way to come round.
                return
        computes = notice.share >= 0.5 or (notice.state == "R" and notice.share > 0.05)
        holder: _Holder | None = None
        if notice.holder is not None or not look.is_called:
            holder = self._holder(notice)
            if holder is None and not look.is_called:
                # Somebody else's work on this machine, or a pause of the whole process.
                return
        cause: Cause = "computes" if computes else "waits"
        if holder is not None:
            advice = _advise_holder(holder)
            self._report(notice, "interpreter", holder.stack, holder.name, advice, None, None)
            return
        if look.callback is not None:
            advice = _advise_builtin(look.stack[0], look.callback, computes)
            name = _thread_name(self._pulse.thread[0])
            callback = look.callback if look.callback != _UNNAMED else None
            self._report(notice, cause, look.stack, name, advice, None, callback)
            return
        task, callback = self._called(loop, look) if is_fresh else (None, None)
        name = _thread_name(self._pulse.thread[0])
        if computes and look is live:
            detached, goes_on = self._pulse.computes_detached(), self._goes_on(look.stack)
        else:
            detached = goes_on = False
        advice = advise(look.stack, computes, detached, goes_on)
        self._report(notice, cause, look.stack, name, advice, task, callback)

    def _report(
        self,
        notice: Notice,
        cause: Cause,
        stack: list[Frame],
        thread: str,
        advice: Advice,
        task: str | None,
        callback: str | None,
    ) -> None:
        if self._episode is None or notice.kind == "stalled":
            self._episode = _Episode()
        episode = self._episode
        # It took a while to look, and may have taken longer to get the interpreter.
        late = max(notice.seconds, self._silence() - self._pulse.interval)
        place = advice.place
        summary = self._watch.summary(place.file, place.line, place.function)
        is_first = episode.seen(summary)
        summary.count += is_first
        summary.longest = max(summary.longest, late)
        summary.last = stall = Stall(
            late=late,
            cause=cause,
            file=place.file,
            line=place.line,
            function=place.function,
            call=advice.moves,
            advice=advice.text,
            task=task,
            callback=callback,
            thread=thread,
            stack=tuple(stack),
            deepest=deepest(stack, place),
            count=summary.count,
        )
        if is_first:
            is_due = summary.count & (summary.count - 1) == 0
        else:
            is_due = 0.0 < 10 * episode.reported <= late
        if is_due:
            episode.reported = late
            self._station.post.outside(f"{stall}\n")
            self._watch.report(stall)

    def _over(self, seconds: float) -> None:
        episode, self._episode = self._episode, None
        if episode is None or not episode.places:
            return
        summary = episode.main
        summary.total += seconds
        summary.longest = max(summary.longest, seconds)
        if self._watch.logger is not None and episode.reported:
            self._watch.logger.info(
                "the event loop goes on after %.3g s: %s", seconds, summary.place
            )

    def _goes_on(self, stack: list[Frame]) -> bool:
        """Whether the line that is to be changed is not that of one long call, but one of many."""
        at, _ = culprit(stack)
        for _ in range(_LOOKS):
            time.sleep(_BETWEEN)
            again = self._live() if self._is_late() else None
            if again is None or again.stack[:at] != stack[:at] or len(again.stack) <= at:
                break
            then, now = stack[at], again.stack[at]
            if then.function != now.function:
                break
            if (then.line, then.span) != (now.line, now.span):
                return True
        return False

    def _silence(self) -> float:
        """For how long the loop has been silent in this stall, or was in the last one."""
        return (self._pulse.age() or 0.0) if self._is_late() else self._pulse.silence()

    def _is_late(self) -> bool:
        """Whether the loop hasn't come round meanwhile."""
        age = self._pulse.age()
        return age is not None and age > self._watch.threshold

    def _live(self) -> _Look | None:
        """What the loop's thread is at now."""
        frame = sys._current_frames().get(self._pulse.thread[0])
        if frame is None:
            return None
        frames = of_frames(frame)
        codes = [(frame.f_code.co_filename, frame.f_code.co_name) for frame in frames]
        begin = self._cut(codes)
        if begin is None:
            return _Look([], False)
        stack = [of_frame(frame) for frame in frames[begin:]]
        if stack or not 0 < begin <= len(frames) or not _is_handle(*codes[begin - 1]):
            return _Look(stack, bool(stack))
        # What is written in C has no frame, but its handle knows what it is.
        handle = frames[begin - 1].f_locals.get("self")
        callback = getattr(handle, "_callback", None)
        return _Look([of_frame(frames[begin - 1])], True, _name(callback) or _UNNAMED)

    def _dumped(self, text: str, live: _Look | None) -> _Look:
        """What it was at when it wrote down its stack; in more detail where it still is."""
        frames = of_dump(text)
        begin = self._cut([(frame.file, frame.name) for frame in frames])
        if begin is None:
            return _Look([], False)
        stack = frames[begin:]
        if not stack and begin > 0 and _is_handle(frames[begin - 1].file, frames[begin - 1].name):
            known = live.callback if live is not None else None
            return _Look([frames[begin - 1]], True, known or _UNNAMED)
        alike = 0
        if live is not None:
            for then, now in zip(stack, live.stack, strict=False):
                if (then.file, then.name) != (now.file, now.name):
                    break
                if then.line != now.line:
                    stack[alike] = now._replace(line=then.line, calls=None, span=None)
                    break
                # It is at the same call as then if that has not come back, as far as can be seen.
                is_same = alike + 1 < len(live.stack) or (
                    len(live.stack) == len(stack) and now.calls
                )
                stack[alike] = now if is_same else now._replace(calls=None, span=None)
                alike += 1
        return _Look(stack, bool(stack))

    def _cut(self, codes: list[tuple[str, str]]) -> int | None:
        """Where in a stack that begins which the loop has called; None if it has called nothing."""
        if self._base is None:
            base = (_HANDLE.co_filename, _HANDLE.co_name)
        else:
            base = (self._base.co_filename, self._base.co_name)
        if len(codes) >= self._depth > 0 and codes[self._depth - 1] == base:
            return self._depth
        # Of a loop that runs elsewhere now, or cut short.
        return next((at + 1 for at in reversed(range(len(codes))) if codes[at] == base), None)

    def _called(
        self, loop: asyncio.AbstractEventLoop, look: _Look
    ) -> tuple[str | None, str | None]:
        """The loop's current task and its coroutine, or the callback."""
        task = asyncio.current_task(loop)
        if task is None:
            return None, look.stack[0].function
        coroutine = task.get_coro()
        code = getattr(coroutine, "cr_code", None)
        outer = look.stack[0]
        if code is not None and (code.co_filename, code.co_name) != (outer.file, outer.name):
            return None, outer.function  # it has gone on to another one
        # The user's own, not what a runner has put around it.
        own = (frame.function for frame in look.stack if is_async(frame) and not frame.is_library)
        return task.get_name(), next(own, _name(coroutine))

    def _holder(self, notice: Notice) -> _Holder | None:
        """Who has the interpreter, if another thread keeps it from the loop's."""
        native = {thread.native_id: thread for thread in threading.enumerate()}
        tid, text = notice.holder or (0, None)
        if text is not None:
            thread = native.get(tid)
            name = thread.name if thread is not None else str(tid)
            stack = of_dump(text)
            return _Holder(name, stack) if stack else None
        before = dict(cpu_clocks())
        time.sleep(_WINDOW)
        spent = {tid: seconds - before.get(tid, seconds) for tid, seconds in cpu_clocks()}
        # Only what runs Python can have it; and neither the loop's thread nor this one counts.
        others = {self._pulse.thread[1], threading.get_native_id()}
        found = max(
            (tid for tid in spent if tid in native and tid not in others),
            key=lambda tid: spent[tid],
            default=None,
        )
        if found is None or spent[found] < _WINDOW / 5 or not self._is_late():
            return None
        thread = native[found]
        frame = sys._current_frames().get(thread.ident or 0)
        return _Holder(thread.name, [of_frame(frame) for frame in of_frames(frame)])


def _advise_holder(holder: _Holder) -> Advice:
    own = next((frame for frame in reversed(holder.stack) if not frame.is_library), None)
    place = own or (holder.stack[-1] if holder.stack else Frame("?", 0, "?", "?"))
    moved = advise([place], True)
    text = (
        "nothing else can run in this process meanwhile; let a process compute it "
        "(`offloop.run_cpu`, `offloop.ProcessPoolExecutor`), or code that releases the interpreter"
    )
    return Advice(place, moved.moves, text)


def _advise_builtin(place: Frame, callback: str, computes: bool) -> Advice:
    """For what the loop calls directly, and has no frame."""
    if callback == _UNNAMED:
        return Advice(
            place,
            None,
            "the loop has called something without a frame: what is written in C, or a function that has "
            "returned and frees what it had; let go of large structures on another thread (`offloop.run`)",
        )
    runner = "run_cpu" if computes else "run"
    return Advice(
        place,
        callback,
        f"`offloop.{runner}({callback}, ...)` returns a future at once, and takes its place",
    )


def _is_handle(file: str, name: str) -> bool:
    """Whether it is the function with which asyncio's own loops call everything."""
    return file == _HANDLE.co_filename and name == _HANDLE.co_name


_HANDLE = asyncio.Handle._run.__code__

_ASYNCIO = os.path.dirname(asyncio.__file__)

_UNNAMED = "?"
"""In place of the name of a callback that is not known."""


def _name(value: object) -> str | None:
    if value is None:
        return None
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    module = getattr(value, "__module__", None)
    is_builtin = isinstance(module, str) and not hasattr(value, "__code__") and module != "builtins"
    return f"{module}.{name}" if is_builtin and not hasattr(value, "cr_code") else str(name)


def _thread_name(ident: int) -> str:
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return str(ident)

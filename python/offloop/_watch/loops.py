"""One watched loop: its beats, and its stalls."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import weakref
from collections import Counter
from typing import Literal, NamedTuple, Protocol

from .._offloop import Pulse, StallEvent
from . import events, look
from .advice import Advice, advise, deepest
from .look import Base, Look
from .report import Cause, Stall, StallSummary
from .stack import Frame, of_frames

GRACE = 0.03
"""The seconds that are given to the loop's thread to get the interpreter: Python code releases it after 5 ms."""

_NEVER = 1e9

_APART = 0.3
"""The least time between two looks that show the same call to be long, as a part of the threshold."""


class Reporter(Protocol):
    """The watch that a loop belongs to: its settings, and where stalls are reported."""

    threshold: float
    stderr_after: float | None
    logger: logging.Logger | None
    unseen: int
    """The number of stalls for which no line is to blame. Increased by the loop."""

    def summary(self, file: str, line: int, function: str) -> StallSummary:
        """Returns the summary of a place, which the loop updates."""
        ...

    def report(self, stall: Stall) -> bool:
        """Reports a stall to the user. Returns whether there was a line in the log."""
        ...

    def ended(self, summary: StallSummary, seconds: float, was_logged: bool) -> None:
        """Reports that a stall has ended."""

    def starved(self, late: float, seconds: float) -> None:
        """Reports that a loop was late by `late`, and had no core for `seconds`."""

    def summarize(self) -> None:
        """Logs what had no line of its own, where that is due."""


class _Finding(NamedTuple):
    """The result of a look at a loop that stands still."""

    cause: Cause
    stack: list[Frame]
    thread: str
    advice: Advice
    task: str | None = None
    callback: str | None = None


class _Episode:
    """One stall, from the first look to its end."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The number of its events."""
        self.activity: Literal["computes", "waits"] = "waits"
        """The activity of the loop's thread at the last look."""
        self.places: Counter[int] = Counter()
        """The number of looks at each place, by the identity of the place's summary."""
        self.summaries: dict[int, StallSummary] = {}
        self.reported = 0.0
        """The seconds for which the loop had stood still at the last report."""
        self.is_logged = False
        """Set once the log has a line about it."""

    def seen(self, summary: StallSummary) -> bool:
        """Counts a look at a place. Returns whether it is the first one in this stall."""
        self.summaries[id(summary)] = summary
        self.places[id(summary)] += 1
        return self.places[id(summary)] == 1

    @property
    def main(self) -> StallSummary:
        """The place that was seen most often."""
        return self.summaries[self.places.most_common(1)[0][0]]


class WatchedLoop:
    """A loop, as long as it is watched."""

    def __init__(self, reporter: Reporter, loop: asyncio.AbstractEventLoop) -> None:
        self._reporter = reporter
        self._loop = weakref.ref(loop)
        # The beats need no context variables of the code that has begun the watch.
        self._context = contextvars.Context()
        self._timer: asyncio.TimerHandle | None = None
        """The next beat. Replaced by each beat."""
        self._base = look.UNKNOWN_BASE
        """The frame that calls the beats. Replaced by each beat."""
        self._episode: _Episode | None = None
        """The present stall, if it was looked at. Changed on the thread of events only, and by `end`."""
        self._has_ended = False
        self._events, self._key = events.subscribe(self)
        self._stacks = events.stacks()
        mute = _NEVER if reporter.stderr_after is None else reporter.stderr_after
        try:
            self._pulse = Pulse(
                self._events.queue,
                self._key,
                reporter.threshold,
                GRACE,
                mute,
                self._stacks,
                _name_of(loop),
                _kind_of(loop),
            )
        except BaseException:
            self._release()
            raise

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop; None if it is gone."""
        return self._loop()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins the beats: at the loop's next turn, or at once if this is called by the running loop."""
        if asyncio._get_running_loop() is loop:
            self._find_base(loop)
            self._pulse.beat()
            loop.call_soon(self._beat, context=self._context)
        else:
            loop.call_soon_threadsafe(self._beat, context=self._context)

    def end(self) -> None:
        """Ends the beats. Blocks while a report is being made."""
        if self._has_ended:
            return
        self._has_ended = True
        silence = self._silence()
        self._pulse.stop()
        self._events.flush()
        if self._episode is not None:  # the monitor has not seen the end of the stall
            self._end_episode(silence - self._pulse.interval)
        self._release()
        loop = self._loop()
        if loop is None or loop.is_closed() or self._timer is None:
            return
        if asyncio._get_running_loop() is loop or not loop.is_running():
            self._timer.cancel()
        else:
            try:
                loop.call_soon_threadsafe(self._timer.cancel)
            except RuntimeError:  # the loop was closed meanwhile
                pass

    def _release(self) -> None:
        events.unsubscribe(self._events, self._key)

    def _beat(self) -> None:
        """Reports that the loop comes round. Called by the loop, again and again."""
        self._pulse.beat()
        loop = self._loop()
        if loop is None or self._has_ended:
            return
        # The frame that has called this one also calls everything else that the loop calls.
        frame = sys._getframe(1)
        code = frame.f_code
        depth = 1
        while (below := frame.f_back) is not None:
            depth += 1
            frame = below
        self._base = Base(depth, code.co_filename, code.co_name)
        self._timer = loop.call_later(self._pulse.interval, self._beat, context=self._context)

    def _find_base(self, loop: asyncio.AbstractEventLoop) -> None:
        """Finds the base from the task that runs on this thread: it is the frame that has called the task."""
        task = asyncio.current_task(loop)
        outermost = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
        # The caller's frames: this function's own frame would hold the list that holds it.
        frames = of_frames(sys._getframe(1))
        if outermost in frames:
            depth = frames.index(outermost)
            code = frames[depth - 1].f_code
            self._base = Base(depth, code.co_filename, code.co_name)

    def on_event(self, event: StallEvent) -> None:
        """Handles an event of the monitor. Called on the thread of events."""
        if event.kind == "over":
            if self._episode is not None:
                self._end_episode(event.seconds)
            return
        if event.kind == "starved":
            self._reporter.starved(event.seconds, event.starved)
            return
        loop = self._loop()
        if loop is None:
            return
        if self._is_late() and not loop.is_running():
            # It is no stall. If the loop runs again, its timer is overdue and beats at once.
            self._pulse.pause()
            return
        if self._episode is None or event.kind == "stalled":
            self._episode = _Episode(event.stall)
        finding = self._look(loop, event)
        if finding is not None:
            self._report(self._episode, event, finding)

    def on_tick(self) -> None:
        """Has the summaries logged that are due. Called on the thread of events."""
        self._reporter.summarize()

    def _look(self, loop: asyncio.AbstractEventLoop, event: StallEvent) -> _Finding | None:
        """Looks at a loop that stands still. None if there is nothing to report."""
        if event.holder is not None:
            holder = look.holder(event.holder)
            return _Finding("interpreter", holder.stack, holder.name, look.advise_holder(holder))
        seen = self._seen(event)
        if seen is None or not seen.is_called:
            return None
        if event.kind == "still" and self._episode is not None and self._episode.places and seen.is_own:
            # The place that was found before is left, and the loop is about to come round.
            return None
        cause: Cause = event.activity
        computes = cause == "computes"
        thread = look.thread_name(self._pulse.thread)
        if seen.callback is not None:
            named = look.callback_of(self._pulse.thread) if self._is_late() else None
            advice = look.advise_builtin(seen.stack[0], named or look.UNNAMED, computes)
            return _Finding(cause, seen.stack, thread, advice, callback=named)
        task, callback = look.called(loop, seen) if self._is_late() else (None, None)
        detached = goes_on = False
        if computes and self._is_late():
            detached = self._pulse.computes_detached()
            before = look.read(event.before, self._base).stack if event.before is not None else None
            goes_on = look.goes_on(seen.stack, before, self._live)
        advice = advise(seen.stack, computes, detached, goes_on)
        if advice.is_import:
            cause = "imports"
        return _Finding(cause, seen.stack, thread, advice, task, callback)

    def _seen(self, event: StallEvent) -> Look | None:
        """Returns the look at the loop's thread, unless the loop has made many short calls instead of one long one."""
        if event.stack is None:
            return self._live()
        seen = look.read(event.stack, self._base)
        if event.before is None or event.apart < _APART * self._reporter.threshold:
            return None
        return seen if seen.is_same_call(look.read(event.before, self._base)) else None

    def _report(self, episode: _Episode, event: StallEvent, finding: _Finding) -> None:
        late = event.seconds
        advice = finding.advice
        place = advice.place
        summary = self._reporter.summary(place.file, place.line, place.function)
        is_first = episode.seen(summary)
        summary.count += is_first
        summary.longest = max(summary.longest, late)
        summary.last = stall = Stall(
            late=late,
            starved=event.starved,
            cause=finding.cause,
            file=place.file,
            line=place.line,
            function=place.function,
            call=advice.moves,
            advice=advice.text,
            task=finding.task,
            callback=finding.callback,
            thread=finding.thread,
            stack=tuple(finding.stack),
            deepest=deepest(finding.stack, place),
            count=summary.count,
            in_offloop=advice.is_offloop,
        )
        episode.activity = event.activity
        self._note(episode, late)
        if is_first or 0.0 < 10 * episode.reported <= late:
            episode.reported = late
            self._events.queue.outside(f"{stall}\n")
            episode.is_logged |= self._reporter.report(stall)

    def _end_episode(self, seconds: float) -> None:
        """Ends the present stall, which took `seconds`."""
        episode, self._episode = self._episode, None
        if episode is None:
            return
        if not episode.places:
            self._reporter.unseen += 1
            return
        summary = episode.main
        summary.total += seconds
        summary.longest = max(summary.longest, seconds)
        self._note(episode, seconds)
        self._reporter.ended(summary, seconds, episode.is_logged)

    def _note(self, episode: _Episode, seconds: float) -> None:
        """Counts the stall at its main place, for the live view."""
        place = episode.main
        advice = "" if place.last is None else place.last.advice
        self._pulse.stalled_at(
            episode.number, place.function, place.file, place.line, episode.activity, advice, seconds
        )

    def _silence(self) -> float:
        """Returns the seconds for which the loop has been silent in this stall, or was in the last one."""
        return (self._pulse.age() or 0.0) if self._is_late() else self._pulse.silence()

    def _is_late(self) -> bool:
        """Returns whether the loop still stands still."""
        age = self._pulse.age()
        return age is not None and age > self._reporter.threshold

    def _live(self) -> Look | None:
        """Looks at the loop's thread now. None if the loop does not stand still any more."""
        if not self._is_late():
            return None
        if self._stacks is None:
            return look.live(self._pulse.thread, self._base)
        stack = self._stacks.take(self._pulse.thread)
        return None if stack is None else look.read(stack, self._base)


def _name_of(loop: asyncio.AbstractEventLoop) -> str:
    """Returns the name that the live view has for a loop: that of the thread that runs it."""
    if asyncio._get_running_loop() is loop:
        return threading.current_thread().name
    ident: int | None = getattr(loop, "_thread_id", None)
    return "loop" if ident is None else look.thread_name(ident)


def _kind_of(loop: asyncio.AbstractEventLoop) -> str:
    """Returns the kind of a loop, for the live view: "asyncio", "uvloop" or "other"."""
    if type(loop).__module__.partition(".")[0] == "uvloop":
        return "uvloop"
    return "asyncio" if isinstance(loop, asyncio.BaseEventLoop) else "other"

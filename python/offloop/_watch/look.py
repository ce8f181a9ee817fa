"""One look at a thread: the stack of the loop's thread, or of the thread that has the interpreter."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from .._offloop import StackFrame
from .advice import Advice, advise, advise_start, culprit
from .source import is_async
from .stack import Frame, of_frame, of_frames, of_native

_LOOKS = 6
"""The number of looks that `goes_on` takes."""
_BETWEEN = 0.002
"""Seconds between two of these looks."""

_HANDLE = asyncio.Handle._run.__code__  # pyright: ignore[reportPrivateUsage]
"""The function by which asyncio's own loops call everything."""

_ASYNCIO = os.path.dirname(asyncio.__file__)

UNNAMED = "?"
"""Stands for the name of a callback that is not known."""


class Base(NamedTuple):
    """The innermost frame that belongs to the loop itself. The loop has called all that is deeper."""

    depth: int
    """The number of frames down to this one, itself included; 0 if it is not known."""
    file: str
    name: str


UNKNOWN_BASE = Base(0, _HANDLE.co_filename, _HANDLE.co_name)
"""The base of one of asyncio's own loops that has not beaten yet."""


class Look(NamedTuple):
    """The activity of the loop's thread at one moment."""

    stack: list[Frame]
    """The frames that the loop has called, the outermost first."""
    is_called: bool
    """Whether the loop has called anything."""
    callback: str | None = None
    """The name of the callable that the loop has called, if that has no frame."""
    base: Frame | None = None
    """The frame of the loop that has called them; None if it is not known."""

    @property
    def is_own(self) -> bool:
        """Whether the loop runs only code of asyncio itself."""
        in_asyncio = all(os.path.dirname(frame.file) == _ASYNCIO for frame in self.stack)
        return in_asyncio and self.is_called and self.callback is None

    def is_same_call(self, before: Look) -> bool:
        """Returns whether the loop was in the same call at an earlier look.

        A loop that has made many short calls in one turn was not.
        """
        if not (self.is_called and before.is_called):
            return False
        # Each coroutine has a frame of its own. A plain function may get the frame of the one before: but asyncio's own
        # loops have the handle, which differs, as the first local variable of the base.
        is_same_frame = _call(self.stack[0])[:2] == _call(before.stack[0])[:2]
        return is_same_frame and _call(self.base) == _call(before.base)


NOTHING_CALLED = Look([], False)


class Holder(NamedTuple):
    """The thread that has the interpreter."""

    name: str
    stack: list[Frame]


def read(stack: list[StackFrame], base: Base) -> Look:
    """Returns the activity of the loop's thread, of which this is the stack."""
    return _of_frames([of_native(frame) for frame in stack], base)


def live(thread: int, base: Base) -> Look | None:
    """Looks at the loop's thread now, with the interpreter. None if the thread is gone."""
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    if frame is None:
        return None
    return _of_frames([of_frame(frame) for frame in of_frames(frame)], base)


def callback_of(thread: int) -> str | None:
    """Returns the name of the callable that the loop has called, if it has no frame and has not returned."""
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    if frame is None or frame.f_code is not _HANDLE:
        return None
    # A callable written in C has no frame, but its handle refers to it.
    return _name(getattr(frame.f_locals.get("self"), "_callback", None))


def _of_frames(frames: list[Frame], base: Base) -> Look:
    begin = _first_called([(frame.file, frame.name) for frame in frames], base)
    if begin is None:
        return NOTHING_CALLED
    own = frames[begin - 1] if begin > 0 else None
    stack = frames[begin:]
    if stack or own is None or not _is_handle(own.file, own.name):
        return Look(stack, bool(stack), base=own)
    return Look([own], True, UNNAMED, own)


def _call(frame: Frame | None) -> tuple[int, ...]:
    return (frame.call or ()) if frame is not None else ()


def _first_called(codes: list[tuple[str, str]], base: Base) -> int | None:
    """Returns the index of the first frame that the loop has called; None if it has called nothing."""
    own = (base.file, base.name)
    if len(codes) >= base.depth > 0 and codes[base.depth - 1] == own:
        return base.depth
    # The loop runs at another depth now, or the stack was cut short.
    return next((at + 1 for at in reversed(range(len(codes))) if codes[at] == own), None)


def called(loop: asyncio.AbstractEventLoop, look: Look) -> tuple[str | None, str | None]:
    """Returns the name of the loop's current task, and its coroutine; or None, and the callback."""
    task = asyncio.current_task(loop)
    if task is None:
        return None, look.stack[0].function
    coroutine = task.get_coro()
    code = getattr(coroutine, "cr_code", None)
    outer = look.stack[0]
    if code is not None and (code.co_filename, code.co_name) != (outer.file, outer.name):
        return None, outer.function  # the loop has gone on to another task since the look
    # The user's own coroutine, not one that a runner has put around it.
    own = (frame.function for frame in look.stack if is_async(frame) and not frame.is_library)
    return task.get_name(), next(own, _name(coroutine))


def goes_on(
    stack: list[Frame], before: list[Frame] | None, look_again: Callable[[], Look | None]
) -> bool:
    """Returns whether the line to change makes many calls in turn, instead of one long call.

    `before` is an earlier stack. `look_again` returns None once the stall is over. Sleeps between looks.
    """
    at, _ = culprit(stack)
    if at is None:
        return False
    if before is not None and len(before) > at and _place(before[at]) != _place(stack[at]):
        return True
    places = [_place(stack[at])]
    for _ in range(_LOOKS):
        again = look_again()
        if again is None or len(again.stack) <= at or not _are_alike(again.stack[:at], stack[:at]):
            break
        place = _place(again.stack[at])
        # A call that has returned is no sign of others. But to come back to a place is one.
        if place != places[-1] and place in places:
            return True
        places.append(place)
        time.sleep(_BETWEEN)
    return False


def _place(frame: Frame) -> tuple[object, ...]:
    return frame.function, frame.line, frame.span


def _are_alike(one: list[Frame], other: list[Frame]) -> bool:
    return [frame[:-1] for frame in one] == [frame[:-1] for frame in other]


def holder(found: tuple[int, list[StackFrame] | None]) -> Holder:
    """Returns the thread that has the interpreter, of which these are the id and the stack."""
    ident, stack = found
    return Holder(thread_name(ident), [of_native(frame) for frame in stack or ()])


_STARTS_POOLS = ("offloop/_pools/default.py", "offloop/_pools/warm_up.py")
"""The files of the threads in which offloop makes a pool and starts its workers."""


def advise_holder(holder: Holder) -> Advice:
    """Returns the advice for a thread that keeps the interpreter to itself."""
    own = next((frame for frame in reversed(holder.stack) if not frame.is_library), None)
    place = own or (holder.stack[-1] if holder.stack else Frame("?", 0, "?", "?"))
    starts = (frame for frame in holder.stack if frame.file.endswith(_STARTS_POOLS))
    if own is None and (start := next(starts, None)) is not None:
        return advise_start(start)
    moved = advise([place], True)
    text = (
        "nothing else can run in this process meanwhile; let a process compute it "
        "(`offloop.run_cpu`, `offloop.ProcessPoolExecutor`), or code that releases the interpreter"
    )
    return Advice(place, moved.moves, text)


def advise_builtin(place: Frame, callback: str, computes: bool) -> Advice:
    """Returns the advice for a callable without a frame that the loop calls directly."""
    if callback == UNNAMED:
        return Advice(
            place,
            None,
            "the loop has called something without a frame: a function written in C, or one that has "
            "returned and frees its objects; release large structures on another thread (`offloop.run`)",
        )
    runner = "run_cpu" if computes else "run"
    return Advice(
        place,
        callback,
        f"call `offloop.{runner}({callback}, ...)` instead, which returns a future at once",
    )


def _is_handle(file: str, name: str) -> bool:
    """Returns whether it is the function by which asyncio's own loops call everything."""
    return file == _HANDLE.co_filename and name == _HANDLE.co_name


def _name(value: object) -> str | None:
    if value is None:
        return None
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    module = getattr(value, "__module__", None)
    is_builtin = isinstance(module, str) and not hasattr(value, "__code__") and module != "builtins"
    return f"{module}.{name}" if is_builtin and not hasattr(value, "cr_code") else str(name)


def thread_name(ident: int) -> str:
    """Returns the name of a thread, or its id if it is not one of `threading`."""
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return str(ident)

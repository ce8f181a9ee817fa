"""One look at a thread: the stack of the loop's thread, or of the thread that has the interpreter."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from .._offloop import StallEvent, cpu_clocks
from .advice import Advice, advise, culprit
from .source import is_async
from .stack import Frame, of_dump, of_frame, of_frames

_WINDOW = 0.02
"""The seconds for which the CPU time of threads is measured, to find the one that has the interpreter."""

_LOOKS = 3
"""The number of further looks that `goes_on` takes."""
_BETWEEN = 0.003
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

    @property
    def is_own(self) -> bool:
        """Whether the loop runs only code of asyncio itself."""
        in_asyncio = all(os.path.dirname(frame.file) == _ASYNCIO for frame in self.stack)
        return in_asyncio and self.is_called and self.callback is None


NOTHING_CALLED = Look([], False)


class Holder(NamedTuple):
    """The thread that has the interpreter."""

    name: str
    stack: list[Frame]


def live(thread: int, base: Base) -> Look | None:
    """Looks at the loop's thread now. None if the thread is gone."""
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    if frame is None:
        return None
    frames = of_frames(frame)
    codes = [(frame.f_code.co_filename, frame.f_code.co_name) for frame in frames]
    begin = _first_called(codes, base)
    if begin is None:
        return NOTHING_CALLED
    stack = [of_frame(frame) for frame in frames[begin:]]
    if stack or not 0 < begin <= len(frames) or not _is_handle(*codes[begin - 1]):
        return Look(stack, bool(stack))
    # A callable written in C has no frame, but its handle refers to it.
    handle = frames[begin - 1].f_locals.get("self")
    callback = getattr(handle, "_callback", None)
    return Look([of_frame(frames[begin - 1])], True, _name(callback) or UNNAMED)


def dumped(text: str, live: Look | None, base: Base) -> Look:
    """Reads the stack that the loop's thread has written down.

    `live` is a later look. The frames that have not changed since then are taken from it, with more detail.
    """
    frames = of_dump(text)
    begin = _first_called([(frame.file, frame.name) for frame in frames], base)
    if begin is None:
        return NOTHING_CALLED
    stack = frames[begin:]
    if not stack and begin > 0 and _is_handle(frames[begin - 1].file, frames[begin - 1].name):
        known = live.callback if live is not None else None
        return Look([frames[begin - 1]], True, known or UNNAMED)
    alike = 0
    if live is not None:
        for then, now in zip(stack, live.stack, strict=False):
            if (then.file, then.name) != (now.file, now.name):
                break
            if then.line != now.line:
                stack[alike] = now._replace(line=then.line, calls=None, span=None)
                break
            # If the call that was made there has not returned, as far as can be seen, it is the same call.
            is_same = alike + 1 < len(live.stack) or (len(live.stack) == len(stack) and now.calls)
            stack[alike] = now if is_same else now._replace(calls=None, span=None)
            alike += 1
    return Look(stack, bool(stack))


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


def goes_on(stack: list[Frame], look_again: Callable[[], Look | None]) -> bool:
    """Returns whether the line to change makes many calls in turn, instead of one long call.

    `look_again` returns None once the stall is over. Sleeps between looks.
    """
    at, _ = culprit(stack)
    for _ in range(_LOOKS):
        time.sleep(_BETWEEN)
        again = look_again()
        if again is None or again.stack[:at] != stack[:at] or len(again.stack) <= at:
            break
        then, now = stack[at], again.stack[at]
        if then.function != now.function:
            break
        if (then.line, then.span) != (now.line, now.span):
            return True
    return False


def find_holder(event: StallEvent, loop_thread: int, is_late: Callable[[], bool]) -> Holder | None:
    """Finds the thread that keeps the interpreter from the loop's thread, if there is one.

    `loop_thread` is the native id of the loop's thread; `is_late` returns whether the loop still stands still.
    """
    native = {thread.native_id: thread for thread in threading.enumerate()}
    tid, text = event.holder or (0, None)
    if text is not None:
        thread = native.get(tid)
        name = thread.name if thread is not None else str(tid)
        stack = of_dump(text)
        return Holder(name, stack) if stack else None
    before = dict(cpu_clocks())
    time.sleep(_WINDOW)
    spent = {tid: seconds - before.get(tid, seconds) for tid, seconds in cpu_clocks()}
    # Only threads that run Python can have it, and neither the loop's thread nor this one is meant.
    others = {loop_thread, threading.get_native_id()}
    found = max(
        (tid for tid in spent if tid in native and tid not in others),
        key=lambda tid: spent[tid],
        default=None,
    )
    if found is None or spent[found] < _WINDOW / 5 or not is_late():
        return None
    thread = native[found]
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
    return Holder(thread.name, [of_frame(frame) for frame in of_frames(frame)])


def advise_holder(holder: Holder) -> Advice:
    """Returns the advice for a thread that keeps the interpreter to itself."""
    own = next((frame for frame in reversed(holder.stack) if not frame.is_library), None)
    place = own or (holder.stack[-1] if holder.stack else Frame("?", 0, "?", "?"))
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

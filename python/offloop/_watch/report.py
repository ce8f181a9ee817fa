"""What is said of a stall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .stack import Frame, text_of

Cause = Literal["waits", "computes", "interpreter"]


@dataclass(frozen=True)
class Stall:
    """One look at an event loop that stands still. As a string it is the whole report."""

    late: float
    """For how many seconds the loop has stood still, so far."""
    cause: Cause
    """It waits for something, computes, or waits for the interpreter, which another thread has."""
    file: str
    """Where the line stands that is to be changed."""
    line: int
    """0 if it is not known."""
    function: str
    """The function that it is in."""
    call: str | None
    """What to move, as it is written there; None if that cannot be told from what is beside it."""
    advice: str
    """What to do."""
    task: str | None
    """The name of the loop's current task; None if there is none, or it cannot be told any more."""
    callback: str | None
    """The coroutine of the task, or the callback that the loop has called."""
    thread: str
    """The name of the thread to which `stack` belongs: the loop's, or who has the interpreter."""
    stack: tuple[Frame, ...]
    """Its lines, the innermost last; of the loop's thread only what the loop has called."""
    deepest: Frame | None
    """The innermost line of the user's own, if that is not the one to change."""
    count: int
    """The loop has stood still at this line so many times by now."""

    @property
    def place(self) -> str:
        """The line to change, in short."""
        return f"{self.file}:{self.line} in {self.function}"

    def __str__(self) -> str:
        does = {
            "waits": "it waits",
            "computes": "it computes",
            "interpreter": f"it waits for the interpreter, which thread {self.thread!r} has",
        }[self.cause]
        where = "" if self.call is None else f" in {self.call}"
        lines = [f"the event loop has stood still for {self.late:.3g} s: {does}{where}"]
        lines.append(f"  at      {self.place}")
        if self.task is not None:
            lines.append(f"  task    {self.task!r}, coroutine {self.callback}")
        elif self.callback is not None:
            lines.append(f"  in      callback {self.callback}")
        lines.append(f"  advice  {self.advice}")
        if self.deepest is not None:
            lines.append(f"  deepest {self.deepest.place}")
        if self.count > 1:
            lines.append(f"  count   the loop has stood still here {self.count} times by now")
        lines.append(f"  stack of thread {self.thread!r}, most recent call last")
        lines.append(text_of(self.stack, "    "))
        return "\n".join(lines)


@dataclass
class StallSummary:
    """All stalls at one line."""

    file: str
    line: int
    function: str
    count: int = 0
    """How many there were."""
    total: float = 0.0
    """Their seconds; of one that goes on, those until it was last looked at."""
    longest: float = 0.0
    """The seconds of the longest."""
    last: Stall | None = None
    """The last look at one of them."""

    @property
    def place(self) -> str:
        """The line, in short."""
        return f"{self.file}:{self.line} in {self.function}"

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"{self.place}: {times}, {self.total:.3g} s in all, the longest {self.longest:.3g} s"

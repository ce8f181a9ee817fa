"""The report of a stall, and the summary of all stalls at one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .stack import Frame, text_of

__all__ = ["Stall", "StallSummary", "Starvation"]

Cause = Literal["waits", "computes", "interpreter", "imports"]


@dataclass(frozen=True)
class Stall:
    """One look at an event loop that stands still. `str()` of it is the whole report."""

    late: float
    """The seconds for which the loop has stood still so far, without those in which its thread had no core."""
    starved: float
    """The seconds, besides, in which the loop's thread could have run but had no core."""
    cause: Cause
    """The loop's thread waits for something, computes, waits for the interpreter, which another thread has, or imports
    a module for the first time."""
    file: str
    """The file of the line to change."""
    line: int
    """The line to change; 0 if it is not known."""
    function: str
    """The function of that line."""
    call: str | None
    """The call to move, as it is written there; None if it cannot be told apart from others on the line."""
    advice: str
    """The change to make."""
    task: str | None
    """The name of the loop's current task; None if there is none, or it is not known any more."""
    callback: str | None
    """The coroutine of the task, or the callback that the loop has called."""
    thread: str
    """The name of the thread to which `stack` belongs: the loop's, or the one that has the interpreter."""
    stack: tuple[Frame, ...]
    """The frames of that thread, the innermost last; of the loop's thread only those that the loop has called."""
    deepest: Frame | None
    """The innermost line of the user's own code, if that is not the one to change."""
    count: int
    """The number of times that the loop has stood still at this line, this time included."""
    in_offloop: bool = False
    """Whether it is offloop that holds the loop, to prepare its first call."""

    @property
    def place(self) -> str:
        """The line to change, as a short text."""
        return f"{self.file}:{self.line} in {self.function}"

    def __str__(self) -> str:
        does = {
            "waits": "it waits",
            "computes": "it computes",
            "imports": "it imports a module for the first time",
            "interpreter": f"it waits for the interpreter, which thread {self.thread!r} has",
        }[self.cause]
        where = "" if self.call is None else f" in {self.call}"
        starved = "" if self.starved < 0.001 else f", and had no core for {self.starved:.3g} s more"
        lines = [f"the event loop has stood still for {self.late:.3g} s{starved}: {does}{where}"]
        lines.append(f"  at      {self.place}")
        if self.task is not None:
            lines.append(f"  task    {self.task!r}, coroutine {self.callback}")
        elif self.callback is not None:
            lines.append(f"  in      callback {self.callback}")
        lines.append(f"  advice  {self.advice}")
        if self.deepest is not None:
            lines.append(f"  deepest {self.deepest.place}")
        if self.count > 1:
            lines.append(f"  count   the loop has stood still here {self.count} times so far")
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
    """The number of stalls."""
    total: float = 0.0
    """Their seconds in total, without those of a stall that goes on."""
    longest: float = 0.0
    """The seconds of the longest one; of a stall that goes on, those until the last look."""
    last: Stall | None = None
    """The last look at one of them."""

    @property
    def place(self) -> str:
        """The line, as a short text."""
        return f"{self.file}:{self.line} in {self.function}"

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"{self.place}: {times}, {self.total:.3g} s in all, the longest {self.longest:.3g} s"


@dataclass
class Starvation:
    """The times at which a loop was late because its thread had no core. No line is to blame for them.

    Other threads and programs had the cores, the quota of a control group was used up, or the host of a virtual
    machine had taken them away.
    """

    count: int = 0
    """The number of times."""
    total: float = 0.0
    """The seconds without a core, in total."""
    longest: float = 0.0
    """The most seconds at one time."""

    def add(self, seconds: float) -> None:
        """Adds a time."""
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"no core {times}, for {self.total:.3g} s in all, the longest {self.longest:.3g} s"

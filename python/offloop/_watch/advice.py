"""The advice for a stalled loop: the line to move off it, and the call that moves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import source
from .source import Call, Import
from .stack import Frame

_LONGEST = 60
"""The number of characters from which an argument is left out of an advice."""


class Advice(NamedTuple):
    """The line to change, and the change."""

    place: Frame
    """The line to change."""
    moves: str | None
    """The call to move, as it is written there; None if it cannot be told apart from others on the line."""
    text: str
    """The change to make."""


def advise(
    stack: Sequence[Frame], computes: bool, is_detached: bool = False, goes_on: bool = False
) -> Advice:
    """Returns the advice for a callback or task that does not return.

    `stack`: its frames, the outermost first. `computes`: it uses a core and does not wait.
    `is_detached`: it computes without the interpreter, which other threads can have.
    `goes_on`: the line was seen to change, so it is not one long call.
    """
    at, can_await = culprit(stack)
    place = stack[at]
    inner = stack[at + 1] if at + 1 < len(stack) else None
    found = None if goes_on else source.at(place, inner)
    runner = "run_cpu" if computes and not is_detached else "run"
    if isinstance(found, Import):
        return Advice(place, found.text, "import it at the top of the module, before the loop runs")
    if isinstance(found, Call) and not found.is_portable and runner == "run_cpu":
        found = None
    if isinstance(found, Call):
        moved = f"offloop.{runner}({', '.join((_short(found.function), *_cut(found.arguments)))})"
        moves = f"{_short(found.function)}({', '.join(_cut(found.arguments))})"
    else:
        moved, moves = f"offloop.{runner}(function)", None
    parts: list[str] = []
    if moves is None:
        parts.append("put this into a function of its own")
    caller = next((frame for frame in reversed(stack[:at]) if not frame.is_library), None)
    if can_await and place.is_library:
        parts.append(f"it is in a library; there it would be `await {moved}`")
        if caller is not None:
            parts.append(f"your code awaits it at {caller.place}")
    elif can_await:
        parts.append(f"`await {moved}`")
    else:
        parts.append(
            f"`{moved}` returns a future at once; await it where {place.name} can be async, "
            "or add a done callback"
        )
    if found is not None and found.in_loop and computes:
        parts.append("if that is one of many short calls of a loop, move the whole loop")
    return Advice(place, moves, "; ".join(parts))


def deepest(stack: Sequence[Frame], place: Frame) -> Frame | None:
    """Returns the innermost line of the user's own code, if it is not `place`."""
    own = next((frame for frame in reversed(stack) if not frame.is_library), None)
    return own if own is not None and (own.file, own.line) != (place.file, place.line) else None


def culprit(stack: Sequence[Frame]) -> tuple[int, bool]:
    """Returns the index of the frame whose call is to be moved, and whether that frame can await.

    Only a coroutine can await, so it is the call that the innermost coroutine makes, however deep the stack is below
    it. If that coroutine is in a library, it is the first function of the user's own that the library calls.
    """
    coroutine = next((at for at in reversed(range(len(stack))) if source.is_async(stack[at])), None)
    if coroutine is not None and not stack[coroutine].is_library:
        return coroutine, True
    begin = 0 if coroutine is None else coroutine + 1
    for at in range(begin, len(stack)):
        if not stack[at].is_library:
            return at, False
    return (0, False) if coroutine is None else (coroutine, True)


def _cut(arguments: Sequence[str]) -> list[str]:
    short = [_short(argument) for argument in arguments]
    return short if sum(map(len, short)) <= 2 * _LONGEST else [short[0], "..."]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else "..."

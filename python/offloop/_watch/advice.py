"""The advice for a stalled loop: the line to move off it, and the call that moves it.

There is advice to move a call only if the call is in the user's own code. What a library does inside is not the user's
to change: then the report has the nearest line of the user's own, or says which library it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from . import source
from .source import Call, Import
from .stack import Frame, library

_LONGEST = 60
"""The number of characters from which an argument is left out of an advice."""

_OF_LOOPS = frozenset({"asyncio", "uvloop", "anyio", "sniffio"})
"""The libraries whose functions belong to the loop's thread."""

_LOOP_CALL = re.compile(
    r"(asyncio|anyio|uvloop|offloop)\."
    r"|.*\b(create_task|start_soon|ensure_future|call_soon|call_later|call_at|add_done_callback|set_result)$"
)
"""Functions that belong to the loop's thread, as they are written."""


class Advice(NamedTuple):
    """The line to change, and the change."""

    place: Frame
    """The line to change."""
    moves: str | None
    """The call to move, as it is written there; None if it cannot be told apart from others on the line."""
    text: str
    """The change to make."""
    is_import: bool = False
    """Whether a module is imported for the first time."""
    is_offloop: bool = False
    """Whether offloop itself prepares its first call: it imports a part of itself, or starts a pool."""


def advise(
    stack: Sequence[Frame], computes: bool, is_detached: bool = False, goes_on: bool = False
) -> Advice:
    """Returns the advice for a callback or task that does not return.

    `stack`: its frames, the outermost first. `computes`: it uses a core and does not wait.
    `is_detached`: it computes without the interpreter, which other threads can have.
    `goes_on`: the line was seen to change, so it is not one long call.
    """
    if (imports := _importing(stack)) is not None:
        return _advise_import(stack, imports)
    at, can_await = culprit(stack)
    if at is None:
        return Advice(stack[0], None, f"no line of your own is on the stack; {_blames(stack[-1])}")
    place = stack[at]
    inner = stack[at + 1] if at + 1 < len(stack) else None
    if inner is not None and library(inner.file) == "offloop":
        return _advise_offloop(stack, at)
    if _is_in_library(stack, at):
        return Advice(place, None, _blames(stack[-1]))
    found = None if goes_on else source.at(place, inner)
    if (inner is not None and library(inner.file) in _OF_LOOPS) or (
        isinstance(found, Call) and _LOOP_CALL.match(found.function)
    ):
        return Advice(place, None, "the call belongs to the event loop, so it cannot be moved off it")
    runner = "run_cpu" if computes and not is_detached else "run"
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
    if can_await:
        parts.append(f"`await {moved}`")
    else:
        parts.append(
            f"`{moved}` returns a future at once; await it where {place.name} can be async, "
            "or add a done callback"
        )
    if isinstance(found, Call) and found.in_loop and computes:
        parts.append("if that is one of many short calls of a loop, move the whole loop")
    return Advice(place, moves, "; ".join(parts))


def deepest(stack: Sequence[Frame], place: Frame) -> Frame | None:
    """Returns the innermost line of the user's own code, if it is not `place`."""
    own = next((frame for frame in reversed(stack) if not frame.is_library), None)
    return own if own is not None and (own.file, own.line) != (place.file, place.line) else None


def culprit(stack: Sequence[Frame]) -> tuple[int | None, bool]:
    """Returns the index of the frame whose call is to be moved, and whether that frame can await.

    Only a coroutine can await, so it is the call that the innermost coroutine makes, however deep the stack is below
    it. If that coroutine is in a library, it is the first function of the user's own that the library calls; if there
    is none, the nearest line of the user's own that waits for the library. None if no frame is the user's own.
    """
    coroutine = next((at for at in reversed(range(len(stack))) if source.is_async(stack[at])), None)
    if coroutine is not None and not stack[coroutine].is_library:
        return coroutine, True
    begin = 0 if coroutine is None else coroutine + 1
    for at in range(begin, len(stack)):
        if not stack[at].is_library:
            return at, False
    for at in reversed(range(begin)):
        if not stack[at].is_library:
            return at, source.is_async(stack[at])
    return None, False


def _is_in_library(stack: Sequence[Frame], at: int) -> bool:
    """Returns whether the frame awaits a library's coroutine, which blocks."""
    return any(source.is_async(frame) for frame in stack[at + 1 :])


def _blames(frame: Frame) -> str:
    return f"the library {library(frame.file) or '?'} holds the loop, at {frame.place}"


def _importing(stack: Sequence[Frame]) -> int | None:
    """Returns the index of the outermost frame that imports a module which is not loaded yet; None if none does."""
    for at, frame in enumerate(stack):
        if at > 0 and frame.file == "<frozen importlib._bootstrap>":
            while at > 1 and library(stack[at - 1].file) == "importlib":  # importlib.import_module
                at -= 1
            return at - 1
    return None


def _advise_import(stack: Sequence[Frame], at: int) -> Advice:
    """Returns the advice for a first import, by the frame at this index."""
    importer = stack[at]
    own = next((frame for frame in reversed(stack[: at + 1]) if not frame.is_library), importer)
    if library(importer.file) == "offloop":
        text = "offloop imports a part of itself at its first call; make one before the loop runs"
        return Advice(own, None, text, is_import=True, is_offloop=True)
    found = source.at(importer, None)
    if own is importer:
        written = found.text if isinstance(found, Import) else None
        return Advice(own, written, "import it at the top of the module, before the loop runs", True)
    module = next((frame for frame in stack[at:] if frame.name == "<module>"), None)
    name = found.text if isinstance(found, Import) else None
    if module is not None and (of := library(module.file)) is not None:
        name = f"import {of}"
    text = (
        f"the library {library(importer.file)} imports a module at its first use"
        f"{'' if name is None else f' (`{name}`)'}; import it before the loop runs"
    )
    return Advice(own, None, text, is_import=True)


def _advise_offloop(stack: Sequence[Frame], at: int) -> Advice:
    """Returns the advice for a call of offloop, by the frame at this index."""
    packs = any(frame.file.endswith(("pickling.py", "pickle.py")) for frame in stack[at + 1 :])
    if packs:
        return Advice(stack[at], None, "its arguments take long to pack; pass less, or a name to load them by")
    return advise_start(stack[at])


def advise_start(place: Frame) -> Advice:
    """Returns the advice for what offloop does at its first call, at this place."""
    text = "offloop starts a pool at its first call; make one before the loop runs, by `offloop.warm_up()` for instance"
    return Advice(place, None, text, is_offloop=True)


def _cut(arguments: Sequence[str]) -> list[str]:
    short = [_short(argument) for argument in arguments]
    return short if sum(map(len, short)) <= 2 * _LONGEST else [short[0], "..."]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else "..."

"""Stacks as plain values, made from live frames and from the text that `faulthandler` writes."""

from __future__ import annotations

import inspect
import itertools
import os
import re
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import NamedTuple

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

_LIBRARIES = tuple(
    os.path.join(os.path.realpath(path), "")
    for path in {
        os.path.dirname(os.__file__),
        os.path.dirname(os.path.dirname(__file__)),
    }
)
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")


class Span(NamedTuple):
    """The position of an expression in its file. Columns count bytes."""

    line: int
    end_line: int
    column: int
    end_column: int


class Frame(NamedTuple):
    """One line of a stack."""

    file: str
    line: int
    """0 if it is not known."""
    function: str
    """The function's qualified name, if it is known; else its plain name."""
    name: str
    """The function's plain name."""
    first_line: int = 0
    """The function's first line; 0 if it is not known."""
    is_async: bool | None = None
    """Whether it is the frame of a coroutine; None if that is not known."""
    calls: bool | None = None
    """Whether it is at a call; None if that is not known."""
    span: Span | None = None
    """The expression that it is at; None if that is not known."""

    @property
    def place(self) -> str:
        """The line and the function, as a short text."""
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def is_library(self) -> bool:
        """Whether it is in the standard library or in an installed package."""
        return is_library(self.file)


def is_library(file: str) -> bool:
    """Returns whether a file is of the standard library or of an installed package."""
    if file.startswith("<"):
        # Code that was typed at a prompt is the user's own.
        return file.startswith("<frozen ")
    return _INSTALLED.search(file) is not None or os.path.realpath(file).startswith(_LIBRARIES)


def of_frame(frame: FrameType) -> Frame:
    """Returns a live frame as a plain value."""
    code = frame.f_code
    calls, span = _position(code, frame.f_lasti)
    return Frame(
        code.co_filename,
        frame.f_lineno or code.co_firstlineno,  # it is None between two lines
        getattr(code, "co_qualname", code.co_name),
        code.co_name,
        code.co_firstlineno,
        bool(code.co_flags & _ASYNC),
        calls,
        span,
    )


def of_frames(frame: FrameType | None) -> list[FrameType]:
    """Returns a frame and its callers, the outermost first."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames


_LINE = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')


def of_dump(text: str) -> list[Frame]:
    """Returns the frames that `faulthandler` has written for one thread, at most 100; the outermost first."""
    frames: list[Frame] = []
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            file, number, name = match.groups()
            file = _unescaped(file)
            frames.append(Frame(file, int(number) if number.isdigit() else 0, name, name))
    frames.reverse()
    return frames


def _unescaped(text: str) -> str:
    """Undoes the escapes of `faulthandler`, which writes ASCII only."""
    if "\\" not in text:
        return text
    return re.sub(
        r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))",
        lambda match: chr(int(match[match.lastindex or 0], 16)),
        text,
    )


def _position(code: CodeType, offset: int) -> tuple[bool | None, Span | None]:
    """Returns whether the instruction at `offset` is a call, and the position of its expression."""
    from opcode import opname

    if offset < 0:
        return None, None
    instructions = code.co_code
    at = min(offset, len(instructions) - 2)
    while at > 0 and opname[instructions[at]] == "CACHE":  # the inline cache of an instruction
        at -= 2
    name = opname[instructions[at]]
    calls = name.startswith(("CALL", "PRECALL")) and not name.startswith("CALL_INTRINSIC")
    position = next(itertools.islice(code.co_positions(), at // 2, None), None)
    if position is None or None in position:  # -X no_debug_ranges
        return calls, None
    return calls, Span(*position)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def text_of(frames: Iterable[Frame], indent: str = "  ") -> str:
    """Returns the frames as in a traceback, the outermost first."""
    import linecache

    lines: list[str] = []
    for frame in frames:
        lines.append(f'{indent}File "{frame.file}", line {frame.line or "?"}, in {frame.function}')
        if source := linecache.getline(frame.file, frame.line).strip():
            lines.append(f"{indent}  {source}")
    return "\n".join(lines)

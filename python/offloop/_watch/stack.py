"""Stacks as plain values, made from what the native half has read and from live frames."""

from __future__ import annotations

import inspect
import itertools
import os
import re
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import NamedTuple

from .._offloop import StackFrame

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

_STANDARD = os.path.join(os.path.realpath(os.path.dirname(os.__file__)), "")
_OFFLOOP = os.path.join(os.path.realpath(os.path.dirname(os.path.dirname(__file__))), "")
_INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\]([^/\\]+)")


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
    span: Span | None = None
    """The expression that it is at; None if that is not known."""
    call: tuple[int, int, int] | None = None
    """Numbers that tell this call from another one of the same function; None if they are not known."""

    @property
    def place(self) -> str:
        """The line and the function, as a short text."""
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def is_library(self) -> bool:
        """Whether it is in the standard library or in an installed package."""
        return library(self.file) is not None


def library(file: str) -> str | None:
    """Returns the name of the library that a file is of: a module of the standard library, or an installed package.

    None if it is the user's own.
    """
    if file.startswith("<"):
        # Code that was typed at a prompt is the user's own.
        frozen = file.removeprefix("<frozen ")
        return frozen.rstrip(">").partition(".")[0] if frozen != file else None
    if (installed := _INSTALLED.match(file)) is not None:
        return installed[1].removesuffix(".py")
    path = os.path.realpath(file)
    if path.startswith(_OFFLOOP):
        return "offloop"
    if path.startswith(_STANDARD):
        return path.removeprefix(_STANDARD).partition(os.sep)[0].removesuffix(".py")
    return None


def of_native(frame: StackFrame) -> Frame:
    """Returns a frame that the native half has read."""
    return Frame(
        frame.file,
        frame.line,
        frame.qualname,
        frame.name,
        frame.first_line,
        bool(frame.flags & _ASYNC),
        None if frame.span is None else Span(*frame.span),
        frame.call,
    )


def of_frame(frame: FrameType) -> Frame:
    """Returns a live frame as a plain value."""
    code = frame.f_code
    return Frame(
        code.co_filename,
        frame.f_lineno or code.co_firstlineno,  # it is None between two lines
        code.co_qualname,
        code.co_name,
        code.co_firstlineno,
        bool(code.co_flags & _ASYNC),
        _span(code, frame.f_lasti),
    )


def of_frames(frame: FrameType | None) -> list[FrameType]:
    """Returns a frame and its callers, the outermost first."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames


def _span(code: CodeType, offset: int) -> Span | None:
    """Returns the position of the expression of the instruction at `offset`."""
    position = next(itertools.islice(code.co_positions(), offset // 2, None), None) if offset >= 0 else None
    if position is None or None in position:  # -X no_debug_ranges
        return None
    return Span(*position)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def text_of(frames: Iterable[Frame], indent: str = "  ") -> str:
    """Returns the frames as in a traceback, the outermost first."""
    import linecache

    lines: list[str] = []
    for frame in frames:
        lines.append(f'{indent}File "{frame.file}", line {frame.line or "?"}, in {frame.function}')
        if source := linecache.getline(frame.file, frame.line).strip():
            lines.append(f"{indent}  {source}")
    return "\n".join(lines)

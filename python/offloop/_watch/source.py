"""The call or import that is written at a place in a source file."""

from __future__ import annotations

import ast
import linecache
import re
import textwrap
from typing import NamedTuple

from .stack import Frame

_MOST_LINES = 3000
"""The number of lines above which a file is not parsed as a whole: that would delay the loop that is late already."""


class Call(NamedTuple):
    """A call as it is written."""

    function: str
    arguments: tuple[str, ...]
    in_loop: bool
    """Whether it is in a loop of its function, so that it may be one of many calls."""
    is_portable: bool
    """Whether it could be sent to another process: no argument is a generator or a lambda."""


class Import(NamedTuple):
    """An import statement."""

    text: str


def at(frame: Frame, inner: Frame | None) -> Call | Import | None:
    """Returns the call or import that a frame is at; None if it is at something else, or at one of several calls.

    `inner` is the frame of the function that it has called, if there is one.
    """
    return _likely(frame, inner) if frame.span is None else _exact(frame)


def is_async(frame: Frame) -> bool:
    """Returns whether it is the frame of a coroutine."""
    if frame.is_async is not None:
        return frame.is_async
    found = _function(frame)
    return found is not None and isinstance(found[0], ast.AsyncFunctionDef)


def _exact(frame: Frame) -> Call | Import | None:
    """Returns the call or import at the frame's expression."""
    assert frame.span is not None
    text = _cut(frame)
    if text is None:
        return None
    if re.match(r"(import|from)\b", text):
        return Import(" ".join(text.split()))
    try:
        # In brackets the expression may extend over several lines.
        node = ast.parse(f"({text}\n)", mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(node, ast.Call):
        return None
    found = _function(frame)
    if found is None:
        return _written(node, f"({text}\n)", False)
    function, line = found[0], frame.span.line - found[1]
    if _is_used_on(function, line, node):
        return None
    return _written(node, f"({text}\n)", _in_loop(function, line, node))


def _cut(frame: Frame) -> str | None:
    """Returns the text of a frame's expression."""
    span = frame.span
    assert span is not None
    lines = [
        line.encode() for line in linecache.getlines(frame.file)[span.line - 1 : span.end_line]
    ]
    if len(lines) != span.end_line - span.line + 1:
        return None
    lines[-1] = lines[-1][: span.end_column]
    lines[0] = lines[0][span.column :]
    return b"".join(lines).decode(errors="replace")


def _likely(frame: Frame, inner: Frame | None) -> Call | Import | None:
    """Returns the call or import at the frame's line, if the expression is not known."""
    found = _function(frame)
    if found is None:
        return None
    function, offset, source = found
    line = frame.line - offset
    nodes = [
        node
        for node in _own_nodes(function)
        if isinstance(node, ast.expr | ast.stmt)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            return Import(ast.unparse(node))
    # The frame's line is that of the instruction: the first line of the call, or the line of its last name.
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    calls = [
        node for node in calls if line in (node.lineno, node.func.end_lineno, node.func.lineno)
    ] or calls
    if inner is not None:
        calls = [node for node in calls if _name(node) == inner.name] or calls
    awaited = {id(node.value) for node in nodes if isinstance(node, ast.Await)}
    # Calling a coroutine function takes no time, so a call that is awaited is not the one.
    calls = [node for node in calls if id(node) not in awaited] or calls
    if len(calls) != 1:
        return None
    return _written(calls[0], source, _in_loop(function, line, calls[0]))


_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Module


def _function(frame: Frame) -> tuple[_Function, int, str] | None:
    """Returns a frame's function, the number of lines before its source in the file, and that source."""
    lines = linecache.getlines(frame.file)
    if not 0 < frame.line <= len(lines):
        return None
    if frame.name != "<module>" and (found := _by_indent(lines, frame)) is not None:
        return found
    if len(lines) > _MOST_LINES:
        return None
    source = "".join(lines)
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    best: _Function = module
    for node in ast.walk(module):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == frame.name
            and node.lineno <= frame.line <= (node.end_lineno or 0)
        ):
            best = node  # inner functions come later
    return best, 0, source


def _by_indent(lines: list[str], frame: Frame) -> tuple[_Function, int, str] | None:
    """Returns the same by parsing the function's lines only, which are found by their indentation."""
    opening = re.compile(rf"(\s*)(?:async\s+)?def\s+{re.escape(frame.name)}\b")
    if frame.first_line:
        # The first line is that of a decorator, if there are any.
        candidates = range(frame.first_line - 1, frame.line)
    else:
        candidates = range(frame.line - 1, -1, -1)
    for begin in candidates:
        if begin < len(lines) and (match := opening.match(lines[begin])):
            break
    else:
        return None
    indent = len(match[1].expandtabs())
    end = frame.line
    for end in range(frame.line, len(lines)):
        line = lines[end].expandtabs()
        bare = line.strip()
        if bare and bare[0] not in "#)]}" and len(line) - len(line.lstrip()) <= indent:
            break
    else:
        end = len(lines)
    source = textwrap.dedent("".join(lines[begin:end]))
    try:
        [node] = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    return (
        (node, begin, source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
    )


def _own_nodes(function: ast.AST) -> list[ast.AST]:
    """Returns the nodes of a function without those of functions inside it."""
    found: list[ast.AST] = []
    rest = list(ast.iter_child_nodes(function))
    while rest:
        node = rest.pop()
        found.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            rest += ast.iter_child_nodes(node)
    return found


def _in_loop(function: _Function, line: int, call: ast.Call) -> bool:
    """Returns whether a loop or a comprehension around a call repeats it."""
    text = ast.unparse(call)
    for node in _own_nodes(function):
        repeated: list[ast.AST]
        if isinstance(node, ast.For | ast.AsyncFor):
            repeated = [*node.body]
        elif isinstance(node, ast.While):
            repeated = [node.test, *node.body]
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            repeated = [node.elt]
        elif isinstance(node, ast.DictComp):
            repeated = [node.key, node.value]
        else:
            continue
        for part in repeated:
            for inner in (part, *_own_nodes(part)):
                if (
                    isinstance(inner, ast.Call)
                    and inner.lineno == line
                    and ast.unparse(inner) == text
                ):
                    return True
    return False


def _is_used_on(function: _Function, line: int, call: ast.Call) -> bool:
    """Returns whether the statement around a call goes on with its result at the same place in the file.

    A loop takes the next item from it there, and `with` enters it.
    """
    text = ast.unparse(call)
    for node in _own_nodes(function):
        used: list[ast.expr]
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            used = [node.iter]
        elif isinstance(node, ast.withitem):
            used = [node.context_expr]
        else:
            continue
        for part in used:
            if isinstance(part, ast.Call) and part.lineno == line and ast.unparse(part) == text:
                return True
    return False


def _name(call: ast.Call) -> str | None:
    """Returns the last name of the function that is called."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else None


def _written(node: ast.Call, source: str, in_loop: bool) -> Call | None:
    def text(part: ast.expr) -> str:
        return " ".join((ast.get_source_segment(source, part) or ast.unparse(part)).split())

    arguments = [text(argument) for argument in node.args]
    for keyword in node.keywords:
        arguments.append(
            f"{keyword.arg}={text(keyword.value)}" if keyword.arg else f"**{text(keyword.value)}"
        )
    parts = [*node.args, *(keyword.value for keyword in node.keywords)]
    is_portable = not any(isinstance(part, ast.GeneratorExp | ast.Lambda) for part in parts)
    return Call(text(node.func), tuple(arguments), in_loop, is_portable)

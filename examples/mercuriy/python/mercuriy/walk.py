"""The walk of a JSON document: every key, in one pass over the bytes, without a tree and without recursion.

It computes for as long as the document is large, so it belongs into another process. It needs memory for the different
keys and for the path to the current value, not for the document.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import offloop

MAX_DEPTH: Final = 128
"""The number of arrays and objects that may be within each other."""
MAX_FOUND: Final = 1024
"""The bytes of the text of a found value, up to which it is returned as a value."""

# All repetitions are possessive, so that the matcher never goes back.
_SPACE = rb"[ \t\n\r]*+"
_CONTENT = rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+'
_SIMPLE = (
    rb'("' + _CONTENT + rb'"'
    rb"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null)"
)  # fmt: skip
# A key, with its value if that is a simple one; a simple value; the begin of an array or of an object.
_PART = rb'(?:"(' + _CONTENT + rb')"' + _SPACE + rb":" + _SPACE + _SIMPLE + rb"?+|" + _SIMPLE + rb"|([\[{]))"
_TOKEN = re.compile(
    _SPACE + rb"(?:," + _SPACE + _PART + rb"|" + _PART + rb"|([\]}])|(.))", re.DOTALL
)  # fmt: skip
"""A token, with the comma before it. The last group that has matched is its kind."""

# The kinds that have a comma, those that have none, and the two others.
_NEXT_KEY, _NEXT_MEMBER, _NEXT_SIMPLE, _NEXT_OPEN = 1, 2, 3, 4
_KEY, _MEMBER, _SIMPLE_VALUE, _OPEN = 5, 6, 7, 8
_CLOSE, _OTHER = 9, 10

# The kinds that may come next.
_A_VALUE = frozenset({_SIMPLE_VALUE, _OPEN})
_FIRST_OF_ARRAY = frozenset({_SIMPLE_VALUE, _OPEN, _CLOSE})
_MORE_OF_ARRAY = frozenset({_NEXT_SIMPLE, _NEXT_OPEN, _CLOSE})
_FIRST_OF_OBJECT = frozenset({_KEY, _MEMBER, _CLOSE})
_MORE_OF_OBJECT = frozenset({_NEXT_KEY, _NEXT_MEMBER, _CLOSE})
_NOTHING = frozenset[int]()

_WITH_KEY = frozenset({_KEY, _MEMBER, _NEXT_KEY, _NEXT_MEMBER})
_WITHOUT_VALUE = frozenset({_KEY, _NEXT_KEY})
_OF_ARRAY = (_FIRST_OF_ARRAY, _MORE_OF_ARRAY)

_CUT = re.compile(
    _SPACE + rb",?" + _SPACE + rb'(?:"' + _CONTENT + rb"(?:\\(?:u[0-9a-fA-F]{0,3})?)?"
    rb"|-|t(?:ru?)?|f(?:al?|als)?|n(?:ul?)?)?\Z"
)
"""What is left of a document that ends within a token or after a comma."""
_CUT_NUMBER = re.compile(rb"(?:\.|[eE][+-]?)\Z")
"""What is left of one that ends within a number, after the digits."""
_REST = re.compile(_SPACE + rb"\Z")

_STEP = 1 << 15
"""The number of tokens between two reports of progress."""

Buffer = Any
"""Bytes that need not be copied to be read: a map of shared memory."""


class BadDocument(Exception):
    """The document is no JSON, or nested too deeply."""

    def __init__(self, code: str, offset: int, message: str) -> None:
        super().__init__(code, offset, message)
        self.code = code
        self.offset = offset
        self.message = message


class Progress(NamedTuple):
    bytes_done: int
    bytes: int
    keys: int


class Result(NamedTuple):
    bytes: int
    keys: int
    values: int
    depth: int
    path: str
    frequent: list[tuple[str, int]]
    found: Any


def walk(data: Buffer, find: str | None = None) -> Result:
    """Walks a document. Raises BadDocument."""
    for step in walk_in_steps(data, find):
        if isinstance(step, Result):
            return step
    raise AssertionError("a walk ends with its result")


def walk_in_steps(data: Buffer, find: str | None = None) -> Iterator[Progress | Result]:
    """Walks a document. Yields its progress, and at last the result. Raises BadDocument."""
    length = len(data)
    bad_utf8 = _first_bad_utf8(data)
    search = _Search(find)
    counts: Counter[bytes] = Counter()
    values = 0
    deepest, deepest_path = -1, list[bytes | int]()

    # The key, or the index, of the current value in each of the open arrays and objects.
    path: list[bytes | int] = []
    depth = 0
    expected = _A_VALUE
    # What is expected after a value in each of them, and outside.
    after = [_NOTHING]

    def fail(fault: BadDocument) -> NoReturn:
        """Raises the first fault of the document."""
        raise fault if bad_utf8 is None or fault.offset < bad_utf8 else _not_utf8(bad_utf8)

    yield Progress(0, length, 0)
    start = 3 if data[:3] == codecs.BOM_UTF8 else 0
    for number, token in enumerate(_TOKEN.finditer(data, start), 1):
        if not number % _STEP:
            offloop.check_cancelled()
            yield Progress(token.start(), length, counts.total())

        kind: int = token.lastindex  # type: ignore[assignment] # one of the groups has matched
        if kind not in expected:
            fail(_out_of_place(data, token, expected))

        if kind == _CLOSE:
            if (token[_CLOSE] == b"]") != (expected in _OF_ARRAY):
                fail(_out_of_place(data, token, expected))
            path.pop()
            after.pop()
            depth -= 1
            expected = after[-1]
            if depth == search.open_at:
                search.end(token.end())
            continue

        if kind in _WITH_KEY:
            key = token[kind] if kind in _WITHOUT_VALUE else token[kind - 1]
            if b"\\" in key:
                key = _unescape(key)
            path[-1] = key
            counts[key] += 1
            if kind in _WITHOUT_VALUE:
                expected = _A_VALUE
                continue

        # Here a value begins.
        values += 1
        expected = after[-1]
        if expected is _MORE_OF_ARRAY:
            path[-1] += 1  # type: ignore[operator] # it is a number
        if depth > deepest:
            deepest, deepest_path = depth, path.copy()
        is_open = kind == _OPEN or kind == _NEXT_OPEN
        if depth == search.depth and search.is_at(path):
            search.begin(token.start(kind), token.end(), is_open)
        if is_open:
            if depth == MAX_DEPTH:
                fail(_too_deep(token.start(kind)))
            depth += 1
            if token[kind] == b"[":
                path.append(-1)
                after.append(_MORE_OF_ARRAY)
                expected = _FIRST_OF_ARRAY
            else:
                path.append(b"")
                after.append(_MORE_OF_OBJECT)
                expected = _FIRST_OF_OBJECT

    if expected or bad_utf8 is not None:
        fail(_truncated(length))
    yield Progress(length, length, counts.total())
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    yield Result(
        length,
        counts.total(),
        values,
        deepest,
        ".".join(str(part) if isinstance(part, int) else _text(part) for part in deepest_path),
        [(_text(key), count) for key, count in frequent],
        search.value(data),
    )


class _Search:
    """The search for the value at a path."""

    def __init__(self, find: str | None) -> None:
        parts = find.split(".") if find else []
        self._parts = [_forms(part) for part in reversed(parts)]
        """What each part of the path, from its end, may be: most paths of the same length differ there."""
        self.depth = -1 if find is None else len(parts)
        """The number of keys and indices that lead to the value; -1 if none is searched."""
        self.open_at = -1
        """The depth of the array or object that was found, until it is closed."""
        self._span: tuple[int, int] | None = None

    def is_at(self, path: Sequence[bytes | int]) -> bool:
        """Returns whether the value is at this path, which is as long as that of the search."""
        at = len(path)
        for forms in self._parts:
            at -= 1
            if path[at] not in forms:
                return False
        return True

    def begin(self, start: int, end: int, is_open: bool) -> None:
        self._span = start, end
        self.open_at = self.depth if is_open else -1

    def end(self, end: int) -> None:
        assert self._span is not None
        self._span = self._span[0], end
        self.open_at = -1

    def value(self, data: Buffer) -> Any:
        """Returns the value, or the begin of its text."""
        if self._span is None:
            return None
        start, end = self._span
        text = bytes(data[start : min(end, start + MAX_FOUND)])
        if end - start <= MAX_FOUND:
            value = json.loads(text)
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:  # there is a number that a double cannot hold
                pass
            else:
                return value
        return text.decode(errors="ignore")


def _forms(part: str) -> set[bytes | int]:
    """Returns the key, and the index, that a part of a path may be."""
    forms: set[bytes | int] = {part.encode(errors="surrogatepass")}
    if part.isascii() and part.isdigit() and (part == "0" or part[0] != "0") and len(part) < 10:
        forms.add(int(part))
    return forms


def _unescape(key: bytes) -> bytes:
    text: str = json.loads(b'"' + key + b'"')
    # Half of a surrogate pair is allowed in JSON.
    return text.encode(errors="surrogatepass")


def _text(key: bytes) -> str:
    return key.decode(errors="surrogatepass")


def _first_bad_utf8(data: Buffer) -> int | None:
    """Returns the offset of the first byte that is not UTF-8. Nothing else is wrong with a character that is
    cut off at the end.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    size = 1 << 16
    for start in range(0, len(data), size):
        kept = len(decoder.getstate()[0])
        try:
            decoder.decode(data[start : start + size])
        except UnicodeDecodeError as error:
            return start - kept + error.start
    return None


def _out_of_place(data: Buffer, token: re.Match[bytes], expected: frozenset[int]) -> BadDocument:
    """Returns what is wrong with a token that is not expected."""
    # Where the token begins, or the comma before it.
    offset = token.end() - len(token[0].lstrip(b" \t\n\r"))
    if expected:
        kind = token.lastindex
        if kind == _OTHER:
            is_cut = _CUT.match(data, offset) or (
                data[offset - 1 : offset].isdigit() and _CUT_NUMBER.match(data, offset)
            )
        else:
            # A key whose colon is missing.
            takes_key = not _WITH_KEY.isdisjoint(expected)
            is_cut = takes_key and token[0].endswith(b'"') and _REST.match(data, token.end())
        if is_cut:
            return _truncated(len(data))
    return BadDocument("not_json", offset, f"the document is no JSON: see its byte {offset}")


def _too_deep(offset: int) -> BadDocument:
    return BadDocument(
        "too_deep",
        offset,
        f"the document is nested more than {MAX_DEPTH} levels deep at its byte {offset}: send its parts",
    )


def _truncated(length: int) -> BadDocument:
    if not length:
        return BadDocument("truncated", 0, "the document is empty: send JSON")
    return BadDocument(
        "truncated", length, f"the document ends too early, after {length} bytes: send all of it"
    )


def _not_utf8(offset: int) -> BadDocument:
    return BadDocument(
        "not_utf8", offset, f"the document is not UTF-8 at its byte {offset}: encode it as UTF-8"
    )

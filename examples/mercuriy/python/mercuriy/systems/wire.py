"""The format of the RFC-shaped protocol's messages: that of examples/blocking-protocol.

A frame is a size (4 bytes, big endian) and that number of bytes: a tag, then texts, each after its own size.
"""

from __future__ import annotations

import struct

MAX_FRAME = 1 << 20
"""The largest size of a frame. A larger number means that the other side does not follow the protocol."""

CALL, RESULTS, FAILURE = b"C", b"R", b"F"

Parameters = dict[str, str]

_SIZE = struct.Struct(">I")


class ProtocolError(Exception):
    """The other side does not follow the protocol."""


def encode(tag: bytes, *texts: str) -> bytes:
    """Returns a frame. Raises ProtocolError if it is too large."""
    parts = [tag]
    for text in texts:
        data = text.encode()
        parts += _SIZE.pack(len(data)), data
    frame = b"".join(parts)
    if len(frame) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(frame)} bytes is too large: {MAX_FRAME} are allowed")
    return _SIZE.pack(len(frame)) + frame


def size_of(head: bytes) -> int:
    """Returns the size of the frame that follows these four bytes."""
    (size,) = _SIZE.unpack(head)
    if not 1 <= size <= MAX_FRAME:
        raise ProtocolError(f"a frame of {size} bytes")
    return int(size)


def decode(frame: bytes) -> tuple[bytes, list[str]]:
    """Returns the tag and the texts of a frame, without its size."""
    texts: list[str] = []
    at = 1
    try:
        while at < len(frame):
            (size,) = _SIZE.unpack_from(frame, at)
            at += _SIZE.size
            if at + size > len(frame):
                raise ProtocolError("a text is longer than its frame")
            texts.append(frame[at : at + size].decode())
            at += size
    except (struct.error, UnicodeDecodeError) as error:
        raise ProtocolError(str(error)) from error
    return frame[:1], texts


def pairs(parameters: Parameters) -> list[str]:
    """Returns names and values in turn, as they travel."""
    return [text for pair in parameters.items() for text in pair]


def parameters(texts: list[str]) -> Parameters:
    """Returns what `pairs` was given."""
    if len(texts) % 2:
        raise ProtocolError("a parameter has no value")
    return dict(zip(texts[::2], texts[1::2], strict=True))

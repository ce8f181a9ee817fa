"""Documents, and what a walk of them must find: by a plain walk of the tree that the standard library makes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def expected(text: bytes) -> dict[str, Any]:
    """Returns what the service must find, without `found`, `seconds` and `on`."""
    # Pairs, because a key may occur twice.
    tree = json.loads(text, object_pairs_hook=tuple, parse_int=float)
    counts: Counter[str] = Counter()
    values = 0
    deepest: tuple[int, tuple[Any, ...]] = (-1, ())
    ahead: list[tuple[Any, tuple[Any, ...], int]] = [(tree, (), 0)]
    while ahead:
        value, path, depth = ahead.pop()
        values += 1
        if depth > deepest[0]:
            deepest = depth, path
        if isinstance(value, tuple):
            counts.update(key for key, _ in value)
            ahead.extend((inner, (path, key), depth + 1) for key, inner in reversed(value))
        elif isinstance(value, list):
            ahead.extend((inner, (path, at), depth + 1) for at, inner in reversed(list(enumerate(value))))
    parts: list[str] = []
    depth, path = deepest
    while path:
        path, part = path
        parts.append(str(part))
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    return {
        "bytes": len(text),
        "keys": counts.total(),
        "values": values,
        "deepest": {"depth": depth, "path": ".".join(reversed(parts))},
        "frequent": [{"key": key, "count": count} for key, count in frequent],
    }


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def large(megabytes: float) -> bytes:
    """Returns a document that takes some time."""
    record = {"name": "customer", "address": {"geo": {"lat": 1.5, "lon": 2.5}}, "tags": ["a", "b"]}
    one = json.dumps(record).encode()
    return b"[" + b",".join([one] * int(megabytes * 1e6 / len(one))) + b"]"

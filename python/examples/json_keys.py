"""Walks every key of a JSON file in another process while the event loop stays free.

    python python/examples/json_keys.py FILE        (without FILE it makes 8 MB of JSON)

JSON reaches a worker in two ways, and both are measured. As bytes, which this process reads from a
file, a pipe or a socket: they travel beside the pickle, in memory that both processes see. As a
path, which the worker opens: nothing travels, but it must be a file that others can open.
"""

import asyncio
import json
import os
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import offloop
from heartbeat import Heartbeat, Measured, milliseconds


class Summary(NamedTuple):
    """The worker's answer. The data itself does not come back."""

    keys: int
    deepest: list[str]
    frequent: list[tuple[str, int]]


class BadJson(Exception):
    """The text is not valid. The message is one line."""


def walk(data: bytes) -> Summary:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadJson(f"it is not UTF-8: there is a stray byte at offset {error.start}") from None
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise BadJson("it is empty")
    try:
        # Objects become tuples of pairs, so that a key that occurs twice counts twice, and integers
        # floats, because Python takes no longer ones than 4300 digits from a text.
        value = json.loads(
            text, object_pairs_hook=tuple, parse_int=float, parse_constant=refuse_constant
        )
    except RecursionError:
        raise BadJson("it is nested too deeply") from None
    except ValueError as error:
        raise BadJson(f"it is not valid JSON: {error}") from None
    return summarise(value)


def walk_file(path: Path) -> Summary:
    return walk(path.read_bytes())


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a value")


def summarise(value: Any) -> Summary:
    counts: Counter[str] = Counter()
    deepest: tuple[Any, ...] = ()
    depth = 0
    # The values that are still to be walked, each with the number of keys that lead to it, and these keys, as
    # (last, (next to last, ())).
    ahead: list[tuple[Any, int, tuple[Any, ...]]] = [(value, 0, ())]
    while ahead:
        value, level, path = ahead.pop()
        if level > depth:
            depth, deepest = level, path
        if type(value) is tuple:
            for key, inner in reversed(value):
                counts[key] += 1
                ahead.append((inner, level + 1, (key, path)))
        elif type(value) is list:
            ahead.extend((inner, level, path) for inner in reversed(value))
    keys: list[str] = []
    while deepest:
        key, deepest = deepest
        keys.append(key)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    return Summary(counts.total(), keys[::-1], frequent)


async def run(path: Path | None, name: str) -> None:
    data = made_up(8_000_000) if path is None else await offloop.run(path.read_bytes)
    async with offloop.ProcessPoolExecutor(1) as pool, Heartbeat() as heart:
        # The worker starts at the first call, which is not measured.
        await pool.run(walk, b"{}")
        summary, by_bytes = await heart.measure(lambda: pool.run(walk, data))
        rows = [("process pool, bytes", by_bytes)]
        if path is not None and stat.S_ISREG(path.stat().st_mode):
            again, by_path = await heart.measure(lambda: pool.run(walk_file, path.absolute()))
            assert again == summary, "the same function gave two answers"
            rows.append(("process pool, path", by_path))

        async def directly() -> Summary:
            return walk(data)

        again, on_the_loop = await heart.measure(directly)
        assert again == summary, "the same function gave two answers"
        rows.append(("directly on the loop", on_the_loop))
    report(name, len(data), summary, rows)


def report(name: str, length: int, summary: Summary, rows: list[tuple[str, Measured]]) -> None:
    frequent = ", ".join(f"{key} ({count})" for key, count in summary.frequent)
    print(f"{name}: {length / 1e6:.1f} MB")
    print(f"  keys           {summary.keys}")
    print(f"  deepest path   {len(summary.deepest)} levels: {'.'.join(summary.deepest)}")
    print(f"  most frequent  {frequent}")
    print(f"{'walked':<22}{'took':>12}{'loop late at worst':>20}")
    for place, (took, late) in rows:
        print(f"{place:<22}{milliseconds(took):>12}{milliseconds(late):>20}")


def made_up(length: int) -> bytes:
    """A list of records as a service would return it."""
    records: list[str] = []
    while length > 0:
        number = len(records)
        geo = {"lat": number % 90, "lon": number % 180}
        address = {"city": f"town {number % 97}", "geo": geo}
        record = {
            "id": number,
            "name": f"customer {number}",
            "address": address,
            "tags": ["a", "b"],
        }
        records.append(json.dumps(record, separators=(",", ":")))
        length -= len(records[-1]) + 1
    return f"[{','.join(records)}]".encode()


def main() -> int:
    # A key may hold what has no place in UTF-8: half of a surrogate pair.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    made = "8 MB made up for the purpose"
    name = made if path is None else os.fsencode(path).decode(errors="replace")
    try:
        asyncio.run(run(path, name))
    except OSError as error:
        print(f"json_keys: {name}: {error.strerror}", file=sys.stderr)
        return 1
    except (BadJson, offloop.OffloopError) as error:
        print(f"json_keys: {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

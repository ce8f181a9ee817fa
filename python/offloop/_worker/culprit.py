"""The part of a call or a result that cannot be pickled, for the message of the error."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pickle import PicklingError
from types import TracebackType
from typing import Any, cast

DEPTH = 8
"""The number of steps from an argument to the part that is named at most."""
WIDTH = 1000
"""The number of items of a collection that are looked at."""

Dumps = Callable[[object], object]


def name_culprit(
    error: BaseException, parts: Iterable[tuple[str, object]], of: str, dumps: Dumps
) -> None:
    """Adds to a pickling error which of the named `parts` of a call or a result it is about, and where in it.

    The text of pickle's own errors is extended. An exception of the user's `__reduce__` and the like keeps its text and
    gets a note.
    """
    for name, value in parts:
        if _can(dumps, value):
            continue
        where = "".join(_path(value, dumps, DEPTH))
        place = f"{name} of {of}" + (f", at `{where}`" if where else "")
        if _is_pickles_own(error):
            error.args = (f"{error.args[0]} ({place})",)
        else:
            error.add_note(f"while pickling {place}")
        return


def _can(dumps: Dumps, value: object) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _path(value: object, dumps: Dumps, depth: int) -> Iterator[str]:
    """Yields the steps to the innermost part that cannot be pickled."""
    if depth == 0:
        return
    for step, part in _parts(value):
        if not _can(dumps, part):
            yield step
            yield from _path(part, dumps, depth - 1)
            return


def _parts(value: object) -> Iterator[tuple[str, object]]:
    kind = type(value)
    if kind is dict:
        items = cast("dict[object, object]", value).items()
        for (key, part), _ in zip(items, range(WIDTH), strict=False):
            yield f"[{key!r:.40}]", part
    elif kind in (list, tuple):
        for index, part in enumerate(cast("list[object]", value)[:WIDTH]):
            yield f"[{index}]", part
    elif not isinstance(value, type) and hasattr(value, "__dict__"):
        for name, part in vars(value).items():
            yield f".{name}", part


def _is_pickles_own(error: BaseException) -> bool:
    """Returns whether pickle or cloudpickle has raised the error, and not a method of the user's object."""
    if type(error) not in (PicklingError, TypeError, AttributeError) or len(error.args) != 1:
        return False
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    module: Any = traceback.tb_frame.f_globals.get("__name__", "")
    own = ("offloop._worker.pickling", pickle.__name__, "multiprocessing.reduction", "copyreg")
    return module in own or str(module).startswith("cloudpickle")

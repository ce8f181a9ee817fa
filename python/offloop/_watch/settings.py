"""The watchdog's threshold, as users write it. Imported as the interpreter starts, so it imports nothing."""

from __future__ import annotations

DEFAULT = 0.1
"""The threshold, in seconds, unless another is given."""

_OFF = ("", "0", "no", "off", "false")
_ON = ("1", "yes", "on", "true")


def seconds(text: str) -> float:
    """Returns a length of time, such as `100ms` or `0.5s`, in seconds. Raises ValueError with what is wrong."""
    word = text.strip().lower()
    scale = 1e-3 if word.endswith("ms") else 1.0
    try:
        value = float(word.removesuffix("ms" if word.endswith("ms") else "s")) * scale
    except ValueError:
        raise ValueError("it must be a length of time such as 50ms") from None
    if not word.endswith("s"):
        raise ValueError(f"it has no unit; write {word}ms or {word}s")
    if not 0.001 <= value < 1e9:
        raise ValueError("it must be a length of time of a millisecond or more, such as 50ms")
    return value


def threshold(value: str) -> float | None:
    """Returns the seconds that the setting gives; None if it turns the watchdog off. Raises ValueError."""
    word = value.strip().lower()
    if word in _OFF:
        return None
    return DEFAULT if word in _ON else seconds(word)

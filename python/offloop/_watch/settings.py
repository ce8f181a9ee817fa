"""The watchdog's threshold, as users write it. Imported as the interpreter starts, so it imports nothing."""

from __future__ import annotations

DEFAULT = 0.1
"""The threshold, in seconds, unless another is given."""

_OFF = ("", "0", "no", "off", "false")
_ON = ("1", "yes", "on", "true")


def seconds(text: str) -> float:
    """Returns a length of time, such as `100ms`, `0.5s` or `0.5`, in seconds. Raises ValueError."""
    text = text.strip().lower()
    number, scale = (text[:-2], 1e-3) if text.endswith("ms") else (text.removesuffix("s"), 1.0)
    value = float(number) * scale
    if not 0.001 <= value < 1e9:
        raise ValueError(f"{text!r} is not a length of time of a millisecond or more")
    return value


def threshold(value: str) -> float | None:
    """Returns the seconds that the setting gives; None if it turns the watchdog off. Raises ValueError."""
    word = value.strip().lower()
    if word in _OFF:
        return None
    return DEFAULT if word in _ON else seconds(word)

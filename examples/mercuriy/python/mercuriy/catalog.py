"""The functions that can be called, and the check of their arguments: what functions.json says."""

from __future__ import annotations

import json
from typing import Any, Final

from . import resources

_catalog: dict[str, Any] = json.loads(resources.shared("functions.json").read_text())

systems: Final[dict[str, dict[str, Any]]] = _catalog["systems"]
functions: Final[dict[str, dict[str, Any]]] = _catalog["functions"]


def problem(function: str, args: list[Any]) -> str | None:
    """Returns what is wrong with the arguments of a function; None if nothing is."""
    parameters = functions[function]["parameters"]
    if len(args) != len(parameters):
        names = ", ".join(parameter["name"] for parameter in parameters)
        return f"{function}({names}) takes {len(parameters)} arguments, and {len(args)} were given"
    for parameter, value in zip(parameters, args, strict=True):
        if what := _problem(parameter, value):
            return f"the argument {parameter['name']} of {function} {what}"
    return None


def _problem(parameter: dict[str, Any], value: Any) -> str | None:
    match parameter["type"]:
        case "integer":
            # A boolean is an integer to Python, and 2.0 is one to JSON Schema, but not here.
            if type(value) is not int:
                return "must be an integer"
            if not parameter["minimum"] <= value <= parameter["maximum"]:
                return f"must be from {parameter['minimum']} to {parameter['maximum']}"
        case "string":
            if not isinstance(value, str):
                return "must be a text"
            if len(value) > parameter["maxLength"]:
                return f"may have {parameter['maxLength']} characters"
    return None

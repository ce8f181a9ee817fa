"""Copies of contexts, for calls that must not change what their callers see."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

_SHARED = {"decimal": "getcontext", "gmpy2": "get_context"}
"""The modules that keep an object in a context variable and change it in place, and the functions that return it."""

_variables: dict[str, ContextVar[Any] | None] = {}
"""The context variables of these modules, once they were looked up."""


def copy_context() -> Context:
    """Returns a copy of the current context, for a call.

    A copy shares its values with the original. That is right for what is set, and wrong for arithmetic contexts, which
    are changed in place: the call would set the precision of its caller. So it gets copies of these, with the same
    settings.
    """
    context = contextvars.copy_context()
    for module in _SHARED:
        if module in sys.modules and (variable := _variable_of(module)) is not None:
            value = context.get(variable)
            if value is not None:
                context.run(variable.set, value.copy())
    return context


def _variable_of(module: str) -> ContextVar[Any] | None:
    """Returns the context variable of one of these modules. The modules have no name for it."""
    try:
        return _variables[module]
    except KeyError:
        pass
    # While another thread imports the module, the function may be missing.
    get: Callable[[], object] | None = getattr(sys.modules[module], _SHARED[module], None)
    if get is None:
        return None
    context = Context()
    value = context.run(get)
    found = [variable for variable, its in context.items() if its is value]
    variable = _variables[module] = found[0] if found else None
    return variable

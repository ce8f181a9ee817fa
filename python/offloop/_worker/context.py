"""The values of context variables on their way to worker processes."""

import contextvars
import functools
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from .._contexts import copy_context
from . import main_module
from .forwarding import advise

_P = ParamSpec("_P")
_R = TypeVar("_R")


COSTLY_IMPORT = 0.1
"""The seconds from which an import that only a context variable needs is reported."""


def locate(variables: Sequence[ContextVar[Any]]) -> dict[str, ContextVar[Any]]:
    """Returns the variables by the names `module:attribute`, by which workers find them.

    Searches all modules, so it is called once, by the pool's constructor. Raises TypeError for an object that is
    no ContextVar, and ValueError for a variable that is not an attribute of a module that workers can import.
    """
    for variable in variables:
        if not isinstance(variable, ContextVar):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"context_vars takes ContextVar objects, not {variable!r}")
    names: dict[int, str] = {}
    wanted = {id(variable) for variable in variables}
    for module_name, module in _modules():
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in wanted:
                names.setdefault(id(value), f"{module_name}:{attribute}")
    for variable in variables:
        if id(variable) not in names:
            raise ValueError(
                f"{variable!r} cannot go to worker processes, because no module that they can "
                "import has it as an attribute: create it at the top level of a module"
            )
    return {names[id(variable)]: variable for variable in variables}


def _modules() -> list[tuple[str, ModuleType]]:
    """Returns all modules. The main module comes last, because workers import it only if they must."""
    modules = {**sys.modules}
    modules.pop("__mp_main__", None)
    main = modules.pop("__main__")
    if main_module.is_importable():
        modules["__main__"] = main
    return list(modules.items())


def capture(located: Mapping[str, ContextVar[Any]]) -> dict[str, object]:
    """Returns the current values of the variables that `locate` has found. Unset ones are absent."""
    context = contextvars.copy_context()
    return {name: context[variable] for name, variable in located.items() if variable in context}


def run_in(
    values: Mapping[str, object], fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs
) -> _R:
    """Calls `fn` in a copy of the current context in which the captured `values` are set."""
    return copy_context().run(_set_and_call, values, fn, args, kwargs)


def _set_and_call(
    values: Mapping[str, object],
    fn: Callable[..., _R],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> _R:
    for name, value in values.items():
        _find(name).set(value)
    return fn(*args, **kwargs)


@functools.cache
def _find(name: str) -> ContextVar[Any]:
    module, _, attribute = name.partition(":")
    known = len(sys.modules)
    is_known = module in sys.modules
    begun = time.perf_counter()
    variable: ContextVar[Any] = getattr(importlib.import_module(module), attribute)
    seconds = time.perf_counter() - begun
    if not is_known and seconds >= COSTLY_IMPORT:
        advise(
            f"context_vars:{module}",
            f"each worker process imports the module `{module}` before its first job, only because the context variable "
            f"`{attribute}` is defined there; process {os.getpid()} has taken {seconds:.2f} s for that and for the "
            f"{len(sys.modules) - known - 1} modules that come with it. Define the variable in a small module of its "
            f'own, preload the module (preload=["{module}"]), or leave the variable out of `context_vars`',
        )
    return variable

"""The name of the service that this process belongs to."""

from __future__ import annotations

import os
import re
import sys

_SERVERS = frozenset({"daphne", "fastapi", "granian", "gunicorn", "hypercorn", "uvicorn"})
"""Programs that run the application of a service, which their arguments name."""

_APPLICATION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(\))?")


def service_name() -> str:
    """Returns the name of the program: that of its script, or of its module after `-m`. For a program that runs a web
    application it is the name of the application, so that the processes of one service share it and those of two do not.
    """
    program = _program()
    if program in _SERVERS:
        applications = (word for word in sys.argv[1:] if _APPLICATION.fullmatch(word))
        return next(applications, program)
    return program


def _program() -> str:
    given = sys.argv[0] if sys.argv else ""
    if given == "-m":
        # The module is about to be found: this is imported by a package that it is in.
        return _after_m() or "python"
    if given in ("", "-", "-c"):
        return "python"
    directory, name = os.path.split(given)
    if name == "__main__.py":
        name = os.path.basename(directory)
    return name.removesuffix(".py") or "python"


def _after_m() -> str | None:
    """Returns the name of the module that the interpreter was told to run."""
    words = sys.orig_argv
    named = (after for word, after in zip(words, words[1:], strict=False) if re.fullmatch("-[A-Za-z]*m", word))
    name = next(named, None)
    return None if name is None else name.rpartition(".")[2]

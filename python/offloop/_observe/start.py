"""`OFFLOOP_OBSERVE=1` opens the live view when offloop is imported; `OFFLOOP_OBSERVE=127.0.0.1:8811` with HTTP as well.

The engine reads the values, and opens the view again in a forked child that makes a pool of its own. Workers never open it.
"""

from __future__ import annotations

from .. import _offloop
from .program import service_name
from .server import prepare

VARIABLE = "OFFLOOP_OBSERVE"


def from_environment() -> None:
    """Opens the view that the environment variable asks for. What is wrong with it is printed, and the program goes on."""
    # The command looks at programs, and is none. It must not take the address that is meant for one.
    if service_name() == "offloop":
        return
    prepare()
    _offloop.observe_from_environment()

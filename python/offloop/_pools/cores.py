"""The number of cores, by which pools choose their number of workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .._offloop import present_cores


def usable_cores() -> int:
    """Returns the number of cores that this process may use.

    That is what `-X cpu_count` or PYTHON_CPU_COUNT says, where Python knows them (3.13). Otherwise the affinity of the
    process and the quota of its cgroup count, whichever thread asks: the affinity of a single thread does not.
    """
    configured: Callable[[], int] | None = getattr(sys, "_get_cpu_count_config", None)
    if configured is not None and configured() > 0:
        return os.cpu_count() or 1
    return present_cores()

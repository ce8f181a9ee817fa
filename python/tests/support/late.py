"""A module that takes its time to be imported, and then has functions to call."""

import os
import time

time.sleep(float(os.environ.get("LATE_IMPORT", "0")))


def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "done"

"""A module that records the process that has imported it."""

import os

imported_by = os.getpid()

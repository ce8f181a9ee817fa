"""Remembers which process has imported it."""

import os

imported_by = os.getpid()

"""Dask's own package, which has no types."""

from importlib import import_module
from typing import Any

try:
    distributed: Any = import_module("distributed")
except ImportError as error:
    raise ImportError(
        f"offloop.dask needs Dask's package `distributed`: pip install 'offloop[dask]' ({error})", name=error.name
    ) from error

plugins: Any = import_module("distributed.diagnostics.plugin")
"""The base classes of what runs within a scheduler or a worker."""

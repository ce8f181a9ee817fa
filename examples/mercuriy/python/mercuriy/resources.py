"""The files that both implementations share: in the package if it was installed, else in the repository."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shared(name: str) -> Path:
    """Returns the path of a shared file."""
    installed = _PACKAGE / "shared" / name
    return installed if installed.exists() else _PACKAGE.parents[1] / name

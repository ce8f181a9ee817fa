"""The service does what its published interface says, as far as schemathesis finds out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from services import Service

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed")
def test_the_interface_is_as_published(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start()
    command = [
        *(str(SCHEMATHESIS), "--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
        *("run", f"{service.url}/openapi.json", "--max-time", "20"),
        # On the event loop it could not end a call; the other tests try the modes.
        *("--exclude-operation-id", "set_mode"),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=130
    )
    assert done.returncode == 0, done.stdout + done.stderr
    service.health()

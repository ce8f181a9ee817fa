"""The programs in Python on the pages about the cluster, and that of the README, run as users run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from parties import GUARD, StartWorker

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in ("README.md", "docs/cluster.md")
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    )
    if "Cluster" in code
]


@pytest.mark.parametrize("code", PROGRAMS)
def test_a_program_on_a_page_runs(
    code: str, url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text("def split(text):\n    return text.split()\n")
    script = tmp_path / "script.py"
    script.write_text(code)
    if "OFFLOOP_CLUSTER_URL" in code:
        start_worker("app.tasks", directory=tmp_path)
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "OFFLOOP_CLUSTER_URL": url},
        capture_output=True,
        text=True,
        timeout=GUARD,
    )
    assert done.returncode == 0, done.stderr

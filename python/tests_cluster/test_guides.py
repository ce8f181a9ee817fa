"""The programs of the guide to clusters, run as users run them: beside a server, and workers with the module of the guide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GUARD
from offloop._offloop import generate_key

GUIDE = Path(__file__).parents[2] / "docs" / "cluster.md"

PROGRAMS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def named(code: str) -> str:
    """Returns the file name that a program begins with."""
    found = re.match(r"# (\w+\.py)\n", code)
    return found[1] if found else "program.py"


# The module with the tasks is used by others.
@pytest.mark.parametrize("name", [name for name in map(named, PROGRAMS) if name != "tasks.py"])
def test_a_program_of_the_guide_runs(name: str, url: str, tmp_path: Path) -> None:
    for code in PROGRAMS:
        (tmp_path / named(code)).write_text(code)
    (service, service_public), (worker, worker_public) = generate_key(), generate_key()
    for file, text in [("service.key", service), ("worker.key", worker), ("worker.public", worker_public)]:
        (tmp_path / file).write_text(f"{text}\n")
    environment = {**os.environ, "OFFLOOP_CLUSTER_URL": url}
    pickles = ["--queue", "trusted", "--accept", "pickle", "--trust", service_public, "--key", "worker.key"]
    words = pickles if name == "signed.py" else ["tasks"]
    agent = subprocess.Popen(
        [sys.executable, "-m", "offloop", "worker", "--slots", "2", *words], cwd=tmp_path, env=environment
    )
    try:
        done = subprocess.run(
            [sys.executable, name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=GUARD
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    finally:
        agent.terminate()
        assert agent.wait(GUARD) == 0

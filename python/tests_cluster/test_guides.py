"""The programs in Python of the guide to clusters and of the README, run as users run them: beside a server, and workers with
the module of the guide."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from offloop._offloop import generate_key
from parties import GUARD, StartWorker

ROOT = Path(__file__).parents[2]


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


PROGRAMS = programs("docs/cluster.md")


def named(code: str) -> str:
    """Returns the file name that a program begins with."""
    found = re.match(r"# (\w+\.py)\n", code)
    return found[1] if found else "program.py"


# The module with the tasks is used by others.
@pytest.mark.parametrize("name", [name for name in map(named, PROGRAMS) if name != "tasks.py"] + ["readme.py"])
def test_a_program_of_the_guide_runs(
    name: str, url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    for code in PROGRAMS:
        (tmp_path / named(code)).write_text(code)
    (code,) = [code for code in programs("README.md") if "ClusterExecutor" in code]
    (tmp_path / "readme.py").write_text(code)
    (tmp_path / "app").mkdir()
    shutil.copy(tmp_path / "tasks.py", tmp_path / "app")
    (service, service_public), (worker, worker_public) = generate_key(), generate_key()
    for file, text in [("service.key", service), ("worker.key", worker), ("worker.public", worker_public)]:
        (tmp_path / file).write_text(f"{text}\n")
    environment = {**os.environ, "OFFLOOP_CLUSTER_URL": url}
    pickles = ["--queue", "trusted", "--accept", "pickle", "--trust", service_public, "--key", "worker.key"]
    words = pickles if name == "signed.py" else ["tasks", "app.tasks"]
    worker_program = start_worker(*words, directory=tmp_path)
    done = subprocess.run(
        [sys.executable, name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=GUARD
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    status, written = worker_program.stop()
    assert status == 0, written

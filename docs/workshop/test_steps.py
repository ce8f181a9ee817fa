"""Each step mends something: its tests fail with the service of the step before, and pass with its own."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

STEPS = sorted(Path(__file__).parent.glob("step*"))


def run(step: Path, service: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(step), "--service", str(service)]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=140)


@pytest.mark.parametrize(("before", "step"), list(pairwise(STEPS)), ids=lambda step: step.name)
def test_a_step_mends_what_was_broken_before(before: Path, step: Path) -> None:
    done = run(step, before)
    assert done.returncode == 1 and " failed" in done.stdout and " error" not in done.stdout, done.stdout


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_is_told_in_both_languages(step: Path) -> None:
    english, russian = (step / "README.md").read_text(), (step / "README.ru.md").read_text()
    # The same commands and programs.
    assert english.count("```") == russian.count("```") > 0

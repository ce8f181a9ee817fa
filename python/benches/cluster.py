"""offloop's cluster beside its peers, the same jobs through each, in one run. Run it with `cargo xtask bench cluster`.

    cargo xtask bench cluster              # half an hour; results to quote
    cargo xtask bench cluster --quick      # a minute, without the peers; only a smoke test

In each of three rounds every contender takes a turn in an interpreter of its own: it starts its
servers and workers, measures, and all processes that it has started are killed. Each round begins
with another contender. A cell is the median over the rounds. A peer that is not installed is
reported and left out.

- `cluster_contenders.py`: the contenders, and what each has to be asked for.
- `cluster_turn.py`: what is measured in a turn.
- `cluster_jobs.py`, `cluster_celery.py`, `cluster_taskiq.py`: what the workers import.
- `table.py`: the table.

The contenders in Rust are the bench target `cluster` of the crate `offloop-cluster`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import IO

import cluster_turn
from cluster_contenders import PEERS, Contender, contenders
from processes import adopt_orphans, kill_descendants
from table import Comparison, Goal, Row

RUST, PYTHON = "offloop Rust", "offloop Python"
BARE, LOCAL = "bare protocol", "local stdlib pool"
RAY, DASK, CELERY, TASKIQ = PEERS
# The contenders in Rust, and the words that choose one. Without the option `--rust` they are left out.
IN_RUST = {RUST: "offloop", BARE: "bare"}

ROUNDS = 3
LIMIT = 300.0

# The names of results, labels, goals, whether more is better, and the factor from seconds or KiB to the row's unit.
ROWS = [
    (
        "trip",
        "no-op round trip p50, ms",
        (Goal(0.2, RAY, RUST), Goal(2, BARE, RUST), Goal(0.3, RAY, PYTHON)),
        False,
        1e3,
    ),
    (
        "burst",
        "burst of 1000, jobs/s",
        (Goal(4, RAY, RUST), Goal(20, CELERY, RUST), Goal(3, RAY, PYTHON)),
        True,
        1,
    ),
    ("payload", "64 MiB in and out, ms", (Goal(0.5, DASK, PYTHON),), False, 1e3),
    ("cancel", "cancel until the job's process is dead, ms", (Goal(550),), False, 1e3),
    (
        "first",
        "from nothing to the first result, s",
        (Goal(0.2, DASK, PYTHON), Goal(0.1, RAY, PYTHON)),
        False,
        1,
    ),
    ("memory", "idle memory of server and agent, MiB", (Goal(40),), False, 1 / 1024),
    ("lost", "agent lost until the job's next start, s", (Goal(21, None, RUST),), False, 1),
    ("restart", "server restarted until a result comes, s", (Goal(3, None, RUST),), False, 1),
]


class Failed(Exception):
    """A turn that has failed, with the reason."""


def main() -> None:
    words = sys.argv[1:]
    quick = "--quick" in words
    if "--install" in words:
        install()
    elif "--turn" in words:
        results = cluster_turn.take(contenders()[words[words.index("--turn") + 1]], quick)
        print(json.dumps(results), flush=True)
        os._exit(0)
    else:
        in_rust = words[words.index("--rust") + 1].split() if "--rust" in words else []
        rounds = int(words[words.index("--rounds") + 1]) if "--rounds" in words else ROUNDS
        comparison, notes = measured(quick, 1 if quick else rounds, in_rust)
        print(comparison)
        print(*notes, sep="\n")


def install() -> None:
    """Installs the peers. One that cannot be installed is left out."""
    for peer in (contenders()[name] for name in PEERS):
        command = [sys.executable, "-m", "pip", "install", "--quiet", *peer.requirements]
        if subprocess.run(command).returncode != 0:
            print(f"{peer.name} cannot be installed, so it is left out", file=sys.stderr)


def measured(quick: bool, rounds: int, in_rust: list[str]) -> tuple[Comparison, list[str]]:
    """Returns the table, and what is to be known about it."""
    adopt_orphans()
    notes: list[str] = []
    names = list(IN_RUST) if in_rust else []
    for contender in contenders().values():
        missing = contender.missing()
        if quick and contender.name in PEERS:
            continue
        if missing:
            notes.append(f"left out: {contender.name}, because {missing} is not installed")
        else:
            names.append(contender.name)
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    for number in range(rounds):
        by = number % len(names)
        for name in names[by:] + names[:by]:
            try:
                results = give(name, quick, in_rust)
            except Failed as reason:
                notes.append(f"failed: {name}: {reason}")
                continue
            print(f"round {number + 1}: {name}: {results}", file=sys.stderr)
            for result, value in results.items():
                found[name][result].append(value)
    comparison = Comparison((RUST, PYTHON), PEERS, references=(LOCAL, BARE))
    for result, label, goals, more_is_better, scale in ROWS:
        row = Row(label, more_is_better, goals, {})
        for name in names:
            values = found[name][result]
            if values:
                middle = statistics.median(values)
                row.values[name] = "never" if middle == float("inf") else middle * scale
        comparison.rows.append(row)
    return comparison, notes


def give(name: str, quick: bool, in_rust: list[str]) -> dict[str, float]:
    """Lets a contender take its turn. Returns its results."""
    if name in IN_RUST:
        command = [*in_rust, "--turn", IN_RUST[name]]
    else:
        command = [sys.executable, __file__, "--turn", name]
    # Below this program's own directory, so that nothing is left of any peer.
    home = Path(tempfile.mkdtemp(prefix="offloop-bench-"))
    # Not pipes: processes that are left behind would keep them open.
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [*command, *(["--quick"] if quick else [])],
            stdout=printed,
            stderr=said,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(home), "PYTHONPATH": os.path.dirname(__file__)},
        )
        try:
            status = child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise Failed(f"no end within {LIMIT:.0f} s: {lines_of(said)[-3:]}") from None
        finally:
            kill_descendants()
            shutil.rmtree(home, ignore_errors=True)
        if status != 0:
            raise Failed((lines_of(said) or [f"status {status}"])[-1])
        results: dict[str, float] = json.loads(lines_of(printed)[-1])
    return results


def lines_of(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().strip().splitlines()


if __name__ == "__main__":
    # So that what a turn has started is killed in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()

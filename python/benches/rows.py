"""The rows of the table: the turns that are taken, and the targets."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from contenders import ANYIO, BARE, OURS, PEERS, STANDARD, Kind, is_installed, left_out, of_kind
from measures import BARE_MEASURES, POOLS
from table import Comparison, Goal, Row
from turn import Failed, Turn, give, hogs

RUN, RUN_IN_EXECUTOR = OURS
BEST = (Goal(1, "best"),)
# One of the two is enough.
ARRAYS = (Goal(1 / 20, "best"), Goal(1.2, BARE))

# The number of failures after which a contender takes no more turns.
FAILURES = 2


@dataclass(frozen=True)
class Shown:
    """A result of a measure, as a row."""

    result: str
    label: str
    goals: Sequence[Goal] = BEST
    more_is_better: bool = False
    # The factor from the result to the row's unit.
    scale: float = 1.0


@dataclass(frozen=True)
class Group:
    """The turns of contenders of a kind at one measure."""

    kind: Kind
    measure: str
    rounds: int
    shown: Sequence[Shown]
    busy: bool = False
    loop: str = "asyncio"
    # The contenders that take turns. None: all.
    names: Sequence[str] | None = None
    # A package that it needs.
    needs: str | None = None

    def missing(self) -> str | None:
        """Returns why this interpreter cannot have its rows; None if it can."""
        if self.needs is None or is_installed(self.needs):
            return None
        rows = ", ".join(shown.label for shown in self.shown)
        return f"left out: {rows}, because {self.needs} is not installed"


def no_ops(kind: Kind, condition: str) -> list[Shown]:
    trips: Sequence[Goal]
    if kind == "thread":
        trips = (Goal(0.5, STANDARD, RUN), Goal(0.75, STANDARD, RUN_IN_EXECUTOR))
        bursts = (Goal(6, STANDARD, RUN),)
    else:
        trips = (Goal(0.5, ANYIO),)
        bursts = (Goal(8, "best"),)
    return [
        *(
            Shown(it, f"{kind}: no-op round trip {it}, {condition}, µs", trips)
            for it in ("p50", "p99")
        ),
        *(
            Shown(
                it, f"{kind}: {it}, {condition}, thousand/s", goals, more_is_better=True, scale=1e-3
            )
            for it, goals in (("burst of 32", BEST), ("burst of 1000", bursts))
        ),
    ]


def payloads(*names: str, goals: Sequence[Goal] = BEST) -> list[Shown]:
    return [
        Shown(f"{name} as {way}", f"process: {name} as {way}, ms", goals)
        for name in names
        for way in ("argument", "result")
    ]


def first_call(kind: Kind) -> list[Shown]:
    label = f"{kind}: longest turn of the loop during the first call"
    goals = (Goal(2, asked=RUN),)
    return [
        Shown("longest turn", f"{label}, ms", goals),
        Shown("longest turn, CPU time", f"{label}, CPU time, ms", goals),
    ]


def pools(kind: Kind) -> list[Shown]:
    label = f"{kind}: growth of the program by {POOLS} pools, KiB"
    return [Shown("growth", label, (Goal(256),))]


LIFE = [
    Shown("first", "process: first result of the first pool, ms", (Goal(2, BARE),)),
    Shown("recovery", "process: killed worker to next result, ms", (Goal(5),)),
    Shown("memory", "process: memory per idle worker (PSS), MiB", scale=1 / 1024),
]

GROUPS = [
    Group("thread", "no_ops", 7, no_ops("thread", "idle")),
    Group("thread", "no_ops", 7, no_ops("thread", "busy"), busy=True),
    Group("process", "no_ops", 7, no_ops("process", "idle")),
    Group("process", "no_ops", 7, no_ops("process", "busy"), busy=True),
    Group("process", "payloads", 4, payloads("1 MiB bytes", "64 MiB bytes")),
    Group("process", "arrays", 4, payloads("64 MiB array", goals=ARRAYS), needs="numpy"),
    Group("process", "life", 7, LIFE),
    Group("thread", "first_call", 7, first_call("thread")),
    Group("process", "first_call", 7, first_call("process")),
    Group("thread", "pools", 1, pools("thread"), names=(RUN, STANDARD)),
    Group("process", "pools", 1, pools("process"), names=(RUN, "c.f. forkserver", "c.f. interpreter")),
    Group("thread", "lateness", 4, [Shown("p99", "thread: lateness of the loop p99, ms")]),
    Group(
        "process",
        "lateness",
        4,
        [Shown("p99", "process: lateness of the loop p99, ms", (Goal(2),))],
    ),
    Group("thread", "no_ops", 3, no_ops("thread", "idle, uvloop"), loop="uvloop", needs="uvloop"),
    Group("process", "no_ops", 3, no_ops("process", "idle, uvloop"), loop="uvloop", needs="uvloop"),
]


def measured(quick: bool) -> tuple[Comparison, list[str]]:
    """Returns the table, and what is to be known about it: what is left out, and what has failed."""
    present = {contender.name for kind in ("thread", "process") for contender in of_kind(kind)}
    comparison = Comparison(OURS, [peer for peer in PEERS if peer in present], list(BARE_MEASURES))
    notes = left_out()
    for number, group in enumerate(GROUPS, 1):
        print(f"{number} of {len(GROUPS)}: {group.kind}, {group.measure}", file=sys.stderr)
        if (reason := group.missing()) is not None:
            notes.append(reason)
            continue
        turns = in_rounds(group, quick, notes)
        comparison.rows += [row(group, shown, turns) for shown in group.shown]
    return comparison, notes


# The results of a contender's turns, by name.
Turns = dict[str, dict[str, list[float]]]


def in_rounds(group: Group, quick: bool, notes: list[str]) -> Turns:
    contenders = of_kind(group.kind, group.names)
    for contender in contenders:
        if (reason := contender.cannot.get(group.measure)) is not None:
            notes.append(f"left out: {contender.name} in the measure {group.measure}, because {reason}")
    names = [contender.name for contender in contenders if group.measure not in contender.cannot]
    if group.loop == "asyncio":
        names += [bare for bare, measures in BARE_MEASURES.items() if group.measure in measures]
    turns: Turns = {name: defaultdict(list) for name in names}
    failed: dict[str, int] = defaultdict(int)
    with hogs() if group.busy else contextlib.nullcontext():
        for number in range(1 if quick else group.rounds):
            for name in rotated(names, number):
                if failed[name] >= FAILURES:
                    continue
                turn = Turn(group.kind, name, group.measure, group.loop, quick)
                try:
                    for result, value in give(turn).items():
                        turns[name][result].append(value)
                except Failed as reason:
                    failed[name] += 1
                    notes.append(f"failed: {' '.join(turn.words())}: {reason}")
    return turns


def rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def row(group: Group, shown: Shown, turns: Turns) -> Row:
    filled = Row(shown.label, shown.more_is_better, shown.goals, {})
    for name, results in turns.items():
        values = results[shown.result]
        # For a pool that a killed worker breaks, the time to make another pool counts.
        if shown.result == "recovery" and results["rebuilt"]:
            values = values + results["rebuilt"]
            filled.notes[name] = "rebuilt"
        if values:
            filled.values[name] = statistics.median(values) * shown.scale
        elif not any(results.values()):
            filled.values[name] = "failed"
    return filled

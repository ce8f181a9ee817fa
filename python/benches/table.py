"""A table of results, offloop's beside the peers', and whether each target is reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Goal:
    """A target: `times` the result of a peer ("best": of the best one); without a peer the number `times` itself."""

    times: float
    peer: str | None = None
    # The contenders that must reach it; by default all of offloop's.
    asked: str | None = None


@dataclass
class Row:
    label: str
    more_is_better: bool
    goals: Sequence[Goal]
    # By contender. A text stands for a result that is missing.
    values: dict[str, float | str]
    # Notes behind a value.
    notes: dict[str, str] = field(default_factory=dict)

    def result(self, name: str) -> float | None:
        value = self.values.get(name)
        return value if isinstance(value, float) else None

    def is_no_worse(self, value: float, than: float) -> bool:
        return value >= than if self.more_is_better else value <= than

    def best(self, names: Sequence[str]) -> tuple[str, float] | None:
        results = [(name, value) for name in names if (value := self.result(name)) is not None]
        pick = max if self.more_is_better else min
        return pick(results, key=lambda result: result[1], default=None)


class Comparison:
    def __init__(
        self, ours: Sequence[str], peers: Sequence[str], references: Sequence[str] = ()
    ) -> None:
        self.ours = ours
        self.peers = peers
        # Shown beside them. They show what is possible, and are not compared with.
        self.references = references
        self.rows: list[Row] = []

    def __str__(self) -> str:
        """Returns an aligned Markdown table: text to the left, numbers to the right."""
        ratios = [f"{name} ÷ best" for name in self.ours]
        header = [
            "workload",
            *self.ours,
            *self.peers,
            *self.references,
            "best peer",
            *ratios,
            "to reach",
            "reached by",
        ]
        texts = {header.index(name) for name in ("workload", "best peer", "to reach", "reached by")}
        lines = [header, *(self._cells(row) for row in self.rows)]
        widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
        rule = [
            "-" * width if at in texts else "-" * (width - 1) + ":"
            for at, width in enumerate(widths)
        ]
        lines.insert(1, rule)

        def padded(line: list[str]) -> str:
            cells = (
                cell.ljust(width) if at in texts else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            return f"| {' | '.join(cells)} |"

        return "\n".join(map(padded, lines))

    def _cells(self, row: Row) -> list[str]:
        best = row.best(self.peers)
        cells = [row.label, *(self._value(row, name) for name in self._shown())]
        cells.append(best[0] if best else "–")
        for name in self.ours:
            result = row.result(name)
            # A growth may be 0, or less.
            if best is None or result is None or best[1] <= 0:
                cells.append("–")
            else:
                cells.append(f"{result / best[1]:.2f}")
        cells.append("; ".join(self._asked(row, goal) for goal in row.goals) or "–")
        cells.append("; ".join(self._reached_by(row, goal) for goal in row.goals) or "–")
        return cells

    def _shown(self) -> tuple[str, ...]:
        return (*self.ours, *self.peers, *self.references)

    def _value(self, row: Row, name: str) -> str:
        value = row.values.get(name, "–")
        text = value if isinstance(value, str) else in_three_digits(value)
        return f"{text} {row.notes[name]}" if name in row.notes else text

    def _asked(self, row: Row, goal: Goal) -> str:
        sign = "≥" if row.more_is_better else "≤"
        if goal.peer is None:
            asked = f"{sign} {goal.times:g}"
        elif goal.times == 1:
            asked = f"{sign} {goal.peer}"
        elif 1 / goal.times >= 2 and abs(1 / goal.times - round(1 / goal.times)) < 1e-6:
            asked = f"{sign} {goal.peer} ÷ {1 / goal.times:.0f}"
        else:
            asked = f"{sign} {goal.times:g} × {goal.peer}"
        return f"{goal.asked}: {asked}" if goal.asked else asked

    def _reached_by(self, row: Row, goal: Goal) -> str:
        base: float | None = 1.0
        if goal.peer == "best":
            best = row.best(self.peers)
            base = best[1] if best else None
        elif goal.peer is not None:
            base = row.result(goal.peer)
        if base is None:
            return "–"
        reached = []
        names = [goal.asked] if goal.asked else self.ours
        if all(row.result(name) is None for name in names):
            return "–"
        for name in names:
            result = row.result(name)
            if result is None or not row.is_no_worse(result, goal.times * base):
                continue
            ratio = f" ({result / base:.2f} ×)" if goal.peer and goal.times != 1 else ""
            reached.append(f"{name}{ratio}")
        return ", ".join(reached) or "none"


def in_three_digits(value: float) -> str:
    """Returns a number with three digits, of which the last one differs from run to run."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"

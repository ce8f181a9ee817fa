"""The findings of a run: percentiles, a table, a plot. The plot needs no library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from .mixed import Run
from .schedule import Sample

TITLES = {
    "loop": "on the event loop",
    "threads": "in standard threads",
    "processes": "in standard processes",
    "offloop": "in offloop's pools",
    "cluster": "on a cluster",
}
COLORS = {"loop": "#d0453b", "threads": "#b97a00", "processes": "#7a5bb5", "offloop": "#23915c", "cluster": "#0f7f93"}


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the smallest of the values that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def milliseconds(samples: Sequence[Sample], share: float) -> str:
    """Returns a percentile of the latencies."""
    value = quantile([sample.latency for sample in samples], share) * 1000
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def failures(run: Run) -> str:
    """Returns the requests without a good answer, by kind."""
    found: Counter[str] = Counter()
    for kind, samples in {"health": run.health, **run.kinds()}.items():
        found.update(f"{kind} {sample.outcome}" for sample in samples if not sample.is_good)
    return ", ".join(f"{count} × {what}" for what, count in found.most_common()) or "none"


def throughput(run: Run, samples: Sequence[Sample]) -> str:
    """Returns the good answers a second, until the last one of the run."""
    return f"{sum(sample.is_good for sample in samples) / max(run.seconds, 1e-9):.2g}"


def table(runs: dict[str, Run]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [
        "| blocking work runs | /health p50, ms | p99 | p99.9 | worst "
        "| documents/s (p50, ms) | calls/s (p50, ms) | messages/s (p50, ms) | errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, run in runs.items():
        health = [milliseconds(run.health, share) for share in (0.5, 0.99, 0.999, 1)]
        rates = [
            f"{throughput(run, samples)} ({milliseconds(samples, 0.5)})" if samples else "–"
            for samples in run.kinds().values()
        ]
        lines.append(f"| {' | '.join([TITLES.get(name, name), *health, *rates, failures(run)])} |")
    return lines


def own_share(runs: dict[str, Run]) -> str:
    """Returns what the generator itself has used, and how late it was."""
    cpu = max(run.own_cpu for run in runs.values())
    late = max(quantile([sample.sent_late for sample in run.health], 0.99) for run in runs.values())
    return (
        f"The load's process used at most {cpu:.0%} of a core. The process that asks /health sent 99 % of its requests "
        f"at most {late * 1000:.1f} ms after they were due; this counts as latency here."
    )


WIDTH, PANEL, LEFT, TOP, BOTTOM = 800, 118, 64, 22, 40
LOWEST, HIGHEST = 0.5, 60_000.0
"""The range of the plot, in milliseconds."""


def plot(runs: dict[str, Run], seconds: float) -> str:
    """Returns an SVG: the latency of /health over the time at which it was due, a panel for each run."""
    height = len(runs) * (PANEL + TOP) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        "<style>text{fill:#7b8089}line{stroke:#7b8089;stroke-opacity:.35}</style>",
    ]
    wide = WIDTH - LEFT - 10
    for number, (name, run) in enumerate(runs.items()):
        top = number * (PANEL + TOP) + TOP
        worst = milliseconds(run.health, 1)
        title = f"{TITLES.get(name, name)}: p99 {milliseconds(run.health, 0.99)} ms, worst {worst} ms"
        parts.append(f'<text x="{LEFT}" y="{top - 6}">{title}</text>')
        for tick in (1, 10, 100, 1000, 10_000):
            y = _y(top, tick)
            label = f"{tick} ms" if tick < 1000 else f"{tick // 1000} s"
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        parts.append(
            f'<path fill="{COLORS.get(name, "#555")}" d="{_steps(run.health, seconds, wide, top)}"/>'
        )
    for second in _ticks(seconds):
        x = LEFT + wide * second / seconds
        parts.append(f'<text x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{second:g}</text>')
    parts.append(
        f'<text x="{LEFT + wide / 2}" y="{height - 6}" text-anchor="middle">'
        "time at which /health was due, s</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _steps(samples: Sequence[Sample], seconds: float, wide: float, top: float) -> str:
    """Returns the path of an area: the worst latency of each piece of the time."""
    pieces = 200
    worst = [LOWEST] * pieces
    for sample in samples:
        piece = min(pieces - 1, int(sample.due / seconds * pieces))
        worst[piece] = max(worst[piece], sample.latency * 1000)
    bottom = _y(top, LOWEST)
    path = [f"M{LEFT} {bottom:.1f}"]
    for piece, value in enumerate(worst):
        path.append(f"V{_y(top, value):.1f}H{LEFT + wide * (piece + 1) / pieces:.1f}")
    return "".join([*path, f"V{bottom:.1f}Z"])


def _y(top: float, value: float) -> float:
    share = math.log(min(max(value, LOWEST), HIGHEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return top + PANEL * (1 - share)


def _ticks(seconds: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if seconds / step <= 10)
    return [step * number for number in range(int(seconds / step) + 1)]

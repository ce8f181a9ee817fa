"""Figures as plain values, and advice by `logging`."""

from __future__ import annotations

import logging
from typing import Any

from ._offloop import Advice, Histogram, Metrics

_logger = logging.getLogger("offloop.advice")


def tell(advice: Advice) -> None:
    """Logs an advice. Called once a task."""
    _logger.warning("%s", advice)


def as_dict(metrics: Metrics) -> dict[str, Any]:
    """All of it as plain values, times in seconds."""
    return {
        "pool": metrics.pool,
        "kind": metrics.kind,
        "outcomes": metrics.outcomes,
        "queue_wait": _times(metrics.queue_wait),
        "run_time": _times(metrics.run_time),
        "gil_wait": None if metrics.gil_wait is None else _times(metrics.gil_wait),
        "queued": metrics.queued,
        "running": metrics.running,
        "workers": metrics.workers,
        "restarts": metrics.restarts,
        "arena": metrics.arena,
        "advice": [
            {
                "task": advice.task,
                "found": advice.found,
                "jobs": advice.jobs,
                "ran": advice.ran,
                "on_core": advice.on_core,
            }
            for advice in metrics.advice
        ],
    }


def _times(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "sum": histogram.sum,
        "mean": histogram.mean,
        "p50": histogram.quantile(0.5),
        "p90": histogram.quantile(0.9),
        "p99": histogram.quantile(0.99),
    }

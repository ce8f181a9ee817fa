"""Metrics as plain values, and advice by `logging`. The engine's binding calls both functions by name."""

from __future__ import annotations

import logging
from typing import Any

from ._offloop import Advice, Histogram, Metrics, metrics, prometheus

__all__ = ["Advice", "Histogram", "Metrics", "metrics", "prometheus"]

_logger = logging.getLogger("offloop.advice")


def log_advice(advice: Advice) -> None:
    """Logs an advice. Called once for each task."""
    _logger.warning("%s", advice)


def as_dict(metrics: Metrics) -> dict[str, Any]:
    """Returns all metrics as plain values, times in seconds."""
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
                "activity": advice.activity,
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

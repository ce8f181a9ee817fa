"""The application that Celery's workers import."""

from __future__ import annotations

import os
from typing import Any

import cluster_jobs
from celery import Celery  # type: ignore[import-untyped]

URL = os.environ.get("BENCH_REDIS_URL", "")

app: Any = Celery("bench", broker=URL, backend=URL)
# Pickles, since JSON has no bytes; one job at a time is fetched beside the one that runs, as others do.
app.conf.update(
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle"],
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
noop: Any = app.task(cluster_jobs.noop, name="noop")
echo: Any = app.task(cluster_jobs.echo, name="echo")
stay: Any = app.task(cluster_jobs.stay, name="stay")

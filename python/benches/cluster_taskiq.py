"""The broker that Taskiq's workers import. Results go through Redis: its backend on NATS, the object store, leaves
a consumer on the server each time that a result is looked for, and the server refuses more before a burst has ended."""

from __future__ import annotations

import os
from typing import Any

import cluster_jobs
from taskiq_nats import PullBasedJetStreamBroker
from taskiq_redis import RedisAsyncResultBackend

URL = os.environ.get("BENCH_NATS_URL", "nats://127.0.0.1:4222")
RESULTS_URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")

broker: Any = PullBasedJetStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(RESULTS_URL))
noop: Any = broker.register_task(cluster_jobs.noop, task_name="noop")

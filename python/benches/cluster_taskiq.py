"""The broker that Taskiq's workers import."""

from __future__ import annotations

import os
from typing import Any

import cluster_jobs
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

URL = os.environ.get("BENCH_NATS_URL", "nats://127.0.0.1:4222")

broker: Any = PullBasedJetStreamBroker(URL).with_result_backend(NATSObjectStoreResultBackend(URL))
noop: Any = broker.register_task(cluster_jobs.noop, task_name="noop")

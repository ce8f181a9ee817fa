"""The steps of a worker process of offloop before its first job."""

from __future__ import annotations

import logging

from .. import logs, telemetry


def set_up_worker(otlp: str | None) -> None:
    # offloop sends the records to the service, which writes them.
    logs.stamp_records()
    if otlp is not None:
        telemetry.set_up(otlp)
    logging.getLogger("mercuriy.worker").debug("a worker is ready")

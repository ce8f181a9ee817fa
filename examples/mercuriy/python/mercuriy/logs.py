"""Logs: a JSON line for each record, on standard error, with the request's id, also from workers."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

from offloop import request_id


class JsonLines(logging.Formatter):
    """Formats a record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := getattr(record, "request", ""):
            line["request"] = request
        if fields := getattr(record, "fields", None):
            line |= fields
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["traceback"] = record.exc_text
        return json.dumps(line)


def stamp_records() -> None:
    """Gives each record of this process the id of its request.

    A worker's records are handled by the service, where that id is not current. So they are stamped where they
    are made.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "stamps", False):
        return

    def stamped(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.request = request_id.get()
        return record

    stamped.stamps = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(stamped)


def to_stderr(level: int = logging.INFO) -> None:
    """Writes the records of this process as JSON lines. For the service, and for workers of the standard
    pools: offloop's send theirs to the service.
    """
    stamp_records()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # httptools and the like are not interesting; each request has a line by `front`.
    logging.getLogger("uvicorn.access").disabled = True

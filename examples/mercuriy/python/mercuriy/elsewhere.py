"""The tasks of workers on other machines: `offloop worker mercuriy.elsewhere --url URL --queue mercuriy`.

They take and return plain data, which needs no trust in those who sent it.
"""

from __future__ import annotations

import json
import logging

from . import logs
from .walk import BadDocument, walk

__all__ = ["walk_document"]

logger = logging.getLogger("mercuriy.worker")


def walk_document(data: bytes, find: str | None) -> str:
    """Walks a document that was sent. Returns a JSON text: `result` has the fields of a Result, or `fault` those of a
    BadDocument, since an exception would not arrive by its type.
    """
    logs.stamp_records()
    try:
        result = walk(data, find)
    except BadDocument as fault:
        return json.dumps({"fault": [fault.code, fault.offset, fault.message]})
    logger.info("walked a document", extra={"fields": {"bytes": len(data)}})
    return json.dumps({"result": result})

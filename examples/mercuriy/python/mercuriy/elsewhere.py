"""The tasks of workers on other machines: `offloop worker mercuriy.elsewhere --url URL --queue mercuriy`.

They take and return plain data, which needs no trust in those who sent it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from . import logs
from .walk import BadDocument, Result, walk_in_steps

__all__ = ["walk_document", "walk_document_in_steps"]

logger = logging.getLogger("mercuriy.worker")


def walk_document(data: bytes, find: str | None) -> str:
    """Walks a document that was sent. Returns the last text of `walk_document_in_steps`."""
    text = ""
    for text in walk_document_in_steps(data, find):
        pass
    return text


def walk_document_in_steps(data: bytes, find: str | None) -> Iterator[str]:
    """Walks a document that was sent. Yields JSON texts: `progress` has the fields of a Progress, and at last `result` those of
    a Result, or `fault` those of a BadDocument, since an exception would not arrive by its type.
    """
    logs.stamp_records()
    try:
        for step in walk_in_steps(data, find):
            yield json.dumps({"result" if isinstance(step, Result) else "progress": step})
    except BadDocument as fault:
        yield json.dumps({"fault": [fault.code, fault.offset, fault.message]})
        return
    logger.info("walked a document", extra={"fields": {"bytes": len(data)}})

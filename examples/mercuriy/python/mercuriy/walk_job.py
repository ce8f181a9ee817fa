"""The jobs that walk a document: what workers run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import telemetry
from .body import Document
from .walk import Progress, Result, walk, walk_in_steps

logger = logging.getLogger("mercuriy.worker")


def walk_document(document: Document, find: str | None) -> Result:
    with _reading(document) as data:
        return walk(data, find)


def walk_document_in_steps(document: Document, find: str | None) -> Iterator[Progress | Result]:
    with _reading(document) as data:
        yield from walk_in_steps(data, find)


@contextmanager
def _reading(document: Document) -> Iterator[Any]:
    with telemetry.span("walk", bytes=document.length), document.opened() as data:
        yield data
    logger.info("walked a document", extra={"fields": {"bytes": document.length}})

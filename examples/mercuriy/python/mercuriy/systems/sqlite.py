"""SQLite, in this process: an embedded database blocks as well."""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import Any

from . import FunctionFailed, SystemDown

_lock = threading.Lock()
_running = 0
"""The number of calls of slow that run in this process."""

_QUERIES = {
    "echo": "select ?",
    "add": "select ? + ?",
    "slow": "select wait(?)",
    "fail": "select fail(?)",
    "big": "select replace(hex(zeroblob(?)), '00', 'x')",
    "running": "select running()",
}


class Connection:
    def __init__(self) -> None:
        # `cancel` is called by another thread. Nothing else is.
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._cancelled = threading.Event()
        self._failure = ""
        self._database.create_function("wait", 1, self._wait)
        self._database.create_function("fail", 1, self._fail)
        self._database.create_function("running", 0, lambda: _running)

    def call(self, function: str, args: list[Any], message: str | None) -> Any:
        if function == "echo":
            args = [json.dumps(args[0])]
        try:
            (result,) = self._database.execute(_QUERIES[function], args).fetchone()
        except sqlite3.Error as error:
            if self._cancelled.is_set():
                raise SystemDown("the call was cancelled") from error
            raise FunctionFailed(self._failure or str(error)) from error
        return json.loads(result) if function == "echo" else result

    def _wait(self, ms: int) -> int:
        """The stored function `wait`."""
        global _running
        with _lock:
            _running += 1
        try:
            if self._cancelled.wait(ms / 1000):
                raise InterruptedError("cancelled")
            return ms
        finally:
            with _lock:
                _running -= 1

    def _fail(self, text: str) -> None:
        """The stored function `fail`. SQLite drops the exception's text."""
        self._failure = text
        raise ValueError(text)

    def cancel(self) -> None:
        self._cancelled.set()
        self._database.interrupt()

    @property
    def is_broken(self) -> bool:
        return self._cancelled.is_set()

    def close(self) -> None:
        self._database.close()


def connect(address: str | None) -> Connection:
    return Connection()

"""The messages, in an SQLite file: what is accepted here survives the end of the service, however it ends."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

STATES: Final = ("accepted", "delivering", "delivered", "failed")
MAX_ATTEMPTS: Final = 1000
"""A system may be down for eight hours before a message to it has failed."""
FIRST_PAUSE: Final = 0.1
"""The seconds after the first attempt that failed. Each further pause is twice as long."""
LONGEST_PAUSE: Final = 30.0

_SCHEMA = """
    create table if not exists messages (
        number integer primary key,
        id text not null unique,
        request text not null,
        system text not null,
        function text not null,
        args text not null,
        state text not null,
        attempts integer not null default 0,
        due real not null default 0,
        error text,
        result text
    );
    create index if not exists messages_by_state on messages (state, due);
"""


class Message(NamedTuple):
    """A message that is to be delivered."""

    id: str
    request: str
    system: str
    function: str
    args: list[Any]
    attempts: int


@dataclass(frozen=True)
class Store:
    """The database, as a resource of a place."""

    path: Path
    name: str = "messages"
    workers: int = 1
    """SQLite writes one transaction at a time."""

    def open(self) -> Database:
        return Database(self.path)


class Database:
    """A connection to the database. It blocks: a transaction waits for the disk."""

    is_broken = False

    def __init__(self, path: Path) -> None:
        # Each statement is a transaction of its own.
        self._database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._database.execute("pragma journal_mode = wal")
        # A commit returns when the disk has it. In this mode the default does not promise that.
        self._database.execute("pragma synchronous = full")
        self._database.executescript(_SCHEMA)

    def accept(self, message: Message) -> None:
        """Adds a message. When this returns, it is on the disk."""
        self._database.execute(
            "insert into messages (id, request, system, function, args, state) values (?, ?, ?, ?, ?, 'accepted')",
            (message.id, message.request, message.system, message.function, json.dumps(message.args)),
        )

    def read(self, id: str) -> dict[str, Any] | None:
        """Returns a message as clients see it."""
        row = self._database.execute(
            "select state, attempts, error, result from messages where id = ?", (id,)
        ).fetchone()
        if row is None:
            return None
        state, attempts, error, result = row
        found = None if result is None else json.loads(result)
        return {"id": id, "state": state, "attempts": attempts, "error": error, "result": found}

    def count(self) -> dict[str, int]:
        rows = self._database.execute("select state, count(*) from messages group by state")
        return dict.fromkeys(STATES, 0) | dict(rows)

    def take_due(self, limit: int) -> list[Message]:
        """Takes messages that are due, and marks them as being delivered."""
        rows = self._database.execute(
            """
            update messages set state = 'delivering', attempts = attempts + 1
            where number in (
                select number from messages where state = 'accepted' and due <= ? order by due, number limit ?
            )
            returning id, request, system, function, args, attempts
            """,
            (time.time(), limit),
        )
        return [
            Message(id, request, system, function, json.loads(args), attempts)
            for id, request, system, function, args, attempts in rows.fetchall()
        ]

    def next_due(self) -> float | None:
        """Returns the time when the next message is due."""
        row = self._database.execute("select min(due) from messages where state = 'accepted'").fetchone()
        return None if row[0] is None else float(row[0])

    def delivered(self, id: str, result: Any) -> None:
        self._end(id, "delivered", None, json.dumps(result))

    def failed(self, id: str, error: str) -> None:
        self._end(id, "failed", error, None)

    def try_again(self, message: Message, error: str) -> None:
        """Lets a message wait for its next attempt, if it has one left."""
        if message.attempts >= MAX_ATTEMPTS:
            self.failed(message.id, error)
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (message.attempts - 1))
        self._database.execute(
            "update messages set state = 'accepted', due = ?, error = ? where id = ?",
            (time.time() + pause, error, message.id),
        )

    def hand_back(self) -> int:
        """Makes messages whose delivery was cut off due again: at the start of the service, and at its end.

        The attempt does not count, as its outcome is not known. So a message may be delivered twice, but it is never
        lost.
        """
        changed = self._database.execute(
            "update messages set state = 'accepted', attempts = attempts - 1, due = 0 where state = 'delivering'"
        )
        return changed.rowcount

    def _end(self, id: str, state: str, error: str | None, result: str | None) -> None:
        self._database.execute(
            "update messages set state = ?, error = ?, result = ? where id = ?", (state, error, result, id)
        )

    def cancel(self) -> None:
        """Does nothing: a transaction takes a moment, and must not be cut off because a client has gone."""

    def close(self) -> None:
        self._database.close()

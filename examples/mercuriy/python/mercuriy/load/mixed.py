"""The load: documents that are walked, functions that take their time, messages; and /health beside them."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from typing import NamedTuple

from .client import Client
from .health import ask_in_its_own_process
from .schedule import Sample, run


class Load(NamedTuple):
    """The load of a run. Rates are in requests a second."""

    seconds: float = 20.0
    documents: float = 1.0
    document_bytes: int = 5_000_000
    calls: float = 5.0
    call_ms: int = 50
    messages: float = 5.0
    health: float = 50.0
    system: str = "rfc"

    def described(self) -> str:
        return (
            f"{self.documents:g} documents of {self.document_bytes / 1e6:g} MB, {self.calls:g} calls of "
            f"{self.call_ms} ms, {self.messages:g} messages and {self.health:g} times /health a second, "
            f"for {self.seconds:g} s"
        )


class Run(NamedTuple):
    """The outcome of a load."""

    health: list[Sample]
    documents: list[Sample]
    calls: list[Sample]
    messages: list[Sample]
    seconds: float
    """The time until the last answer."""
    own_cpu: float
    """The share of a core that the load's process has used."""

    def kinds(self) -> dict[str, list[Sample]]:
        return {"documents": self.documents, "calls": self.calls, "messages": self.messages}


async def put_on(url: str, load: Load) -> Run:
    """Puts the load on a service."""
    client = Client(url)
    document = made_up(load.document_bytes)

    async def walk() -> int:
        return (await client.request("POST", "/documents?find=0.address.city", document)).status

    call_body = json.dumps({"args": [load.call_ms]}).encode()
    call_path = f"/functions/{load.system}/slow"

    async def call() -> int:
        return (await client.request("POST", call_path, call_body, "x-timeout-ms: 30000\r\n")).status

    message = json.dumps({"to": load.system, "function": "add", "args": [1, 2]}).encode()

    async def send() -> int:
        return (await client.request("POST", "/messages", message)).status

    # The other process has to start.
    begin = time.monotonic() + 1.5
    used = _cpu()
    health, documents, calls, messages = await asyncio.gather(
        ask_in_its_own_process(url, load.health, begin, load.seconds),
        run(load.documents, begin, load.seconds, walk),
        run(load.calls, begin, load.seconds, call),
        run(load.messages, begin, load.seconds, send),
    )
    took = time.monotonic() - begin
    client.close()
    return Run(health, documents, calls, messages, took, (_cpu() - used) / took)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def made_up(length: int) -> bytes:
    """Returns a list of records as a service would return it."""
    records: list[str] = []
    while length > 0:
        number = len(records)
        record = {
            "id": number,
            "name": f"customer {number}",
            "address": {"city": f"town {number % 97}", "geo": {"lat": number % 90, "lon": number % 180}},
            "tags": ["a", "b"],
        }
        records.append(json.dumps(record, separators=(",", ":")))
        length -= len(records[-1]) + 1
    return f"[{','.join(records)}]".encode()

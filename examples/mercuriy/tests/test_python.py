"""What only the implementation in Python promises, or only can be seen in it."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import expected, large
from services import MERCURIY, Service

sys.path.insert(0, str(MERCURIY / "python"))


def test_a_body_gets_to_another_process_without_a_copy() -> None:
    """The worker maps the memory that the body was received in: the same file, and no more bytes of its own."""
    import offloop
    from mercuriy.body import SharedBody

    text = large(30)
    with SharedBody() as body, offloop.ProcessPoolExecutor(1) as pool:
        for at in range(0, len(text), 65536):
            body.write(text[at : at + 65536])
        document = body.seal()
        # What travels to the worker.
        assert len(pickle.dumps(document, 5)) < 200
        inode = os.stat(document.path).st_ino
        seen, own, begin = pool.submit(mapped, document).result()
    assert seen == inode
    assert own < len(text) / 10
    assert begin == text[:20]


def mapped(document: object) -> tuple[int, int, bytes]:
    """Returns the inode behind a document in this process, the bytes of memory that reading it has taken besides, and
    its begin."""
    before = anonymous()
    with document.opened() as data:  # type: ignore[attr-defined]
        # Reads all of it.
        assert data.find(b"no such text") == -1
        lines = Path("/proc/self/maps").read_text().splitlines()
        (inode,) = [int(line.split()[4]) for line in lines if "mercuriy-body" in line]
        return inode, anonymous() - before, bytes(data[:20])


def anonymous() -> int:
    """Returns the bytes of this process's memory that no file or shared memory backs."""
    match = re.search(r"Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert match is not None
    return int(match[1]) * 1024


def test_a_body_cannot_change_while_it_is_read() -> None:
    from mercuriy.body import SharedBody

    with SharedBody() as body:
        body.write(b"[1]")
        document = body.seal()
        with pytest.raises(PermissionError):
            body.write(b"x")
        with document.opened() as data:
            assert bytes(data) == b"[1]"


def test_a_walk_needs_no_memory_for_the_document() -> None:
    """Here the tree would need more than ten times the text."""
    import tracemalloc

    from mercuriy.walk import walk

    text = b"[" + b",".join([b"[1,[2]]"] * 200_000) + b"]"
    tracemalloc.start()
    try:
        result = walk(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.values == 1 + 4 * 200_000
    assert peak < len(text) / 4


def test_a_walk_finds_what_a_walk_of_the_tree_finds() -> None:
    from mercuriy.walk import walk

    text = large(0.2)
    result = walk(text)
    wanted = expected(text)
    assert (result.keys, result.values, result.depth) == (
        wanted["keys"],
        wanted["values"],
        wanted["deepest"]["depth"],
    )


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.sdk") is None, reason="opentelemetry-sdk is not installed"
)
def test_a_trace_continues_in_workers(make_service: Callable[..., Service], tmp_path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    service = make_service("python", tmp_path, OTEL_TRACES_EXPORTER="console")
    with service:
        stdout = service.process.stdout
        assert stdout is not None
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert service.client.post("/documents", content=b"[1]", headers=headers).status_code == 200
        service.client.post("/functions/rfc/add", json={"args": [1, 2]}, headers=headers)
        assert service.end() == 0, service.log()
        printed = stdout.read().decode()
    import json

    spans = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    mine = {span["name"]: span for span in spans if trace in span["context"]["trace_id"]}
    assert {"POST /documents", "walk", "POST /functions/rfc/add", "call"} <= set(mine), printed
    assert mine["walk"]["parent_id"] == mine["POST /documents"]["context"]["span_id"]


def test_the_generator_compares_the_modes(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "mercuriy.md"
    page.write_text("before\n<!-- table: python -->\nold\n<!-- end of the table -->\nafter\n")
    words = "--table --write --seconds 1.5 --document-bytes 100000 --health 20".split()
    environment = os.environ | {"PYTHONPATH": str(MERCURIY / "python")}
    command = [sys.executable, "-m", "mercuriy.load", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    for title in ("on the event loop", "in standard threads", "in standard processes", "in offloop's pools"):
        assert f"| {title} |" in text
    assert "<svg" in (tmp_path / "docs" / "images" / "mercuriy-lateness.svg").read_text()

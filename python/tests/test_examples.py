"""The examples, run as users run them."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "python" / "examples"
README = (ROOT / "README.md").read_text()


PAGES = {
    "README.md": None,
    "docs/coming-from-concurrent-futures.md": None,
    "docs/coming-from-other-libraries.md": None,
    "docs/blocking-connectors.md": None,
    "docs/cpu-bound-work.md": None,
    "docs/life-of-a-pool.md": None,
    "docs/live-view.md": None,
    "docs/which-executor.md": None,
    "docs/what-blocks-a-loop.md": None,
    "docs/security.md": None,
    "docs/opentelemetry.md": "opentelemetry",
    "docs/in-a-web-service.md": "fastapi",
    "docs/in-production.md": None,
}
"""The pages' programs that need a package, and that package."""


def programs() -> list[Any]:
    """Returns the programs on the pages. Each block of Python is one. tests_real runs those that need a server."""
    return [
        pytest.param(code, id=f"{page}-{number}", marks=unless_found(package))
        for page, package in PAGES.items()
        for number, code in enumerate(
            re.findall(
                r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
            )
        )
        if not re.search(r"OFFLOOP_[A-Z]+_URL", code)
    ]


def unless_found(package: "str | None") -> Any:
    missing = package is not None and find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs {package}")


@pytest.mark.parametrize("code", programs())
def test_a_program_on_a_page_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=80
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_metrics_to_alert_on_exist() -> None:
    import offloop

    text = (ROOT / "docs" / "in-production.md").read_text()
    with offloop.ProcessPoolExecutor(1) as pool, offloop.ThreadPoolExecutor(1) as threads:
        assert pool.submit(len, bytes(10_000_000)).result() == 10_000_000
        threads.submit(int).result()
        page = offloop.prometheus()
        metrics = pool.metrics()
        states = {*metrics.workers, *threads.metrics().workers, "used", "kept"}
    assert set(re.findall(r"`(offloop_[a-z_]+)", text)) <= set(re.findall(r"offloop_[a-z_]+", page))
    for label, known in (
        ("outcome", set(metrics.outcomes)),
        ("state", states),
        ("reason", set(metrics.restarts)),
    ):
        values = re.findall(rf'{label}=~?"([^"]+)"', re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        assert values and {name for value in values for name in value.split(r"\|")} <= known


def test_the_first_program_of_the_readme_shows_something(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[0])
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=80)
    assert done.returncode == 0, done.stderr
    answer, primes, error = done.stdout.splitlines()
    assert answer == "the answer to everything"
    assert primes == "5133 primes"
    assert "count_primes" in error


def run(name: str, *args: "str | Path", data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, EXAMPLES / f"{name}.py", *args]
    return subprocess.run(command, input=data, capture_output=True, timeout=80)


def output(done: "subprocess.CompletedProcess[bytes]") -> list[str]:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def milliseconds(row: str) -> list[float]:
    """Returns the time in a row of a table, and the loop's lateness."""
    words = row.split()
    assert words[-3] == words[-1] == "ms"
    return [float(words[-4]), float(words[-2])]


def test_the_quickstart_shows_the_same_jobs_in_six_places() -> None:
    heading, *rows = output(run("quickstart"))
    assert heading.split() == "where job result took loop late at worst".split()
    places = [
        "directly on the loop",
        "default executor",
        "thread pool",
        "process pool",
        "process pool.run",
        "custom executor",
    ]
    assert [row[:22].strip() for row in rows] == [*places, *places]
    read, added = rows[:6], rows[6:]
    assert all("read 100 bytes" in row and "100 bytes  " in row for row in read)
    assert all("sum of squares" in row and " 333333283333335000000 " in row for row in added)
    took, late_directly = milliseconds(added[0])
    assert late_directly > 0.9 * took
    assert all(milliseconds(row)[1] < late_directly for row in added[1:])


def test_the_walk_over_a_json_file_finds_every_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    inner = b",".join(b'{"name": {"first": "a", "\\ud800": [1.5, null]}}' for _ in range(70_000))
    file.write_bytes(b'\xef\xbb\xbf{"people": [' + inner + b'], "people": {}}')
    heading, keys, deepest, frequent, _, *rows = output(run("json_keys", file))
    assert heading == f"{file}: {file.stat().st_size / 1e6:.1f} MB"
    assert keys.split() == ["keys", str(3 * 70_000 + 2)]
    assert deepest.split(maxsplit=2)[2] == "3 levels: people.name.first"
    assert frequent.split(maxsplit=2)[2] == (
        r"first (70000), name (70000), \ud800 (70000), people (2)"
    )
    by_bytes, by_path, directly = rows
    assert by_bytes.startswith("process pool, bytes ")
    assert by_path.startswith("process pool, path ")
    assert directly.startswith("directly on the loop ")
    assert milliseconds(by_bytes)[1] < milliseconds(directly)[1]


def test_the_walk_makes_its_own_json_without_a_file() -> None:
    heading, keys, deepest, *_ = output(run("json_keys"))
    assert heading == "8 MB made up for the purpose: 8.0 MB"
    assert int(keys.split()[1]) % 8 == 0
    assert deepest.endswith("3 levels: address.geo.lat")


def test_the_walk_reads_a_pipe_that_only_this_process_can_open() -> None:
    _, keys, *_, last = output(run("json_keys", "/dev/stdin", data=b'{"a": {"b": 1}}'))
    assert keys.split() == ["keys", "2"]
    assert last.startswith("directly on the loop ")


BAD = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n", "it is empty"),
    "truncated": (
        b'{"a": [1, 2',
        "it is not valid JSON: Expecting ',' delimiter: line 1 column 12",
    ),
    "more": (b"{} {}", "it is not valid JSON: Extra data: line 1 column 4"),
    "constant": (b"[NaN]", "it is not valid JSON: NaN is not a value"),
    "encoding": (b'{"a": "\xff"}', "it is not UTF-8: there is a stray byte at offset 7"),
    "depth": (b"[" * 200_000, "it is nested too deeply"),
    "depth_of_objects": (b'{"a":' * 200_000, "it is nested too deeply"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_in_a_file_is_reported_in_one_line(name: str, tmp_path: Path) -> None:
    data, reason = BAD[name]
    file = tmp_path / name
    file.write_bytes(data)
    refused(file, reason)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "No such file or directory")
    refused(tmp_path, "Is a directory")


def refused(file: Path, reason: str) -> None:
    done = run("json_keys", file)
    assert done.returncode == 1
    assert done.stdout == b""
    [line] = os.fsdecode(done.stderr).splitlines()
    assert line.startswith(f"json_keys: {file}: {reason}")


def test_each_worker_keeps_a_connection_until_it_breaks() -> None:
    lines = output(run("blocking_connector"))
    assert len(lines) == 14
    for title, *shown in (lines[:7], lines[7:]):
        assert title.endswith(":")
        meanings = [line[27:] for line in shown]
        assert "loop late" in meanings[0]
        assert meanings[2] == "ConnectionError: the server has hung up"
        assert meanings[3].startswith("RunTimeout: ")
        assert meanings[4] == "CancelledError"
        assert meanings[5].startswith("2646700 again, ")
    assert lines[2].split() == ["connections", "so", "far", "4"]

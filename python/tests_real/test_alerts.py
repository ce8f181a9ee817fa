"""The alerting rules and the dashboard, with a real Prometheus that watches a real program."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import ROOT

HERE = Path(__file__).parent
RULES = ROOT / "docs" / "alerts" / "offloop-rules.yml"
DASHBOARD = ROOT / "docs" / "alerts" / "offloop-dashboard.json"
PAGE = ROOT / "docs" / "alerts.md"

if shutil.which("prometheus") is None or shutil.which("promtool") is None:
    pytest.skip("no Prometheus: the program is not installed", allow_module_level=True)


def expressions_of(node: Any) -> Iterator[str]:
    """Finds the queries of a dashboard."""
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            yield node["expr"]
        if isinstance(node.get("definition"), str):
            yield node["definition"]
        for value in node.values():
            yield from expressions_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions_of(value)


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def promtool(*words: str | Path) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Observed:
    """A program whose metrics are watched."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "observed.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the program has ended"
        return line

    def worker(self) -> int:
        """Returns the process id of the worker, which is replaced when it dies."""
        assert self.process.stdin is not None
        self.process.stdin.write("worker\n")
        self.process.stdin.flush()
        return int(self._line())

    def metrics(self) -> str:
        return get(f"http://{self.address}/metrics")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    program = Observed()
    yield program
    program.close()


class Prometheus:
    """A server that watches one program, with the rules of the documentation."""

    def __init__(self, directory: Path, target: str) -> None:
        configuration = directory / "prometheus.yml"
        configuration.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [{"job_name": "shop", "static_configs": [{"targets": [target]}]}],
                }
            )
        )
        promtool("check", "config", configuration)
        self._log = (directory / "log").open("w+")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        self.address = self._wait(self._listening)
        self._wait(self._is_ready)

    def _wait(self, ask: Callable[[], Any]) -> Any:
        """Waits until the question has an answer. The watchdog limits the time."""
        while not (answer := ask()):
            assert self.process.poll() is None, self.log()
            time.sleep(0.1)
        return answer

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def _listening(self) -> str | None:
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:[1-9]\d*)', self.log())
        return found and f"http://{found[1]}"

    def _is_ready(self) -> bool:
        """Returns whether it answers. It listens before it has read its data."""
        try:
            return bool(get(f"{self.address}/-/ready"))
        except HTTPError:
            return False

    def query(self, expression: str) -> list[Any]:
        answer = json.loads(get(f"{self.address}/api/v1/query?query={quote(expression)}"))
        assert answer["status"] == "success"
        return list(answer["data"]["result"])

    def until(self, expression: str) -> list[Any]:
        """Waits until the expression has a value."""
        return list(self._wait(lambda: self.query(expression)))

    def rules(self) -> list[Any]:
        answer = json.loads(get(f"{self.address}/api/v1/rules"))
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._log.close()


@pytest.fixture(scope="module")
def prometheus(observed: Observed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), observed.address)
    yield server
    server.close()


def test_the_rules_parse() -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_each_alert_fires_on_what_it_is_for_and_not_else(tmp_path: Path) -> None:
    tests = (HERE / "offloop-rules-test.yml").read_text()
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert set(re.findall(r'alertname="(\w+)"', tests)) == alerts
    assert set(re.findall(r"alertname: (\w+)", tests)) == alerts
    path = tmp_path / "tests.yml"
    path.write_text(tests.replace("{rules}", str(RULES)))
    promtool("test", "rules", path)


def test_the_rules_and_the_dashboard_name_only_what_a_program_exports(observed: Observed) -> None:
    families = list(text_string_to_metric_families(observed.metrics()))
    samples = [sample for family in families for sample in family.samples]
    exported = {sample.name for sample in samples}
    dashboard = json.loads(DASHBOARD.read_text())
    texts = [RULES.read_text(), *expressions_of(dashboard)]
    named = {name for text in texts for name in re.findall(r"\boffloop_\w+", text)}
    assert named <= exported, named - exported
    # Each value that a selector asks for can occur, too: in a name nobody would notice the misspelling.
    known = {
        (sample.name, label): {other.labels.get(label) for other in samples if other.name == sample.name}
        for sample in samples
        for label in sample.labels
    }
    for text in texts:
        for name, selector in re.findall(r"\b(offloop_\w+)\{([^}]*)\}", text):
            for label, values in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', selector):
                if "$" in values or label in ("job", "instance"):
                    continue
                assert set(values.split("|")) <= known[name, label], (name, selector)


def test_the_page_about_the_alerts_names_each() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    page = PAGE.read_text()
    assert re.findall(r"^\| `(Offloop\w+)`", page, re.MULTILINE) == alerts


def test_prometheus_loads_the_rules_and_answers_the_dashboards_queries(prometheus: Prometheus) -> None:
    prometheus.until("offloop_jobs_total")
    assert {rule["name"] for rule in prometheus.rules()} == set(
        re.findall(r"- alert: (\w+)", RULES.read_text())
    )
    assert all(rule["health"] != "err" for rule in prometheus.rules())
    variables = {"$job": "shop", "$instance": ".*", "$pool": ".*", "$__rate_interval": "5m"}
    for expression in expressions_of(json.loads(DASHBOARD.read_text())):
        for name, value in variables.items():
            expression = expression.replace(name, value)
        if not expression.startswith("label_values("):
            prometheus.query(expression)


def test_an_alert_fires_when_workers_are_killed(observed: Observed, prometheus: Prometheus) -> None:
    prometheus.until('offloop_worker_restarts_total{reason="crashed"} == 0')
    assert prometheus.query('ALERTS{alertname=~"OffloopWorker.*"}') == []
    os.kill(observed.worker(), signal.SIGKILL)
    [alert] = prometheus.until('ALERTS{alertname="OffloopWorkerDied",alertstate="firing"}')
    assert alert["metric"]["pool"] == "documents"
    assert alert["metric"]["severity"] == "ticket"
    assert prometheus.query('ALERTS{alertname="OffloopWorkersKeepDying"}') == []
    for _ in range(6):
        os.kill(observed.worker(), signal.SIGKILL)
    prometheus.until('ALERTS{alertname="OffloopWorkersKeepDying",alertstate="firing"}')

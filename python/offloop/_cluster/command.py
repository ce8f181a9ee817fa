"""The command `offloop worker`: runs jobs of a cluster in this Python."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import OffloopError
from .agent import Agent

URL = "OFFLOOP_CLUSTER_URL"

EPILOG = """\
Without --trust, jobs of plain data run, whoever submits them, and pickles never do. SIGTERM and Ctrl-C drain the worker:
it takes no more jobs, and ends when those that run have ended. A second one ends it at once.

The exit code is 0 when it has let go of all its jobs, 1 after an error, and 2 if the command line is wrong."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    command = argparse.ArgumentParser(
        "offloop worker",
        description="Runs jobs of a cluster: the public functions of these modules, each in a process.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("modules", nargs="*", metavar="MODULE", help="a module whose public functions are tasks, `module:function`")
    add("--url", default=os.environ.get(URL), help=f"the server's URL; default: the variable {URL}")
    add("--namespace", default="default", help="the namespace; default: default")
    add(
        "--queue",
        action="append",
        default=[],
        metavar="NAME[=WEIGHT]",
        help="a queue to take jobs from; again for each; default: default",
    )
    add("--slots", type=_positive, metavar="N", help="the number of jobs at a time; default: the number of cores")
    add("--accept", choices=("typed", "pickle"), default="typed", help="what jobs may be; default: typed")
    add(
        "--trust",
        action="append",
        default=[],
        metavar="KEY[=TASK,...]",
        help="the public key of a submitter whose jobs run: all, or these tasks; again for each",
    )
    add("--key", type=Path, metavar="FILE", help="a file with the secret key that signs results")
    add("--nkey", type=Path, metavar="FILE", help="a file with a secret key to log in with")
    add("--creds", type=Path, metavar="FILE", help="a file with NATS credentials to log in with")
    add("--preload", action="append", default=[], metavar="MODULE", help="a module to import before the first job")
    add("--drain", type=float, default=30.0, metavar="SECONDS", help="the time for running jobs at the end; default: 30")
    add("--name", help="the worker's name; default: the host's name and the process id")
    add("--label", action="append", default=[], help="a label, for those who look at the cluster")
    return command


def main(words: Sequence[str]) -> int:
    """Runs the command, and returns the exit code. Blocks until the worker has ended."""
    command = parser()
    asked = command.parse_args(words)
    if asked.url is None:
        command.error(f"the URL of the cluster is missing: give --url, or set {URL}")
    if asked.accept == "pickle" and not (asked.trust and asked.key):
        command.error("--accept pickle needs --trust with the submitters' keys, and --key with this worker's own")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s%(at)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_add_job)
    # As `python -m` does: the user's modules are where the command is called.
    sys.path.insert(0, os.getcwd())
    try:
        agent = Agent(
            asked.url,
            asked.modules,
            slots=asked.slots,
            preload=asked.preload,
            settings=_settings(asked),
        )
    except (OffloopError, OSError, ValueError, ImportError) as error:
        print(f"offloop worker: {error}", file=sys.stderr)
        return 1
    _drain_on_signals(agent)
    queues = ", ".join(asked.queue or ["default"])
    tasks = ", ".join(agent.tasks) or "none by name"
    print(f"offloop worker {agent.id}: {agent.slots} slots, queues {queues}, tasks {tasks}", file=sys.stderr, flush=True)
    try:
        left = agent.wait()
    except OffloopError as error:
        print(f"offloop worker: {error}", file=sys.stderr)
        return 1
    if left:
        print(
            f"offloop worker: the server did not answer, so other workers have to take over: {', '.join(left)}",
            file=sys.stderr,
        )
    return 1 if left else 0


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "namespace": asked.namespace,
        "queues": [_queue(text) for text in asked.queue],
        "drain": asked.drain,
        "name": asked.name or f"{os.uname().nodename}-{os.getpid()}",
        "labels": asked.label,
        "trust": (asked.trust, asked.accept == "pickle"),
    }
    for name in ("key", "nkey", "creds"):
        if (file := getattr(asked, name)) is not None:
            text = file.read_text()
            settings[name] = text if name == "creds" else text.strip()
    return settings


def _queue(text: str) -> tuple[str, int]:
    name, _, weight = text.partition("=")
    return name, int(weight or 1)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _drain_on_signals(agent: Agent) -> None:
    told = False

    def tell(*_: object) -> None:
        nonlocal told
        if told:
            agent.stop()
        else:
            told = True
            agent.drain()

    signal.signal(signal.SIGTERM, tell)
    signal.signal(signal.SIGINT, tell)


def _add_job(record: logging.LogRecord) -> bool:
    """Gives the text of a log record the id of its job."""
    job = getattr(record, "job", None)
    record.at = f" [{job}]" if job else ""
    return True

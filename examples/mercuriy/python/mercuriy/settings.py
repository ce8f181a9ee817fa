"""The settings of the service, from the command line and the environment."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from . import telemetry

MODES = ("loop", "threads", "processes", "offloop", "cluster")


@dataclass(frozen=True)
class Settings:
    host: str
    port: int
    on: str
    data: Path
    postgres: str | None
    tarantool: str | None
    rfc: str | None
    body_timeout: float
    """The seconds for which a body may stop."""
    connections: int
    """The connections to each system."""
    otlp: str | None
    """Where traces go; see `telemetry.wanted`."""
    cluster: str | None
    """The URL of the cluster for the walks; None: one of the service's own, if there is to be one."""


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("mercuriy", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--on", choices=MODES, default="offloop", help="where blocking work runs")
    parser.add_argument(
        "--cluster",
        default=os.environ.get("OFFLOOP_CLUSTER_URL") or None,
        metavar="URL",
        help="the cluster for `--on cluster`; default: one of its own",
    )
    parser.add_argument("--data", type=Path, help="the folder of the data; default: a temporary one")
    parser.add_argument("--postgres", default=os.environ.get("OFFLOOP_POSTGRES_URL"), metavar="DSN")
    parser.add_argument("--tarantool", default=os.environ.get("OFFLOOP_TARANTOOL_URL"), metavar="HOST:PORT")
    parser.add_argument("--rfc", metavar="HOST:PORT", help="in place of the embedded server")
    parser.add_argument("--body-timeout", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--connections", type=int, default=16, help="to each system")
    parser.add_argument(
        "--otlp", metavar="URL", help="a collector of OpenTelemetry, such as http://127.0.0.1:4318"
    )
    return parser.parse_args(words)


def settings_of(given: argparse.Namespace, data: Path) -> Settings:
    return Settings(
        host=given.host,
        port=given.port,
        on=given.on,
        data=data,
        postgres=given.postgres,
        tarantool=given.tarantool,
        rfc=given.rfc,
        body_timeout=given.body_timeout,
        connections=given.connections,
        otlp=telemetry.wanted(given.otlp),
        cluster=given.cluster,
    )

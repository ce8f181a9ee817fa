"""A service on a busy machine, with the watchdog on. It has no call that blocks its loop.

    python python/benches/stalls.py                   # ten minutes
    python python/benches/stalls.py --seconds 20      # a smoke test

Each stall that the watchdog blames on a line is a false one. Not counted as such are first imports, and times in which
the loop's thread had no core. The service is FastAPI on uvicorn, with `offloop.asgi`; clients ask it for all kinds of
things, and some go away before they are answered. Beside them run programs that only compute, twice as many as there
are cores, with a niceness of 5. Exits with 1 if a stall was false.

It needs fastapi and uvicorn.
"""

import argparse
import collections
import contextlib
import http.client
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

CLIENTS = 8
PATHS = ["/compute", "/wait", "/file", "/stream", "/rows", "/map", "/late", "/sync", "/upload"]
LEAVES = 0.05
"""The share of requests whose client goes away."""


def count_primes(limit: int) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "name": f"row {n}", "values": [n, n / 2]} for n in range(count)]


def application(threshold: float, report: Path) -> Any:
    """Returns the service. It appends its stalls to the file, one a line, and at the end what the watch has summed up."""
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse

    import offloop
    from offloop.asgi import OffloopMiddleware

    def write(kind: str, value: Any) -> None:
        with report.open("a") as file:
            file.write(json.dumps([kind, value]) + "\n")

    def on_stall(stall: offloop.Stall) -> None:
        known = {"cause": stall.cause, "late": stall.late, "place": stall.place, "call": stall.call}
        write("stall", {**known, "advice": stall.advice, "starved": getattr(stall, "starved", None)})

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await offloop.run_cpu(int)
        app.state.pool = offloop.ThreadPoolExecutor(2)
        with offloop.watch(threshold=threshold, on_stall=on_stall) as watch:
            yield
            write("stalls", [str(summary) for summary in watch.stalls])
            write("starvation", str(getattr(watch, "starvation", "not measured")))

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(OffloopMiddleware, metrics_path="/metrics")

    @app.get("/compute")
    async def compute() -> int:
        return await offloop.run_cpu(count_primes, 3000)

    @app.get("/wait")
    async def wait() -> None:
        await offloop.run(time.sleep, 0.02)

    @app.get("/file")
    async def read() -> int:
        return len(await offloop.run(Path(__file__).read_bytes))

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for n in range(5):
                yield f"{await offloop.run_cpu(count_primes, 100 * n)}\n"

        return StreamingResponse(lines())

    @app.get("/rows")
    async def table() -> list[dict[str, Any]]:
        return await offloop.run_cpu(rows, 50)

    @app.get("/map")
    async def mapped() -> list[int]:
        return [value async for value in app.state.pool.map(len, ["a", "bb", "ccc"])]

    @app.get("/late")
    async def late() -> None:
        await offloop.options(timeout=0.1).run_cpu(time.sleep, 60)

    @app.get("/sync")
    def sync() -> int:
        return count_primes(200)

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return await offloop.run(len, await request.body())

    return app


def serve(port: int, threshold: float, report: Path) -> None:
    import uvicorn

    logging.getLogger("offloop.web").setLevel(logging.ERROR)
    uvicorn.run(application(threshold, report), host="127.0.0.1", port=port, log_level="warning")


def ask(port: int, until: float, statuses: collections.Counter[str]) -> None:
    """Asks until the time comes."""
    while time.monotonic() < until:
        path = random.choice(PATHS)
        body = b"x" * 200_000 if path == "/upload" else None
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST" if body else "GET", path, body)
            if random.random() < LEAVES:
                time.sleep(random.random() * 0.2)
                statuses["client left"] += 1
            else:
                response = connection.getresponse()
                response.read()
                statuses[f"{path} {response.status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            statuses[f"{path} {type(error).__name__}"] += 1
        finally:
            connection.close()


def burn() -> None:
    os.nice(5)
    parent = os.getppid()
    while os.getppid() == parent:
        for n in range(1_000_000):
            n * n


def measure(seconds: float, threshold: float, burners: int) -> bool:
    """Runs the service beside the load, and prints its stalls. Returns whether none was false."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "stalls"
        report.touch()
        command = [sys.executable, __file__, "--serve", str(port), str(threshold), str(report)]
        others = [subprocess.Popen([sys.executable, __file__, "--burn"]) for _ in range(burners)]
        service = subprocess.Popen(command)
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if service.poll() is not None:
                    raise RuntimeError("the service did not start")
                time.sleep(0.1)
            statuses: collections.Counter[str] = collections.Counter()
            until = time.monotonic() + seconds
            clients = [
                threading.Thread(target=ask, args=(port, until, statuses)) for _ in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            load = os.getloadavg()[0]
            service.send_signal(signal.SIGTERM)
            service.wait(timeout=120)
        finally:
            for process in (service, *others):
                process.kill()
                process.wait()
        records = [json.loads(line) for line in report.read_text().splitlines()]
    print(f"{seconds:.0f} s, threshold {threshold} s, load {load:.1f} on {os.cpu_count()} cores")
    print(f"requests: {sum(statuses.values())}, by answer:")
    for name, count in sorted(statuses.items()):
        print(f"  {count:7} {name}")
    stalls = [value for kind, value in records if kind == "stall"]
    print(f"reports of stalls: {len(stalls)}, by cause, worst and place:")
    by_place: dict[tuple[str, ...], list[dict[str, Any]]] = collections.defaultdict(list)
    for stall in stalls:
        by_place[stall["cause"], stall["place"], str(stall["call"]), stall["advice"]].append(stall)
    for (cause, place, call, advice), found in sorted(by_place.items(), key=lambda item: -len(item[1])):
        late = max(stall["late"] for stall in found)
        starved = [stall["starved"] for stall in found if stall["starved"] is not None]
        without = f", without a core {max(starved):.3f} s" if starved else ""
        print(f"  {len(found):4} {cause}, {late:.3f} s{without}: {place}: {call}\n       {advice}")
    for kind, value in records:
        if kind != "stall":
            print(f"{kind}: {value}")
    false = [stall for stall in stalls if stall["cause"] != "imports"]
    print(f"false stalls: {len(false)}")
    return not false


def main() -> None:
    if "--burn" in sys.argv:
        burn()
    elif "--serve" in sys.argv:
        port, threshold, report = sys.argv[2:]
        serve(int(port), float(threshold), Path(report))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
        parser.add_argument("--seconds", type=float, default=600)
        parser.add_argument("--threshold", type=float, default=0.1, help="seconds")
        parser.add_argument("--burners", type=int, default=2 * (os.cpu_count() or 1))
        given = parser.parse_args()
        sys.exit(not measure(given.seconds, given.threshold, given.burners))


if __name__ == "__main__":
    main()

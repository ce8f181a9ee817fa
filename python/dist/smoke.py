"""Uses each part of an installed package once. Nothing but the package is needed.

python smoke.py
"""

import asyncio
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator

import offloop


def double(n: int) -> int:
    return 2 * n


def count(n: int) -> Iterator[int]:
    yield from range(n)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    threading.Event().wait()


async def main() -> None:
    assert await offloop.run(double, 1) == 2
    assert await offloop.run_cpu(double, 2) == 4
    async with offloop.ThreadPoolExecutor(2) as threads, offloop.ProcessPoolExecutor(2) as processes:
        for pool in (threads, processes):
            assert await pool.run(double, 3) == 6
            assert [n async for n in pool.map(double, range(4))] == [0, 2, 4, 6]
            assert pool.submit(double, 4).result(60) == 8
        assert [n async for n in processes.stream(count, 3)] == [0, 1, 2]
        large = bytes(10_000_000)
        assert await processes.run(bytes, large) == large
        try:
            await processes.run(die)
        except offloop.WorkerDied as error:
            assert "SIGKILL" in str(error), error
        else:
            raise AssertionError("a worker's death went unnoticed")
        call = processes.submit(wait)
        while not call.running():
            await asyncio.sleep(0.001)
        assert call.cancel()
        assert "offloop" in offloop.prometheus()
    with offloop.watch(asyncio.get_running_loop()):
        await asyncio.sleep(0.01)
    script = os.path.join(sysconfig.get_path("scripts"), "offloop")
    for command in [script], [sys.executable, "-m", "offloop"]:
        printed = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True).stdout
        assert printed == f"offloop {offloop.__version__}\n", printed


if __name__ == "__main__":  # worker processes import this file, and must not do this again
    asyncio.run(main())
    print(f"offloop works on {platform.platform()}, Python {platform.python_version()}")

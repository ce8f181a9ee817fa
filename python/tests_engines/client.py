"""A program that runs calls on an engine until it is interrupted: `client.py ENGINE ADDRESS TRACE`."""

import sys
from typing import Any

import jobs


def main(engine: str, address: str, trace: str) -> None:
    pool: Any
    if engine == "dask":
        from distributed import Client
        from offloop.dask import DaskExecutor

        pool = DaskExecutor(Client(address))
    else:
        import ray
        from offloop.ray import RayExecutor

        ray.init(address, log_to_driver=False, logging_level="ERROR")
        pool = RayExecutor()
    with pool:
        list(pool.map(jobs.note_and_sleep, [trace] * 2))


if __name__ == "__main__":
    main(*sys.argv[1:])

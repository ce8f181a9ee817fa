"""A program that runs calls on an engine until it is interrupted: `client.py dask ADDRESS TRACE`, `client.py ray - TRACE`."""

import sys

import jobs


def main(engine: str, address: str, trace: str) -> None:
    if engine == "dask":
        from distributed import Client
        from offloop.dask import DaskExecutor

        with Client(address) as client, DaskExecutor(client) as pool:
            list(pool.map(jobs.note_and_sleep, [trace] * 2))
    else:
        import ray
        from offloop.ray import RayExecutor

        ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", num_cpus=2, log_to_driver=False)
        with RayExecutor() as pool:
            list(pool.map(jobs.note_and_sleep, [trace] * 2))


if __name__ == "__main__":
    main(*sys.argv[1:])

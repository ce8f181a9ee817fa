"""An executor on a Dask cluster.

    from distributed import Client
    from offloop.dask import DaskExecutor

    with Client("tcp://scheduler:8786") as client, DaskExecutor(client) as pool:
        print(pool.submit(pow, 2, 10).result())

Needs `pip install offloop[dask]`, here, on the scheduler and on the workers.
"""

from .executor import DaskExecutor

__all__ = ["DaskExecutor"]

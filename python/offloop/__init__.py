"""Runs blocking and CPU-bound work off the event loop.

    import offloop

    with offloop.ProcessPoolExecutor() as pool:
        await loop.run_in_executor(pool, cpu_bound)      # as with concurrent.futures
        await pool.options(timeout=5).run(cpu_bound)     # the fast, richer way

The two executors are drop-ins for those of `concurrent.futures`. In addition, a crash costs one job instead of the
pool, jobs can be cancelled and limited, queues are bounded, and large buffers travel without being copied.

The files stand in layers. Each imports only files of lower layers, or of its own package, and never in a circle:

    __init__, pytest_plugin    the public names
    _cli, __main__             the command `offloop`
    aiohttp, asgi, django      the adapters to web frameworks
    _web                       what they share
    dask/, ray                 the executors on engines of others
    _engines/                  what they share
    _observe/                  the live view
    _cluster/                  the executor on a cluster, and the worker of one
    _auto/, _watch/            threads or processes by measurement; the watchdog of event loops
    _pools/                    the executors
    _worker/                   the worker's side of a process pool, and what it shares with the parent
    _calls, _errors, _process_errors, _standard_errors, _cluster_errors, _imports, _jobs, _metrics, _requests, and the
                               engine `_offloop`

Public names are listed where they are defined, in the `__all__` of their modules.

(To pytest, which finds a plugin here: PYTEST_DONT_REWRITE.)
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._auto.auto import *
    from ._cluster.executor import *
    from ._cluster_errors import *
    from ._errors import *
    from ._jobs import *
    from ._metrics import *
    from ._observe.document import *
    from ._observe.server import *
    from ._pools.default import *
    from ._pools.executor import *
    from ._pools.futures import *
    from ._pools.loop import *
    from ._pools.processes import *
    from ._pools.results import *
    from ._pools.shutdown import *
    from ._pools.stream import *
    from ._pools.threads import *
    from ._pools.warm_up import *
    from ._process_errors import *
    from ._requests import *
    from ._watch.report import *
    from ._watch.watch import *
    from ._worker.remote_errors import *

    __version__: str

# The same modules, with their names. A module is imported when one of its names is first used: a worker needs only a few,
# and a program that has no process pool does not import multiprocessing.
_NAMES = {
    "_auto.auto": "AutoOptions Placement auto",
    "_cluster.executor": "ClusterExecutor",
    "_cluster_errors": "ClusterUnreachable NoSuchTask NotTrusted WorkerLost",
    "_errors": "JobShed OffloopError PoolClosed QueueFull QueueTimeout RunTimeout",
    "_jobs": "check_cancelled discard_worker_state is_cancelled on_cancel worker_state",
    "_metrics": "Advice Histogram Metrics metrics prometheus",
    "_observe.document": "Snapshot",
    "_observe.server": "ObserveServer observe serve_observe",
    "_pools.default": "Options configure install options run run_cpu warm_up",
    "_pools.executor": "PoolOptions",
    "_pools.futures": "Future",
    "_pools.loop": "JobFuture",
    "_pools.processes": "ProcessPoolExecutor",
    "_pools.results": "MapStream",
    "_pools.shutdown": "ShutdownReport StuckJob",
    "_pools.stream": "ItemStream",
    "_pools.threads": "ThreadPoolExecutor",
    "_pools.warm_up": "WarmUp",
    "_process_errors": "PoolBroken WorkerDied WorkerStartError",
    "_requests": "request_id",
    "_watch.report": "Stall StallSummary Starvation",
    "_watch.watch": "Watch watch",
    "_worker.remote_errors": "RemoteError",
}


# A program imports here what its first call needs, so that the call does not import it on an event loop. The process pool
# comes later, on a thread of its own: it imports multiprocessing, which takes longer than all this.
if not TYPE_CHECKING:
    import os as _os

    from ._offloop import VERSION as __version__

    if "OFFLOOP_WORKER" not in _os.environ:
        from ._pools import default as _default

        if "OFFLOOP_OBSERVE" in _os.environ:
            from ._observe.start import from_environment as _open_view

            _open_view()

# A type checker that saw this function would accept any name.
if not TYPE_CHECKING:

    _MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

    def __getattr__(name):
        if name == "__all__":
            return sorted(_MODULES)
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *_MODULES})

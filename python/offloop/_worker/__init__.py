"""The package as a worker process sees it: what the child imports, and what it shares with the parent.

- `main.py`: the life of a template and of a worker.
- `replies.py`, `remote_errors.py`, `pickling.py`: calls, results and exceptions as bytes.
- `main_module.py`: `__main__` in workers.
- `context.py`, `telemetry.py`: context variables and OpenTelemetry's context, which travel with a call.
- `forwarding.py`, `logs.py`: log records on their way to the parent's handlers, without and with `logging`.

A worker's start imports `main.py` and little else, so these modules import as little as they can.
"""

"""The load generator: `python -m mercuriy.load --url http://127.0.0.1:8080`, or `--table`.

The schedule is open: each request has a time at which it is due, whatever became of those before, and its
latency counts from then. So a service that stands still for a second is late for all requests of that second, as it
would be for its users.

`/health` is asked by a process of its own, which does nothing else, so that the load does not disturb what is measured.

    client      HTTP in a hundred lines, which need little of the cores that they share with the service
    schedule    requests when they are due
    health      the process that asks /health
    mixed       the load: documents, calls, messages
    report      percentiles, the table, the plot
"""

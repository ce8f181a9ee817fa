"""What worker processes import: a module of its own, so that they do not import the service."""


def cpu_bound(n: int) -> int:
    """Operations that need the CPU block the event loop."""
    return sum(i * i for i in range(n))

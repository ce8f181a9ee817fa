"""How much memory processes have."""

from __future__ import annotations


def shared(pid: int | str = "self") -> int:
    """How many bytes of shared memory a process has resident."""
    return _status(pid, "RssShmem")


def own(pid: int | str = "self") -> int:
    """How many bytes of memory of its own a process has resident."""
    return _status(pid, "RssAnon")


def _status(pid: int | str, field: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) << 10
    raise LookupError(field)

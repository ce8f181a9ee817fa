"""The memory of processes."""

from __future__ import annotations


def shared(pid: int | str = "self") -> int:
    """Returns the bytes of shared memory that a process has resident."""
    return _status(pid, "RssShmem")


def own(pid: int | str = "self") -> int:
    """Returns the bytes of memory of its own that a process has resident."""
    return _status(pid, "RssAnon")


def _status(pid: int | str, field: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) << 10
    raise LookupError(field)

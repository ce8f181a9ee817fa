"""The document of the live view as types. The engine makes it: `offloop::observe::document` has the same names.

Times of day are seconds since the Unix epoch, durations are seconds, sizes are bytes, and shares go from 0 to 1. A value that
is not known is None. Within a version of the document keys are only added.
"""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["Snapshot"]


class Snapshot(TypedDict):
    """The state of one process at one moment."""

    version: int
    """The version of the document."""
    time: float
    """The time of day of the snapshot."""
    process: Process
    starvation: Starvation
    """The lack of cores, apart from what blocks a loop."""
    pools: list[Pool]
    """The pools that have not ended, in the order in which they were made."""
    loops: list[EventLoop]
    """The event loops that are watched."""
    deaths: list[Death]
    """The last 20 deaths of worker processes, the newest first."""
    advice: list[Advice]
    """Jobs that would be better off elsewhere."""


class Process(TypedDict):
    """A process."""

    pid: int
    service: str
    """The service that it belongs to. All processes of one service are shown in one view."""
    command: list[str]
    """Its command line, each argument by itself."""
    language: str
    """The language that it uses offloop from: "python", or "rust"."""
    offloop: str
    """The version of offloop."""
    started: float
    """The time of day at which it was started."""
    cores_used: float | None
    """The cores that it has used on average since the snapshot before: 1.0 is one core."""
    cores: int
    """The cores that it may use."""
    rss: int | None
    """Its resident memory."""
    threads: int | None
    """The number of its threads."""
    may_cancel: bool
    """Whether a viewer may cancel its jobs."""


class Starvation(TypedDict):
    """The time in which threads could have run but had no core."""

    seconds: float
    """The time that the shares are about: since the snapshot before."""
    run_delay: float | None
    """The time that the process's threads waited for a core, as a share of the time of one core. It exceeds 1 if several
    threads wait at once."""
    throttled: float | None
    """The part of the time that the control group was throttled."""
    stolen: float | None
    """The part of the machine's time that its host took away."""


class Pool(TypedDict):
    """A pool."""

    id: int
    name: str
    kind: Literal["threads", "processes"]
    """The kind of its workers."""
    queued: int
    """The number of jobs in its queue."""
    capacity: int | None
    """The number of jobs that its queue can hold."""
    oldest_queued: float | None
    """The time that the oldest job of its queue has been waiting."""
    running: int
    """The number of jobs that run."""
    workers_by_state: dict[str, int]
    """The number of its workers in each state: "busy", "idle", "blocked", "starting", "leaving"."""
    max_workers: int
    """The number of workers that it may have."""
    workers: list[Worker]
    """Its worker processes, or the threads that have a job."""
    jobs: list[Job]
    """The jobs that run, the longest first, at most 200."""
    queue_wait: Times
    """The time that jobs wait before they run."""
    run_time: Times
    """The time that jobs run."""
    outcomes: dict[str, int]
    """The number of jobs that have ended in each way, since the pool was made."""
    outcomes_per_second: dict[str, float]
    """The number of jobs a second that have ended in each way, since the snapshot before."""
    retried: int
    """The number of times that a job was run again because its worker had died."""
    restarts: dict[str, int]
    """The number of workers that were replaced, by reason, since the pool was made."""
    arena: Arena | None
    """The shared memory of a process pool."""


class Worker(TypedDict):
    """A worker of a pool."""

    pid: int | None
    """The process id of a worker process."""
    thread: int | None
    """The id of a thread, as the system has it."""
    state: str
    """Its state: "busy", "idle", "blocked", "starting", "leaving"."""
    rss: int | None
    """The resident memory of a worker process."""
    cores_used: float | None
    """The cores that it has used on average since the snapshot before: 1.0 is one core."""
    age: float | None
    """The time since it was started."""


class Job(TypedDict):
    """A job that runs."""

    id: int
    name: str | None
    """Its name, or that of its function."""
    request: str | None
    """The id of the request that it works for, if the program names it."""
    running: float
    """The time that it has been running."""
    time_left: float | None
    """The time that it may still run before its timeout."""
    pid: int | None
    """The process id of its worker process."""
    thread: int | None
    """The id of its thread."""
    is_cancelled: bool
    """Whether it was asked to stop."""


class Times(TypedDict):
    """A distribution of times."""

    recent: Quantiles
    """Over the last minute, or since somebody began to look if that is less."""
    total: Quantiles
    """Since the pool was made."""
    buckets: list[list[float]]
    """The counts since the pool was made: pairs of the upper bound of a bucket that is not empty, and its count."""


class Quantiles(TypedDict):
    """Quantiles of a distribution of times."""

    count: int
    """The number of times."""
    seconds: float
    """The time that this covers."""
    p50: float | None
    """The median."""
    p99: float | None
    """The time that one of a hundred exceeds."""
    max: float | None
    """The longest time, up to the width of its bucket."""


class Arena(TypedDict):
    """The shared memory of a process pool."""

    used: int
    """The bytes that hold a payload."""
    kept: int
    """The bytes that are kept for payloads to come."""


class EventLoop(TypedDict):
    """An event loop that is watched."""

    id: int
    name: str
    kind: str
    """Its kind: "asyncio", "uvloop", "tokio", or "other"."""
    threshold: float
    """The lateness from which on it counts as stalled."""
    late_now: float
    """The lateness at this moment. Zero unless a beat is overdue."""
    lateness: Times
    """The lateness of its beats."""
    stalls: int
    """The number of stalls since the watch began."""
    stalled: float
    """The time that it was stalled, in total."""
    starved: int
    """The number of times that it was late because it had no core. These are no stalls."""
    starved_seconds: float
    """The time that it was late for lack of a core, in total."""
    places: list[Place]
    """The places that have stalled it, the worst first, at most 20."""


class Place(TypedDict):
    """A place in a program that stalls an event loop."""

    file: str | None
    line: int | None
    function: str
    """The function, the task or the call."""
    stalls: int
    """The number of stalls."""
    stalled: float
    """The time that the stalls took, in total."""
    longest: float
    """The longest of them."""
    last: float
    """The time of day of the last one."""
    activity: str | None
    """The activity of the thread meanwhile: "computes" or "waits"."""
    advice: str | None
    """The advice that mends it, as a sentence."""


class Death(TypedDict):
    """The death of a worker process."""

    time: float
    """The time of day."""
    pool: str
    """The name of its pool."""
    pid: int
    how: str
    """How it ended, in words."""
    job: int | None
    """The number of the job that it ran."""
    task: str | None
    """The name of that job, or of its function."""
    peak_rss: int | None
    """The most resident memory that it used."""
    last_words: str | None
    """The last lines that it wrote to its standard error."""


class Advice(TypedDict):
    """Jobs that would be better off elsewhere."""

    pool: str
    """The name of the pool that they run on."""
    task: str
    """The name that they have in common."""
    activity: str
    """Their activity: "computes" or "waits"."""
    text: str
    """The advice as a sentence."""

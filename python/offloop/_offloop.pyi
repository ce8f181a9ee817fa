"""The engine."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar, final

from typing_extensions import Buffer

from ._pools.futures import Future

T = TypeVar("T")

VERSION: str

@final
class Mailbox:
    """The ended jobs of one event loop."""

    def __new__(cls) -> Mailbox: ...
    def fileno(self) -> int:
        """The descriptor that becomes readable when jobs have ended."""
    def deliver(self) -> None:
        """Ends the futures of the jobs that have ended. Does not block."""

@final
class Job:
    """A job that was submitted."""

    def cancel(self) -> bool:
        """Ends the job, unless it has ended; says whether it did. Its receiver is not told."""
    def cancel_queued(self) -> bool:
        """Ends the job if no worker has begun with it; says whether it did. Its receiver is not told."""
    def next_item(self) -> tuple[Any] | None:
        """The next item that the job has sent, in a tuple, if it has come. Does not block."""
    def is_forked(self) -> bool:
        """Whether this process is a fork of the one that has submitted it, where it will never end."""
    @property
    def state(self) -> Literal["waiting", "queued", "running", "ended"]:
        """Where it stands."""

@final
class ProcessPool:
    """A pool of worker processes: interpreters that are forks of one template."""

    def __new__(cls, settings: dict[str, Any]) -> ProcessPool: ...
    def submit(
        self,
        body: bytes,
        buffers: Sequence[Buffer],
        receiver: Any,
        mailbox: Mailbox | None,
        name: str,
        priority: int,
        timeout: float | None,
        queue_timeout: float | None,
        buffersize: int | None,
    ) -> Job:
        """Submits a pickled call. Its end is told to `receiver`, and of items if there is a `buffersize`."""
    def metrics(self) -> Metrics:
        """What the pool has done and is doing."""
    def workers(self) -> list[int]:
        """The process ids of the workers that are up."""
    def queued(self) -> int:
        """How many jobs wait for a worker."""
    def outstanding(self) -> int:
        """How many jobs have not ended."""
    def resize(self, workers: int) -> None:
        """Has the pool have so many workers from now on."""
    def cancel_queued(self) -> int:
        """Cancels the jobs that no worker has; says how many those were."""
    def listen(self) -> int:
        """The descriptor that becomes readable when workers have answered. From then on somebody should look there,
        and `take_answers`."""
    def take_answers(self, mailbox: Mailbox) -> None:
        """Takes the workers' answers, and delivers what has come for the mailbox. Does not block."""
    def close(self) -> None:
        """Takes no more work. Jobs that were accepted are still run; nobody waits for them."""
    def is_over(self) -> bool:
        """Whether it is closed and its last worker is gone."""
    def abort(self) -> None:
        """Takes no more work, cancels what is queued and kills what runs. Does not wait for it."""
    def shutdown(self, drain: float | None) -> tuple[int, int, int, list[str]]:
        """Takes no more work, waits for what was accepted for `drain` seconds, then cancels and kills."""

def settle() -> None:
    """Waits until every end of a job that is on its way to a future has been told, for a second at most."""

def emit(item: tuple[int, bytes, Sequence[Buffer]]) -> None:
    """Sends something before the reply of the job that runs here. Blocks while nobody makes room for it."""

def perform_by(perform: Callable[[Buffer, Iterable[Buffer]], tuple[int, bytes, Sequence[Buffer]]]) -> None:
    """Sets what is done with calls in this process; before the first."""

@final
class Template:
    """This process as the template of a pool's workers."""

    @staticmethod
    def connect() -> Template | None:
        """Takes up the role for which this program was started. None if its parent is dead already."""
    @staticmethod
    def adopt(socket: int, parent: int) -> Template | None:
        """The same for a fork of the process `parent`, with the socket that it was given, which is taken over."""
    def serve(self, fork: Callable[[], int]) -> Worker | None:
        """Forks workers when the pool asks for them. Returns in each of them, and in the template with None at the
        end."""

@final
class Worker:
    """This process as a worker."""

    def serve(self) -> None:
        """Runs jobs until the pool lets this worker go."""

@final
class ThreadPool:
    """A pool of threads that call functions."""

    def __new__(
        cls,
        start: Callable[[Life], object],
        name: str,
        purpose: str,
        max_threads: int,
        queue_capacity: int,
        on_full: str,
        idle_timeout: float,
    ) -> ThreadPool:
        """`start(life)` is called for each new thread, which then calls `life.run()`."""
    def submit(
        self,
        future: Future[T],
        run: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        /,
    ) -> None:
        """Calls `run(*args, **kwargs)` on a thread and ends `future`, which gets the job as `_job`."""
    def run(
        self,
        receiver: Any,
        mailbox: Mailbox | None,
        run: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        timeout: float | None,
        queue_timeout: float | None,
        priority: int,
        /,
    ) -> Job:
        """The same for a receiver in an event loop. Times in seconds."""
    def close(self) -> None:
        """Takes no more calls; those accepted are still run. Does not block."""
    def cancel_queued(self) -> None:
        """Ends the queued calls as cancelled. Does not block."""
    def abandon(self) -> None:
        """Closes the pool, ends the queued calls and turns the tokens of the running ones. Does not block."""
    def metrics(self) -> Metrics:
        """What the pool has done and is doing."""
    def queued(self) -> int:
        """How many calls wait for a thread."""

@final
class Life:
    """The life of one thread, for that to run."""

    def run(self) -> None:
        """Serves the pool on this thread, until that lets it go."""
    def break_with(self, make: Callable[[], BaseException], /) -> None:
        """All calls that have not begun, and those to come, end with the exception that `make()` returns."""
    @property
    def function(self) -> Callable[..., Any] | None:
        """What the thread is calling."""

@final
class Entry:
    """A submitted call, as its future knows it."""

    def cancel_queued(self) -> None:
        """Takes the call out of the queue, if it is there."""
    def error(self) -> BaseException | None:
        """Why it ended without having been run; once."""
    def is_forked(self) -> bool:
        """Whether this is a child made by fork(), and the call the parent's."""

def blocking(function: Callable[..., T], /, *args: Any) -> T:
    """Calls `function(*args)`, which waits. If this is a pool's thread, another stands in for it meanwhile."""

def is_cancelled() -> bool:
    """Whether the job that runs on this thread should stop."""

@final
class Armed:
    """A callback that is armed until this is dropped or disarmed."""

    def disarm(self) -> None:
        """From now on it is not called any more. A call that has begun goes on."""

def on_cancel(callback: Callable[[], object], /) -> Armed:
    """Has `callback()` called on a thread of its own when the job that runs on this thread should stop."""

@final
class Metrics:
    """The figures of one pool, at one moment. Counts are since it was made."""

    @property
    def pool(self) -> str:
        """The pool's name."""
    @property
    def kind(self) -> Literal["threads", "processes"]:
        """What its workers are."""
    @property
    def outcomes(self) -> dict[str, int]:
        """How many jobs have come to which end: "completed", "failed" (it raised), "panicked" (a bug of ours),
        "cancelled", "queue_deadline", "run_deadline", "rejected", "shed", "crashed" (its worker died)."""
    @property
    def queue_wait(self) -> Histogram:
        """How long jobs waited for a worker."""
    @property
    def run_time(self) -> Histogram:
        """How long jobs ran."""
    @property
    def gil_wait(self) -> Histogram | None:
        """How long threads waited for the interpreter's lock before they began with calls; of processes, None."""
    @property
    def queued(self) -> int:
        """How many jobs wait for a worker."""
    @property
    def running(self) -> int:
        """How many jobs run."""
    @property
    def workers(self) -> dict[str, int]:
        """How many workers are "busy", "idle", threads also "blocked" (their job waits for another one), processes
        also "starting" and "leaving"."""
    @property
    def restarts(self) -> dict[str, int]:
        """How many worker processes were replaced because they "crashed", for "job_ended" (it was cancelled or out
        of time), "memory", "max_jobs", "max_age", "protocol", "failed_start". Empty for threads."""
    @property
    def arena(self) -> dict[str, int] | None:
        """The bytes of shared memory that this process has for large payloads: "used", and "kept" for later ones."""
    @property
    def advice(self) -> list[Advice]:
        """Which calls would be better off elsewhere."""
    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, times in seconds: for a log, or JSON."""

@final
class Histogram:
    """How often which times were seen, in seconds. Two buckets double the time."""

    @property
    def count(self) -> int:
        """How many times were recorded."""
    @property
    def sum(self) -> float:
        """All of them together."""
    @property
    def mean(self) -> float | None:
        """Their mean; None if there are none."""
    def quantile(self, share: float) -> float | None:
        """What this share of them, from 0 to 1, do not exceed: 0.5 is the median. None if there are none. Off by
        half at worst."""
    def buckets(self) -> list[tuple[float, int]]:
        """Upper bounds, and how many times lie below each; the last bound is infinite."""

@final
class Advice:
    """Calls that would be better off elsewhere; as a text, a sentence that says where."""

    @property
    def pool(self) -> str:
        """The pool that they run on."""
    @property
    def task(self) -> str:
        """What they are called."""
    @property
    def found(self) -> Literal["computes", "only_waits"]:
        """What is out of place."""
    @property
    def jobs(self) -> int:
        """How many of them were measured; short ones, below 2 ms, are not."""
    @property
    def ran(self) -> float:
        """How many seconds those ran, without those in which others had the cores."""
    @property
    def on_core(self) -> float:
        """For how many of these they were on a core."""

def metrics() -> list[Metrics]:
    """The figures of all pools of this program that have not ended."""

def prometheus(metrics: list[Metrics] | None = None) -> str:
    """Figures in Prometheus' text format, to be served as `text/plain; version=0.0.4`; of all pools, if none are
    given. Pools of one name and kind are added up."""

@final
class Notice:
    """What a monitor has noticed of a loop."""

    @property
    def key(self) -> int:
        """Which pulse."""
    @property
    def kind(self) -> Literal["stalled", "still", "over"]:
        """That the loop stands still, that it still does, or that it goes on."""
    @property
    def seconds(self) -> float:
        """How late its beat is, or came."""
    @property
    def share(self) -> float:
        """For what part of the time since the last beat its thread had a core."""
    @property
    def state(self) -> str | None:
        """What the system says that the thread is at: "R" if it runs or would."""
    @property
    def stack(self) -> str | None:
        """What the thread has written of its stack, if the interpreter could not be had."""
    @property
    def holder(self) -> tuple[int, str | None] | None:
        """The thread that seems to have the interpreter instead, by its native id, and its stack."""

@final
class Post:
    """Where the monitors leave what they notice, for the one thread that reports it."""

    def __new__(cls) -> Post: ...
    def next(self) -> Notice | None:
        """The next notice; None when the post is closed. Blocks."""
    def outside(self, text: str, /) -> None:
        """From now until the next notice is asked for, this thread is in the hands of others; says what to."""
    def settle(self, timeout: float, /) -> bool:
        """Waits for all to be reported that was noticed, for so many seconds; says whether it was. Blocks."""
    def close(self) -> None:
        """What was noticed is still to be had; then there is no more."""

@final
class Pulse:
    """A loop's sign of life, and the thread that listens to it. Times in seconds."""

    def __new__(
        cls, post: Post, key: int, threshold: float, grace: float, mute: float, stacks: Stacks | None
    ) -> Pulse: ...
    def beat(self) -> None:
        """The loop comes round, on this thread. Does not block."""
    def pause(self) -> None:
        """The loop rightly stands still until the next beat."""
    @property
    def interval(self) -> float:
        """How far apart the beats should be."""
    def age(self) -> float | None:
        """How long ago the last beat was; None while paused."""
    def silence(self) -> float:
        """How long the last silence lasted that was longer than the threshold; 0 if there was none."""
    @property
    def thread(self) -> tuple[int, int]:
        """The thread that beats: as `threading` knows it, and as the system does."""
    def computes_detached(self) -> bool:
        """Whether its thread computes while this one has the interpreter. Blocks for a millisecond, and keeps it."""
    def stop(self) -> None:
        """Ends the watch. Blocks while the monitor is at something."""

@final
class Stacks:
    """A signal at which the thread that gets it writes its stack down."""

    def __new__(cls, signal: int | None) -> Stacks: ...
    @property
    def signal(self) -> int:
        """Which signal it is."""
    def take(self, tid: int, /) -> str | None:
        """The stack of a thread. Blocks for half a second at most."""
    def close(self) -> None:
        """Gives the signal up, unless somebody has taken it meanwhile. Blocks while a stack is being taken."""
    def forget(self) -> None:
        """The same in a child made by fork(), where whoever was taking a stack is not."""

def cpu_clocks() -> list[tuple[int, float]]:
    """The threads of this process, by their native ids, and the seconds for which each has had a core."""

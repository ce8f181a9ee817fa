"""The engine's binding."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal, TypeVar, final

from typing_extensions import Buffer

T = TypeVar("T")

VERSION: str

@final
class Shared:
    """Bytes that came from another process."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

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
        """Ends the job unless it has ended. Returns whether that ended it. Its receiver gets no report."""
    def cancel_queued(self) -> bool:
        """Ends the job if no worker has it yet. Returns whether that ended it. Its receiver gets no report."""
    def next_item(self) -> tuple[Any] | None:
        """Returns the next item that the job has sent, in a tuple; None if none has come. Does not block."""
    def is_forked(self) -> bool:
        """Returns whether this process is a fork of the one that has submitted the job, so that it never ends here."""
    @property
    def state(self) -> Literal["waiting", "queued", "running", "ended"]:
        """The job's state."""

@final
class CallOptions:
    """The options of a call, checked when they are made. Immutable. `str()` of it is the text of its keywords."""

    def __new__(
        cls,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: int = 0,
        name: str | None = None,
        request: str | None = None,
        retries: int = 0,
        buffersize: int | None = None,
        key: str | None = None,
        queue: str | None = None,
        exclusive: bool = False,
        retry_failures: bool = False,
    ) -> CallOptions: ...
    @property
    def timeout(self) -> float | None:
        """The seconds for which the call may run."""
    @property
    def queue_timeout(self) -> float | None:
        """The seconds for which the call may wait for a worker."""
    @property
    def priority(self) -> int:
        """The priority. Calls with a higher one run first."""
    @property
    def name(self) -> str | None:
        """The name that errors have for the call; None: that of its function."""
    @property
    def request(self) -> str | None:
        """The id of the request that the call works for; None: that of its caller."""
    @property
    def retries(self) -> int:
        """The number of further workers that the call is given to when its worker has died."""
    @property
    def buffersize(self) -> int | None:
        """The number of results or items that may wait to be read; None: the default of the method."""

@final
class ProcessPool:
    """A pool of worker processes: interpreters that are forks of one template."""

    def __new__(cls, settings: dict[str, Any]) -> ProcessPool:
        """Makes a pool. The settings have their public names, and one that is None has its default.

        `program` is the template's command line. In its place, `fork` may be a function that forks this process into
        the template."""
    def run(
        self,
        executor: object,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None,
    ) -> Any:
        """Submits a call of an executor that has this engine. Returns a `JobFuture`, which the running loop ends."""
    def dispatch(
        self,
        executor: object,
        receiver: object,
        event_loop: object | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None,
        buffersize: int | None,
    ) -> Job:
        """Submits a call. `receiver` learns of its end on the event loop, or on the results thread if that is None."""
    def send(
        self,
        executor: object,
        receiver: object,
        event_loop: object | None,
        call: tuple[str, bytes, Sequence[Buffer]],
        options: CallOptions | None,
        buffersize: int | None,
    ) -> Job:
        """Submits a call that is pickled already."""
    def set_listener(self, event_loop: Callable[[], object], mailbox: Mailbox) -> None:
        """Sets the loop that takes the workers' answers, a weak reference to it, and its mailbox."""
    def set_silence(
        self, path: list[str], levels: object, cache: dict[object, bool], probe: object
    ) -> None:
        """Sets the state in which calls have no prelude."""
    def end_silence(self) -> None:
        """Makes each call ask for its prelude, until the next call of `set_silence`."""
    def metrics(self) -> Metrics:
        """Returns the pool's metrics."""
    def workers(self) -> list[int]:
        """Returns the process ids of the workers that have started."""
    def queued(self) -> int:
        """Returns the number of jobs that wait for a worker."""
    def outstanding(self) -> int:
        """Returns the number of jobs that have not ended."""
    def target_workers(self) -> int:
        """Returns the number of workers that the pool should have by now. Some of them may still be starting."""
    def break_with(self, reason: str, /) -> None:
        """Breaks the pool: it takes no more jobs, and all its jobs end with `PoolBroken` and this reason. Does not block.
        If the pool is broken already, the first reason is kept."""
    @property
    def broken(self) -> str | None:
        """The reason why the pool is broken; None if it is not."""
    def prestart(self, workers: int) -> None:
        """Starts workers until the pool has this number of them. Does not wait for it."""
    def set_max_workers(self, workers: int) -> None:
        """Sets the largest number of workers."""
    def stop(self, kill: bool) -> None:
        """Ends all workers, by SIGTERM or by SIGKILL, and closes the pool. Queued jobs are cancelled. Does not wait for
        it."""
    def stop_worker(self, pid: int, kill: bool) -> None:
        """Ends one worker, by SIGTERM or by SIGKILL. Does not wait for it."""
    def exits(self) -> list[tuple[int, int | None]]:
        """Returns how the last workers have ended, the oldest first: process ids and exit codes."""
    def wait_over(self, timeout: float) -> bool:
        """Waits until the pool is closed and its workers are gone, for at most `timeout` seconds. Returns whether they
        are."""
    def cancel_queued(self) -> int:
        """Cancels the jobs that no worker has. Returns their number."""
    def listen(self) -> int:
        """Returns the descriptor that becomes readable when workers have answered. From then on the caller must watch
        it, and call `take_answers`."""
    def take_answers(self, mailbox: Mailbox) -> None:
        """Takes the workers' answers, and ends the futures of the mailbox. Does not block."""
    def close(self) -> None:
        """Takes no more jobs. Accepted ones still run. Does not wait for them."""
    def is_over(self) -> bool:
        """Returns whether the pool is closed and its last worker is gone."""
    def on_over(self, callback: Callable[[], object], /) -> None:
        """Calls `callback()` when that is so, on a thread of the engine. In a child made by fork() it is never called."""
    def shutdown(
        self, drain: float | None
    ) -> tuple[int, int, int, list[tuple[str, str, float]]]:
        """Takes no more jobs, waits for accepted ones for `drain` seconds (None: forever), then cancels and kills.

        Returns the numbers of jobs that were drained, cancelled and killed, and those that are stuck: the name of each, its
        worker, and the seconds for which it has run."""

def flush() -> None:
    """Waits until the futures of all ended jobs have ended and their log records are handled, for about a second."""

def encode_data(value: object, beside: bool) -> tuple[bytes, list[Buffer]]:
    """Returns a plain value as bytes, and the long byte strings and views in it that travel beside them: none unless
    `beside`. Raises TypeError for a value that is not plain, and ValueError for one that is nested too deeply."""

def decode_data(body: bytes, buffers: Sequence[bytes]) -> Any:
    """Returns the value that `encode_data` was given. Raises ValueError for anything else. Runs no code but its own."""

def emit(item: tuple[int, bytes, Sequence[Buffer]]) -> None:
    """Sends an item or a log record of the job that runs here, before its reply. Blocks while there is no room."""

def emit_item(function: Callable[..., Any], item: object, as_data: bool) -> None:
    """Sends an item of the stream that the job on this thread makes by calling `function`."""

def set_performer(main: ModuleType, forwarder: object | None) -> None:
    """Prepares this process for performing calls: as a worker whose log records `forwarder` sends, or as a pool's own
    process. `main` is the module `_worker.main`."""

@final
class Template:
    """This process as the template of a pool's workers."""

    @staticmethod
    def connect() -> Template | None:
        """Makes this process, which was started as a template, one. None if its parent is dead already."""
    @staticmethod
    def adopt(socket: int, parent: int) -> Template | None:
        """Makes this process, a fork of the process `parent`, a template. Takes the socket over."""
    def take_start_files(self) -> list[int]:
        """Returns the descriptors that the pool was given as `start_files`; none after the first call. The caller owns
        them."""
    def start_data(self) -> bytes:
        """Returns the bytes that the pool was given as `start_data`."""
    def serve(self, fork: Callable[[], int], at_rest: Callable[[], object]) -> Worker | None:
        """Forks workers when the pool asks for them. Returns in each worker, and at the end, with None, in the
        template. That calls `at_rest()` once, when it has forked a worker and the pool has asked for nothing for a
        while."""

@final
class Worker:
    """This process as a worker."""

    def serve(self) -> None:
        """Runs jobs until the pool ends this worker."""

@final
class ThreadPool:
    """A pool of threads that call functions."""

    def __new__(
        cls,
        start: Callable[[WorkerThread], object],
        name: str,
        activity: Literal["waits", "computes"] | None,
        max_workers: int,
        queue_capacity: int,
        on_full: str,
        idle_timeout: float,
    ) -> ThreadPool:
        """Makes a pool. `start(worker)` is called for each new thread, which then calls `worker.run()`."""
    def submit(
        self,
        executor: object,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None,
    ) -> Any:
        """Submits a call of an executor that has this engine, in a copy of the caller's context. Returns a future of
        `concurrent.futures`, which has the job as `_job`. If the options limit the time of the run,
        `future._overrun(error)` is called when that has passed."""
    def run(
        self,
        executor: object,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None,
    ) -> Any:
        """Submits a call, as `submit` does. Returns a `JobFuture`, which the running loop ends."""
    def dispatch(
        self,
        executor: object,
        receiver: object,
        event_loop: object | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None,
    ) -> Job:
        """Submits a call, as `submit` does. `receiver` learns of its end on the event loop, or on the results thread if that
        is None."""
    def close(self) -> None:
        """Takes no more calls. Accepted ones still run. Does not block."""
    def cancel_queued(self) -> None:
        """Ends the queued calls as cancelled. Does not block."""
    def abandon(self) -> None:
        """Closes the pool, cancels queued calls and asks running ones to stop. Does not block."""
    def shutdown(
        self, drain: float | None
    ) -> tuple[int, int, int, list[tuple[str, str, float]]]:
        """Takes no more calls, waits for accepted ones for `drain` seconds (None: forever), then cancels queued calls and
        asks running ones to stop. Returns the same as that of a process pool."""
    def set_max_workers(self, workers: int) -> None:
        """Sets the largest number of threads. Does not block."""
    def metrics(self) -> Metrics:
        """Returns the pool's metrics."""
    def queued(self) -> int:
        """Returns the number of calls that wait for a thread."""

@final
class WorkerThread:
    """The engine's side of one thread of a pool."""

    def run(self) -> None:
        """Runs calls on this thread until the pool ends the thread."""
    def break_with(self, make: Callable[[], BaseException], /) -> None:
        """Ends all calls that have not begun, and all later ones, with the exception that `make()` returns."""
    @property
    def function(self) -> Callable[..., Any] | None:
        """The function that the thread is calling."""

@final
class SubmittedCall:
    """A submitted call, as its future knows it."""

    def cancel_queued(self) -> None:
        """Removes the call from the queue, if it is there."""
    def error(self) -> BaseException | None:
        """Returns the reason for which the call ended without being run, or while it ran."""
    def is_forked(self) -> bool:
        """Returns whether this is a child made by fork(), and the call is its parent's."""

def blocking(function: Callable[..., T], /, *args: Any) -> T:
    """Calls `function(*args)`, which waits. If this is a pool's thread, another takes its place meanwhile."""

def run_command(arguments: list[str], /) -> int:
    """Runs a command line of `offloop`, whose first word is the program's name, and returns the exit code. Blocks until
    the command is done."""

def present_cores() -> int:
    """Returns the number of cores that this process may use, by the affinity of its main thread and the quota of its
    cgroup. May wait for a thread that it starts."""

def run_delay() -> float:
    """Returns the seconds for which this thread could have run but had no core; 0 if the system does not report it."""

def is_cancelled() -> bool:
    """Returns whether the job that runs on this thread should stop."""

def request() -> str | None:
    """Returns the id of the request that the job on this thread works for; None if there is none, or no job."""

@final
class CancelGuard:
    """A callback that is armed until this is dropped or disarmed."""

    def disarm(self) -> None:
        """Ensures that the callback is not called from now on. A call that has begun goes on."""

def on_cancel(callback: Callable[[], object], /) -> CancelGuard:
    """Calls `callback()` on a thread of its own when the job that runs on this thread should stop."""

@final
class Metrics:
    """The metrics of one pool, at one moment. Counts begin when the pool is made."""

    @property
    def pool(self) -> str:
        """The pool's name."""
    @property
    def kind(self) -> Literal["threads", "processes"]:
        """The kind of its workers."""
    @property
    def outcomes(self) -> dict[str, int]:
        """The number of jobs by their end: "completed", "failed" (it raised), "panicked" (a bug of ours),
        "cancelled", "queue_timeout", "run_timeout", "rejected", "shed", "crashed" (its worker died)."""
    @property
    def queue_wait(self) -> Histogram:
        """The times for which jobs waited for a worker."""
    @property
    def run_time(self) -> Histogram:
        """The times for which jobs ran."""
    @property
    def gil_wait(self) -> Histogram | None:
        """The times for which threads waited for the interpreter's lock before they ran calls; None for processes."""
    @property
    def queued(self) -> int:
        """The number of jobs that wait for a worker."""
    @property
    def running(self) -> int:
        """The number of jobs that run."""
    @property
    def workers(self) -> dict[str, int]:
        """The number of workers that are "busy" and "idle"; threads also "blocked" (their job waits for another one),
        processes also "starting" and "leaving"."""
    @property
    def restarts(self) -> dict[str, int]:
        """The number of worker processes that were replaced because they "crashed", or for "job_ended" (it was cancelled
        or out of time), "max_rss", "max_tasks_per_child", "max_worker_age", "protocol", "failed_start", "lost" (it could
        not be ended). Empty for threads."""
    @property
    def arena(self) -> dict[str, int] | None:
        """The bytes of shared memory that a process pool has for large payloads: "used", and "kept" for later ones."""
    @property
    def advice(self) -> list[Advice]:
        """The functions whose calls should run elsewhere."""
    def as_dict(self) -> dict[str, Any]:
        """Returns all metrics as plain values, times in seconds: for a log, or JSON."""

@final
class Histogram:
    """The distribution of recorded times, in seconds. The bounds of buckets double with every second one."""

    @property
    def count(self) -> int:
        """The number of recorded times."""
    @property
    def sum(self) -> float:
        """Their sum."""
    @property
    def mean(self) -> float | None:
        """Their mean; None if there are none."""
    def quantile(self, share: float) -> float | None:
        """Returns the time that this share of them, from 0 to 1, does not exceed: 0.5 is the median. None if there are
        none. The error is at most a half."""
    def buckets(self) -> list[tuple[float, int]]:
        """Returns the upper bounds, and the number of times below each. The last bound is infinite."""

@final
class Advice:
    """A function whose calls should run elsewhere. `str()` of it is a sentence that says where."""

    @property
    def pool(self) -> str:
        """The pool on which the calls run."""
    @property
    def task(self) -> str:
        """The name of the function."""
    @property
    def activity(self) -> Literal["computes", "waits"]:
        """The activity that does not fit the pool."""
    @property
    def jobs(self) -> int:
        """The number of calls that were measured. Calls below 2 ms are not."""
    @property
    def ran(self) -> float:
        """The seconds for which they ran, without those in which other threads had the cores."""
    @property
    def on_core(self) -> float:
        """The seconds of these in which they were on a core."""

def metrics() -> list[Metrics]:
    """Returns the metrics of all pools of this program that have not ended."""

def prometheus(metrics: list[Metrics] | None = None) -> str:
    """Returns metrics in Prometheus' text format, to be served as `text/plain; version=0.0.4`. Without an argument
    those of all pools, and of the loops that are watched. Pools of the same name and kind are added up."""

@final
class StallEvent:
    """An event that a monitor has noticed about a loop."""

    @property
    def key(self) -> int:
        """The key of the loop's pulse."""
    @property
    def stall(self) -> int:
        """The number of the stall, another one for each of the loop."""
    @property
    def kind(self) -> Literal["stalled", "still", "over", "starved"]:
        """The loop stands still, still does so, goes on, or goes on after it was late for want of a core."""
    @property
    def seconds(self) -> float:
        """The seconds by which the beat is late, or came late. Those without a core are not counted, except in
        "starved"."""
    @property
    def starved(self) -> float:
        """The seconds since the last beat in which the loop's thread could have run but had no core."""
    @property
    def activity(self) -> Literal["computes", "waits"]:
        """The activity of the loop's thread since the last beat."""
    @property
    def stack(self) -> list[StackFrame] | None:
        """The stack of the loop's thread, the outermost frame first, if it could be read."""
    @property
    def before(self) -> list[StackFrame] | None:
        """The stack at the look before, if there was one."""
    @property
    def apart(self) -> float:
        """The seconds between these two looks, without those in which the thread had no core."""
    @property
    def holder(self) -> tuple[int, list[StackFrame] | None] | None:
        """The id, in `threading`, of the thread that has the interpreter instead, and its stack."""

@final
class EventQueue:
    """The queue of the monitors' events, for the one thread that reports them."""

    def __new__(cls) -> EventQueue: ...
    def next(self, timeout: float, /) -> tuple[StallEvent | None, bool]:
        """Returns the next event, and whether there may be more; no event when the queue is closed, or after
        `timeout` seconds. Blocks."""
    def outside(self, text: str, /) -> None:
        """Marks that this thread runs the user's code until it asks for the next event. If that code does not return, a
        monitor writes `text` to standard error."""
    def flush(self, timeout: float, /) -> bool:
        """Waits until all events so far are handled, for at most `timeout` seconds. Returns whether they are."""
    def close(self) -> None:
        """Takes no more events. Those in the queue are still returned by `next`."""

@final
class Pulse:
    """A loop's beats, and the monitor thread that waits for them. Times in seconds."""

    def __new__(
        cls,
        events: EventQueue,
        key: int,
        threshold: float,
        grace: float,
        mute: float,
        stacks: Stacks | None,
        name: str,
        kind: str,
    ) -> Pulse: ...
    def stalled_at(
        self,
        stall: int,
        function: str,
        file: str,
        line: int,
        cause: Literal["computes", "waits"],
        advice: str,
        seconds: float,
        /,
    ) -> None:
        """Counts a stall at a place, for the live view, in place of what was counted for the same stall before. `stall` is
        the number of its events."""
    def beat(self) -> None:
        """Reports that the loop comes round, on this thread. Does not block."""
    def pause(self) -> None:
        """Expects no beats until the next one: the loop does not run."""
    @property
    def interval(self) -> float:
        """The time between two beats."""
    def age(self) -> float | None:
        """Returns the time since the last beat; None while paused."""
    def silence(self) -> float:
        """Returns the length of the last silence that was longer than the threshold; 0 if there was none."""
    @property
    def thread(self) -> int:
        """The id of the thread that beats, as `threading` has it."""
    def computes_detached(self) -> bool:
        """Returns whether the loop's thread computes while this one has the interpreter. Blocks for a millisecond,
        and does not release the interpreter."""
    def stop(self) -> None:
        """Ends the monitor thread. Blocks while it handles an event."""

@final
class StackFrame:
    """One frame of a stack that was read."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int:
        """The line, or the first line of the function if it is at no line."""
    @property
    def name(self) -> str: ...
    @property
    def qualname(self) -> str: ...
    @property
    def first_line(self) -> int: ...
    @property
    def flags(self) -> int:
        """The flags of the code object."""
    @property
    def span(self) -> tuple[int, int, int, int] | None:
        """The expression: its first and last line, and the columns of its begin and after its end."""
    @property
    def call(self) -> tuple[int, int, int]:
        """Numbers that tell this call from another call of the same function."""

@final
class Stacks:
    """Reads the stacks of this process's threads."""

    def __new__(cls) -> Stacks:
        """Finds out where the interpreter has its frames. Raises `RuntimeError` if that is not known."""
    def take(self, ident: int, /) -> list[StackFrame] | None:
        """Returns the stack of a thread by its id in `threading`, the outermost frame first; None if it cannot be read.
        Blocks for microseconds."""

def prepare_view(service: str, package: str, stacks: Stacks | None, /) -> None:
    """Makes this process ready to be looked at. `service` is its name, unless the environment has another one; `package` is
    the directory of this package. The first call counts."""

def observe() -> str:
    """Returns the state of this process as JSON."""

def observe_from_environment() -> None:
    """Opens the live view that the environment variable asks for."""

@final
class ObserveServer:
    """A server of the live view."""

    def __new__(
        cls, service: str | None, http: str | None, token: str | None, allow_cancel: bool, /
    ) -> ObserveServer:
        """Starts a server on the private socket, and on an address if one is given."""
    @property
    def socket_path(self) -> str | None:
        """The path of the socket."""
    @property
    def http_address(self) -> str | None:
        """The address of HTTP."""
    def close(self) -> None:
        """Ends the server."""

@final
class ObserveHandler:
    """The routes of the live view, for a program that has a web server of its own."""

    def __new__(cls, token: str | None, allow_cancel: bool, /) -> ObserveHandler: ...
    def handle(
        self,
        method: str,
        path: str,
        query: str,
        headers: Sequence[tuple[str, bytes]],
        peer: str | None,
        /,
    ) -> tuple[int, list[tuple[str, str]], bytes] | ObserveEvents:
        """Answers a request. `path` is that below the place of the view, `peer` the address of the client. Blocks, for
        some seconds at most."""

@final
class ObserveEvents:
    """Events of the live view, for one client."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the response."""
    @property
    def interval(self) -> float:
        """The seconds between two events."""
    def next(self) -> bytes:
        """Makes the next event, as it is to be sent. Blocks for about half a second at most."""

@final
class Cluster:
    """An executor on a cluster."""

    def __new__(cls, url: str, settings: dict[str, Any]) -> Cluster:
        """Opens an executor. The settings have their public names. Does not wait for the server."""
    def submit(
        self,
        task: str,
        arguments: bytes,
        pickle: str | None,
        receiver: Any,
        mailbox: Mailbox | None,
        name: str,
        options: CallOptions | None,
        request: object,
        buffersize: int | None,
    ) -> tuple[Job, str | None]:
        """Submits a call. `receiver` learns of its end; a result is bytes, as they came. With `pickle`, a Python version,
        the arguments are a pickled call. With a `buffersize` the receiver learns of items as well, which are bytes, too; if
        this number of items waits to be read, the job waits. Returns the job, and its id in the cluster."""
    def attach(self, remote_id: str, receiver: Any, mailbox: Mailbox | None) -> Job:
        """Returns a job that was submitted before."""
    def workers(self) -> list[tuple[str, str]]:
        """Returns the names of the workers that are there, with their machines."""
    def metrics(self) -> Metrics:
        """Returns the executor's metrics."""
    def queued(self) -> int:
        """Returns the number of jobs that wait."""
    def running(self) -> int:
        """Returns the number of jobs that run."""
    def cancel_queued(self) -> int:
        """Cancels the jobs that no worker has. Returns their number."""
    def close(self) -> None:
        """Takes no more jobs. Does not wait for accepted ones."""
    def shutdown(self, drain: float | None) -> tuple[int, int, int, list[tuple[str, str, float]]]:
        """Takes no more jobs, waits for accepted ones for `drain` seconds (None: forever), then cancels and kills."""

@final
class ClusterWorker:
    """A worker of a cluster."""

    def __new__(
        cls, url: str, pool: ProcessPool, tasks: set[str], python: str, settings: dict[str, Any]
    ) -> ClusterWorker:
        """Starts a worker that runs jobs in `pool`: these tasks, and pickled calls of this Python version if it trusts
        who has signed them. Does not wait for the server."""
    @property
    def id(self) -> str:
        """The worker's id."""
    def drain(self) -> None:
        """Takes no more jobs, and ends when those that run have ended or their time is over. Does not wait for it."""
    def stop(self) -> None:
        """Ends now. Jobs that run are killed, and started elsewhere if they have a start left. Does not wait for it."""
    def wait(self) -> list[str]:
        """Waits until the worker has ended. Returns the ids of the jobs that it could not let go of."""
    def metrics(self) -> dict[str, int]:
        """Returns what the worker has done since it was started."""

@final
class EmbeddedServer:
    """A NATS server that belongs to this program and ends with it."""

    def __new__(cls, program: str | None) -> EmbeddedServer:
        """Starts a server, and waits until it is ready. Raises OSError if there is no program."""
    @property
    def url(self) -> str | None:
        """The server's URL, with the password; None after `stop`."""
    @property
    def directory(self) -> str | None:
        """The server's directory, which only this user may read; None after `stop`."""
    @property
    def pid(self) -> int | None:
        """The server's process id; None after `stop`."""
    def stop(self) -> None:
        """Ends the server, within some seconds. Does nothing at the second call."""

def generate_key() -> tuple[str, str]:
    """Makes a secret key. Returns it and its public half, as texts."""

def public_key(secret: str, /) -> str:
    """Returns the public half of a secret key. Raises ValueError if it is none."""

def encode_plain(value: object, /) -> bytes:
    """Returns one plain value in MessagePack. Raises TypeError, OverflowError or ValueError for others."""

def encode_plain_arguments(arguments: tuple[object, ...], /) -> bytes:
    """Returns the arguments of a call in MessagePack, one after the other."""

def decode_plain(data: bytes, /) -> Any:
    """Returns the value that these bytes hold. Raises ValueError if they are something else."""

def decode_plain_arguments(data: bytes, /) -> tuple[Any, ...]:
    """Returns the arguments that these bytes hold, one after the other."""

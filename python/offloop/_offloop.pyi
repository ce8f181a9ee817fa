"""The engine."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, final

from typing_extensions import Buffer

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
    ) -> Job:
        """Submits a pickled call. Its end is told to `receiver`."""
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

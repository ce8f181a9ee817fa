"""The engine."""

from typing import Literal, final

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

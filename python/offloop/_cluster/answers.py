"""The ends of a cluster's jobs, on their way to the futures."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any, TypeVar, final

from .. import _offloop
from .._offloop import Job
from .._cluster_errors import NotTrusted
from .._pools.loop import JobFuture
from .._pools.process_future import ProcessFuture
from .._worker import cluster, pickling, remote_errors
from .._worker.replies import RESULT

R = TypeVar("R")


class ClusterFuture(ProcessFuture[R]):
    """The future of a job in a cluster. Cancelling it removes queued work, and kills the process that runs the job."""

    remote_id: str | None = None
    """The job's id in the cluster, for `attach`. None if the job was not submitted."""


class ClusterJobFuture(JobFuture[R]):
    """The same, to be awaited."""

    remote_id: str | None = None
    """The job's id in the cluster, for `attach`. None if the job was not submitted."""


def open_answer(data: bytes, accepts_pickles: bool, what: str = "the result") -> Any:
    """Returns the result in an answer, or raises its exception. Unpickles nothing unless that is accepted.

    An executor that accepts pickles trusts some keys, and gets no end and no item that none of them has signed. `what`
    stands in messages.
    """
    if data[:1] != bytes((cluster.MARK,)):
        return _offloop.decode_plain(data)
    if not accepts_pickles:
        raise NotTrusted(
            f"{what} came as a pickle, and this executor accepts none: make it with accept='pickle', a key and the "
            "workers' keys in `trust`, or let the function return plain data"
        )
    # In memory that arrays may share and change.
    code, body, buffers = cluster.unpack(bytearray(data))
    if code == RESULT:
        return pickling.loads(body, buffers)
    raise remote_errors.unpack(bytes(body))


@final
class StreamedJob:
    """The job of a generator in a cluster, with the methods of the job of one in a process."""

    __slots__ = ("_accepts_pickles", "_job")

    def __init__(self, job: Job, accepts_pickles: bool) -> None:
        self._job = job
        self._accepts_pickles = accepts_pickles

    def next_item(self) -> tuple[Any] | None:
        """Takes an item. Returns None if there is none. Does not block."""
        item = self._job.next_item()
        if item is None:
            return None
        try:
            # As with results: an executor that accepts pickles gets no item that no trusted key has signed.
            return (open_answer(item[0], self._accepts_pickles, "an item of the stream"),)
        except BaseException as error:
            raise remote_errors.without_own_frames(error) from None

    def cancel(self) -> None:
        """Ends the generator. Does not block."""
        self._job.cancel()


@final
class Opener:
    """Opens the answer of a job for its future, or for its stream."""

    __slots__ = ("_accepts_pickles", "_as_chunk", "_future")

    def __init__(self, future: Any, accepts_pickles: bool, as_chunk: bool) -> None:
        self._future = future
        self._accepts_pickles = accepts_pickles
        self._as_chunk = as_chunk
        """The result is that of a map's only item, and the map wants a list."""

    def _arrive(self, data: bytes) -> None:
        try:
            value = open_answer(data, self._accepts_pickles)
        except BaseException as error:
            self._future._raise(remote_errors.without_own_frames(error))
        else:
            self._future._arrive([value] if self._as_chunk else value)

    def _raise(self, error: BaseException) -> None:
        self._future._raise(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, remote_errors.RemoteError):
            # An exception of the function itself.
            self._future._raise(error)
        else:
            self._future._fail(error)

    def _wake(self) -> None:
        self._future._wake()

    def _accept(self) -> None:
        accept = getattr(self._future, "_accept", None)
        if accept is not None:
            accept()

"""The middleware for ASGI applications, spoken to as a server does. `test_web_servers.py` has real servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support import jobs

import offloop
from offloop.asgi import OffloopMiddleware

Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


class Client:
    """One request, as a server passes it to an application."""

    def __init__(self, method: str = "GET", path: str = "/", headers: Any = (), **scope: Any) -> None:
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": list(headers),
            **scope,
        }
        self.sent: list[Message] = []
        self.received = 0
        """The number of calls of `receive`."""
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._reading = False

    def body(self, *parts: bytes) -> None:
        for number, part in enumerate(parts, 1):
            self.message({"type": "http.request", "body": part, "more_body": number < len(parts)})

    def message(self, message: Message) -> None:
        self._queue.put_nowait(message)

    def disconnect(self) -> None:
        self.message({"type": "http.disconnect"})

    async def receive(self) -> Message:
        assert not self._reading, "`receive` is called while another call has not returned"
        self._reading = True
        self.received += 1
        try:
            message = await self._queue.get()
        finally:
            self._reading = False
        if message["type"] == "http.disconnect":
            self.disconnect()
        return message

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            # As servers do at the end of a response.
            self.disconnect()
            await asyncio.sleep(0)

    async def call(self, app: App) -> None:
        await app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent[1:]).decode()


async def respond(send: Any, text: str = "done") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(jobs.HANG):
        while not condition():
            await asyncio.sleep(0.005)


def raises(error: BaseException) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    return app


# Disconnects


def test_the_job_in_a_process_is_killed_when_its_client_disconnects(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await pool.run(jobs.hang, tmp_path / "pid")
        await respond(send)

    async def main() -> None:
        client = Client()
        client.body(b"")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        await until(lambda: (tmp_path / "pid").exists())
        assert not request.done()
        client.disconnect()
        await request
        # For the middlewares around this one; the client does not see it.
        assert client.status == 499
        pid = int((tmp_path / "pid").read_text())
        await until(lambda: jobs.is_gone(pid))

    with offloop.ProcessPoolExecutor(1) as pool:
        asyncio.run(main())
    assert pool.metrics().outcomes["cancelled"] == 1


def test_the_job_in_a_thread_is_asked_to_stop_when_its_client_disconnects() -> None:
    has_begun, has_stopped = threading.Event(), threading.Event()

    def work() -> None:
        has_begun.set()
        jobs.until(offloop.is_cancelled)
        has_stopped.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await offloop.run(work)

    async def main() -> None:
        client = Client()
        client.body(b"")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        await until(has_begun.is_set)
        client.disconnect()
        await request
        await until(has_stopped.is_set)

    asyncio.run(main())


def test_a_queued_job_never_runs_after_its_client_has_disconnected() -> None:
    release = threading.Event()
    ran: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await pool.run(ran.append, scope["path"])

    async def main() -> None:
        blocker = pool.run(release.wait)
        client = Client()
        client.body(b"")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        await until(lambda: pool.metrics().queued)
        client.disconnect()
        await request
        release.set()
        await blocker

    with offloop.ThreadPoolExecutor(1) as pool:
        asyncio.run(main())
    assert ran == []


def test_a_stream_is_ended_in_its_middle() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await asyncio.sleep(0.01)
        finally:
            ended.append("stream")

    async def main() -> None:
        client = Client()
        client.body(b"")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        await until(lambda: len(client.sent) > 10)
        client.disconnect()
        await request
        assert client.status == 200 and {m["type"] for m in client.sent[1:]} == {"http.response.body"}

    asyncio.run(main())
    assert ended == ["stream"]


def test_what_runs_after_the_response_is_not_cancelled() -> None:
    ran: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)  # long enough to be watched
        await respond(send)
        await asyncio.sleep(0.1)
        ran.append("background")

    async def main() -> None:
        client = Client()
        client.body(b"")
        await client.call(OffloopMiddleware(app))
        assert client.text == "done"

    asyncio.run(main())
    assert ran == ["background"]


def test_a_body_reaches_the_application_whole_however_late_it_reads() -> None:
    parts = [bytes([n]) * 10_000 for n in range(40)]

    def reads_after(pause: float) -> App:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            read = b""
            while True:
                await asyncio.sleep(pause)
                message = await receive()
                read += message["body"]
                if not message["more_body"]:
                    break
            await respond(send, str(read == b"".join(parts)))

        return app

    async def main(pause: float) -> None:
        client = Client("POST")
        client.body(*parts)
        request = asyncio.create_task(client.call(OffloopMiddleware(reads_after(pause))))
        await request
        assert client.text == "True"

    asyncio.run(main(0.0))
    asyncio.run(main(0.01))


def test_a_body_that_comes_slowly_reaches_the_application_whole() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        read = []
        while True:
            message = await receive()
            read.append(message["body"])
            if not message["more_body"]:
                break
            await asyncio.sleep(0.001 * (len(read) % 7))
        await respond(send, str(read == [b"%d" % n for n in range(60)]))

    async def main() -> None:
        client = Client("POST")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        for n in range(60):
            client.message({"type": "http.request", "body": b"%d" % n, "more_body": n < 59})
            await asyncio.sleep(0.001 * (n % 5))
        await request
        assert client.text == "True"

    asyncio.run(main())


def test_only_a_bounded_part_of_an_unread_body_is_read() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.3)
        await respond(send)

    async def main(body: bytes) -> None:
        client = Client("POST")
        client.body(*[body] * 1000)
        await client.call(OffloopMiddleware(app))
        assert 0 < client.received <= 65

    asyncio.run(main(b"x" * 10_000))
    asyncio.run(main(b""))


def test_a_client_that_expects_100_continue_is_not_asked_for_a_body_the_application_does_not_read() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await respond(send)

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(60)

    async def main() -> None:
        client = Client("POST", headers=[(b"expect", b"100-continue")])
        await client.call(OffloopMiddleware(refuses))
        assert client.received == 0

        client = Client("POST", headers=[(b"expect", b"100-continue")])
        request = asyncio.create_task(client.call(OffloopMiddleware(reads)))
        client.body(b"")
        await until(lambda: client.received == 2)
        client.disconnect()
        await request

    asyncio.run(main())


def test_an_application_that_waits_for_the_disconnect_gets_it_and_is_not_cancelled() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(pause)
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.sleep(0.1)
        await respond(send)

    async def main() -> None:
        client = Client()
        client.body(b"")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        await asyncio.sleep(0.4)
        client.disconnect()
        await request
        assert client.text == "done"

    for pause in (0, 0.2):  # before the watch begins, and after that
        asyncio.run(main())


def test_a_call_of_receive_that_is_cancelled_loses_no_message() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(pause)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(receive(), 0.05)
        first.set()
        assert (await receive())["body"] == b"all"
        await respond(send)

    async def main() -> None:
        global first
        first = asyncio.Event()
        client = Client("POST")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        await first.wait()
        client.body(b"all")
        await request
        assert client.text == "done"

    for pause in (0, 0.2):
        asyncio.run(main())


def test_a_short_request_is_left_to_the_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)

    async def main() -> None:
        client = Client()
        await client.call(OffloopMiddleware(app))
        assert client.received == 0 and len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_cancelling_can_be_left_out_for_some_requests() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.3)
        await respond(send)

    async def main(method: str) -> int:
        client = Client(method)
        client.body(b"")
        client.disconnect()
        await client.call(middleware)
        return client.status

    middleware = OffloopMiddleware(app, cancel_on_disconnect=lambda scope: scope["method"] == "GET")
    assert asyncio.run(main("GET")) == 499
    assert asyncio.run(main("POST")) == 200
    middleware = OffloopMiddleware(app, cancel_on_disconnect=False)
    assert asyncio.run(main("GET")) == 200


def test_a_cancel_by_the_server_is_not_swallowed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
            await asyncio.sleep(60 if disconnects else 0)

    async def main() -> None:
        client = Client()
        client.body(b"")
        request = asyncio.create_task(client.call(OffloopMiddleware(app)))
        await until(lambda: client.received == 2)
        if disconnects:
            client.disconnect()
            await until(cancelled.is_set)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert client.sent == []

    for disconnects in (False, True):
        cancelled = threading.Event()
        asyncio.run(main())


def test_a_handler_may_clean_up_when_it_is_cancelled() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(scope["path"])

    async def main() -> None:
        client = Client()
        client.body(b"")
        client.disconnect()
        await client.call(OffloopMiddleware(app))
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0
        await asyncio.sleep(0)

    cleaned: list[str] = []
    asyncio.run(main())
    assert cleaned == ["/"]


# Errors


def test_errors_of_pools_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def main(error: Exception) -> Client:
        client = Client(path="/a\nb")
        await client.call(OffloopMiddleware(raises(error), retry_after=7))
        return client

    for error in (offloop.QueueFull("the secret"), offloop.JobShed("the secret")):
        client = asyncio.run(main(error))
        assert (client.status, client.headers[b"retry-after"]) == (503, b"7")
        assert client.text == "Service Unavailable\n"
    for error in (offloop.RunTimeout("the secret"), offloop.QueueTimeout("the secret")):
        client = asyncio.run(main(error))
        assert client.status == 504 and b"retry-after" not in client.headers
        assert client.text == "Gateway Timeout\n"
    messages = [record.getMessage() for record in caplog.records if record.name == "offloop.web"]
    assert messages[0] == r"503 for GET '/a\nb': QueueFull: the secret"
    assert len(messages) == 4


def test_the_errors_that_pools_raise_are_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await pool.options(timeout=0.1).run(time.sleep, 60)

    async def main() -> None:
        client = Client()
        await client.call(OffloopMiddleware(app))
        assert client.status == 504

    with offloop.ProcessPoolExecutor(1) as pool:
        asyncio.run(main())


def test_with_debug_the_body_has_the_message_and_the_log_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        client = Client()
        await client.call(OffloopMiddleware(raises(offloop.QueueFull("the reason")), debug=True))
        assert client.text == "Service Unavailable\nQueueFull: the reason\n"

    with caplog.at_level(logging.DEBUG, "offloop.web"):
        asyncio.run(main())
    [record] = [record for record in caplog.records if record.name == "offloop.web"]
    assert record.exc_info


def test_other_errors_and_statuses_of_the_users_choice() -> None:
    async def main(error: Exception, **options: Any) -> int:
        client = Client()
        await client.call(OffloopMiddleware(raises(error), **options))
        return client.status

    for error in (ValueError(), TimeoutError(), offloop.PoolClosed(), offloop.WorkerDied()):
        with pytest.raises(type(error)):
            asyncio.run(main(error))
    with pytest.raises(offloop.QueueFull):
        asyncio.run(main(offloop.QueueFull(), statuses={}))
    assert asyncio.run(main(offloop.WorkerDied(), statuses={offloop.OffloopError: 502})) == 502


def test_a_group_is_answered_if_all_its_errors_are() -> None:
    async def main(*errors: Exception) -> int:
        group = ExceptionGroup("", [errors[0], ExceptionGroup("", list(errors))])
        client = Client()
        await client.call(OffloopMiddleware(raises(group)))
        return client.status

    assert asyncio.run(main(offloop.QueueFull(), offloop.RunTimeout())) == 503
    with pytest.raises(ExceptionGroup):
        asyncio.run(main(offloop.QueueFull(), ValueError()))


def test_an_error_after_the_response_has_begun_is_raised() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise offloop.RunTimeout("late")

    async def main() -> None:
        client = Client()
        with pytest.raises(offloop.RunTimeout):
            await client.call(OffloopMiddleware(app))
        assert len(client.sent) == 1

    asyncio.run(main())


# Metrics


def test_metrics_are_served_where_they_are_wanted_only() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, "the application")

    async def main(middleware: App, method: str, path: str, root_path: str = "") -> Client:
        client = Client(method, path, root_path=root_path)
        await client.call(middleware)
        return client

    with offloop.ThreadPoolExecutor(1, thread_name_prefix="reports") as pool:
        pool.submit(int).result()
        middleware = OffloopMiddleware(app, metrics_path="/metrics")
        for root_path in ("", "/api"):
            client = asyncio.run(main(middleware, "GET", root_path + "/metrics", root_path))
            assert client.headers[b"content-type"] == b"text/plain; version=0.0.4; charset=utf-8"
            assert 'pool="reports"' in client.text
        assert asyncio.run(main(middleware, "HEAD", "/metrics")).status == 200
        client = asyncio.run(main(middleware, "POST", "/metrics"))
        assert (client.status, client.headers[b"allow"]) == (405, b"GET, HEAD")
        assert asyncio.run(main(middleware, "GET", "/metrics/x")).text == "the application"
        assert asyncio.run(main(OffloopMiddleware(app), "GET", "/metrics")).text == "the application"
    with pytest.raises(ValueError, match="it must begin with a slash"):
        OffloopMiddleware(app, metrics_path="metrics")


# The lifespan


class Lifespan(Client):
    """A server's side of the lifespan."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = {"type": "lifespan"}

    async def of(self, app: App) -> None:
        running = asyncio.create_task(self.call(app))
        self.message({"type": "lifespan.startup"})
        await until(lambda: self.sent)
        self.message({"type": "lifespan.shutdown"})
        await running
        assert self.kinds == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.sent]


async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await send({"type": "lifespan.shutdown.complete"})


async def reports_cancels(scope: Any, receive: Any, send: Any) -> None:
    try:
        await with_lifespan(scope, receive, send)
    except asyncio.CancelledError:
        await send({"type": "lifespan.shutdown.failed", "message": "cancelled"})
        raise


async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError("only HTTP")


APPS = pytest.mark.parametrize("app", [with_lifespan, without_lifespan])


@APPS
def test_jobs_are_drained_between_the_ends_of_the_application_and_of_the_server(
    app: App, tmp_path: Path
) -> None:
    pool = offloop.ThreadPoolExecutor(1)

    async def main() -> None:
        middleware = OffloopMiddleware(app, drain=None, pools=[pool])
        futures = [
            offloop.run_cpu(time.sleep, 0.5),
            offloop.run(time.sleep, 0.5),
            pool.submit(time.sleep, 0.5),
        ]
        await Lifespan().of(middleware)
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError):
            pool.submit(int)
        # The shared pools come back.
        assert await offloop.run_cpu(int) == await offloop.run(int) == 0
        await Lifespan().of(OffloopMiddleware(app))

    asyncio.run(main())


def test_jobs_that_do_not_end_in_time_are_cancelled(tmp_path: Path) -> None:
    release = threading.Event()

    async def main() -> None:
        in_process = offloop.run_cpu(jobs.hang, tmp_path / "pid")
        in_thread = offloop.run(release.wait)
        await until(lambda: (tmp_path / "pid").exists())
        await Lifespan().of(OffloopMiddleware(with_lifespan, drain=0.2))
        assert jobs.is_gone(int((tmp_path / "pid").read_text()))
        for future in (in_process, in_thread):
            with pytest.raises(asyncio.CancelledError):
                await future
        release.set()

    asyncio.run(main())


@pytest.mark.parametrize("app", [with_lifespan, reports_cancels, without_lifespan])
def test_nothing_is_awaited_if_the_server_cancels_the_lifespan(app: App, tmp_path: Path) -> None:
    async def main() -> None:
        running = offloop.run_cpu(jobs.hang, tmp_path / "pid")
        await until(lambda: (tmp_path / "pid").exists())
        lifespan = Lifespan()
        lifespan.message({"type": "lifespan.startup"})
        life = asyncio.create_task(lifespan.call(OffloopMiddleware(app, drain=None)))
        await until(lambda: lifespan.sent)
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life
        assert jobs.is_gone(int((tmp_path / "pid").read_text()))
        running.cancel()

    asyncio.run(main())


def test_a_failure_of_the_applications_start_is_the_servers_business() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ValueError("no database")

    async def main() -> None:
        lifespan = Lifespan()
        lifespan.message({"type": "lifespan.startup"})
        with pytest.raises(ValueError, match="no database"):
            await lifespan.call(OffloopMiddleware(fails))
        assert lifespan.kinds == []

    asyncio.run(main())


# Other kinds of connections


def test_websockets_are_passed_through() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append((scope, receive, send))

    async def main() -> None:
        given = {"type": "websocket"}, client.receive, client.send
        await OffloopMiddleware(app)(*given)
        assert passed == [given]

    passed: list[Any] = []
    client = Client()
    asyncio.run(main())

"""The live view of one process: what a snapshot has, and who gets it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import uvloop
from support import jobs, scripts, view

import offloop
from offloop import ProcessPoolExecutor, ThreadPoolExecutor
from offloop._observe import document, program


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[view.Sockets]:
    """Sockets of this test alone."""
    with view.sockets() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


# The document


def faults(value: Any, expected: Any, at: str) -> Iterator[str]:
    """Yields where a value is not of a type."""
    origin = get_origin(expected)
    if is_typeddict(expected) and isinstance(value, dict):
        hints = get_type_hints(expected)
        if value.keys() != hints.keys():
            yield f"{at} has {value.keys() ^ hints.keys()} too much or too little"
        for name in value.keys() & hints.keys():
            yield from faults(value[name], hints[name], f"{at}.{name}")
    elif is_typeddict(expected):
        yield f"{at} is {value!r}, not {expected}"
    elif origin in (Union, types.UnionType):
        if all(list(faults(value, each, at)) for each in get_args(expected)):
            yield f"{at} is {value!r}, not {expected}"
    elif origin is list:
        for index, item in enumerate(value):
            yield from faults(item, get_args(expected)[0], f"{at}[{index}]")
    elif origin is dict:
        for name, item in value.items():
            yield from faults(item, get_args(expected)[1], f"{at}[{name}]")
    elif origin is Literal:
        if value not in get_args(expected):
            yield f"{at} is {value!r}, not {expected}"
    elif not isinstance(value, (int, float) if expected is float else expected) or (
        isinstance(value, bool) and expected is not bool
    ):
        yield f"{at} is {value!r}, not {expected}"


def test_a_snapshot_has_the_types_that_it_is_declared_with(tmp_path: Path) -> None:
    async def main() -> None:
        offloop.observe()
        with ProcessPoolExecutor(2, name="work") as processes, ThreadPoolExecutor(1, "wait") as threads:
            with pytest.raises(offloop.WorkerDied):
                await processes.run(os._exit, 3)
            held = processes.run(jobs.hold, tmp_path / "process", tmp_path / "gate")
            waiting = threads.run(jobs.hold, tmp_path / "thread", tmp_path / "gate")
            await asyncio.to_thread(jobs.wait_for, tmp_path / "process")
            await asyncio.to_thread(jobs.wait_for, tmp_path / "thread")
            await asyncio.sleep(0.05)
            time.sleep(0.4)  # a stall
            await asyncio.sleep(0.1)
            snapshot = offloop.observe()
            assert list(faults(snapshot, document.Snapshot, "snapshot")) == []
            assert {"work", "wait"} <= {pool["name"] for pool in snapshot["pools"]}
            [death] = [death for death in snapshot["deaths"] if death["pool"] == "work"]
            assert "3" in death["how"]
            assert snapshot["process"]["pid"] == os.getpid()
            assert snapshot["process"]["language"] == "python"
            [loop] = [loop for loop in snapshot["loops"] if loop["stalls"]]
            assert loop["kind"] == "asyncio" and loop["stalled"] > 0.1
            place = loop["places"][0]
            assert place["file"] == __file__ and "main" in place["function"] and place["stalls"] == 1
            assert place["advice"] is not None and "offloop.run(time.sleep, 0.4)" in place["advice"]
            (tmp_path / "gate").touch()
            await held
            await waiting

    asyncio.run(main())


def test_a_job_that_runs_shows_its_function_its_request_and_its_time_left(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    offloop.observe()
    with ProcessPoolExecutor(1) as processes, ThreadPoolExecutor(1) as threads:
        calls = [
            processes.options(timeout=60, request="r-1").submit(jobs.hold, tmp_path / "1", gate),
            threads.options(timeout=60, request="r-2").submit(jobs.hold, tmp_path / "2", gate),
        ]
        jobs.wait_for(tmp_path / "1")
        jobs.wait_for(tmp_path / "2")
        in_process, in_thread = sorted(view.running_jobs(offloop.observe()), key=lambda job: job["request"])
        for job in (in_process, in_thread):
            assert job["name"].endswith("hold")
            assert 0 < job["time_left"] <= 60
            assert not job["is_cancelled"]
        assert (in_process["request"], in_thread["request"]) == ("r-1", "r-2")
        assert in_process["pid"] == int((tmp_path / "1").read_text()) and in_process["thread"] is None
        assert in_thread["pid"] is None
        assert in_thread["thread"] in {thread.native_id for thread in threading.enumerate()}
        gate.touch()
        for call in calls:
            call.result(60)


def test_a_call_that_began_before_anybody_looked_is_named_after_its_function(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    code = """
        import sys, threading
        import offloop

        began = threading.Event()

        def handle_order():
            began.set()
            sys.stdin.readline()

        with offloop.ThreadPoolExecutor(1) as pool:
            call = pool.submit(handle_order)
            began.wait()
            [job] = offloop.observe()["pools"][0]["jobs"]
            print(job["name"], flush=True)
    """
    with view.program(code, tmp_path, **sockets.environment) as running:
        assert view.line(running) == "handle_order"


# The ids of requests


def request_of_this_job(_: object = None) -> str | None:
    import logging

    logging.getLogger("test_observe").warning("from the job")
    return offloop.request_id.get()


@pytest.mark.parametrize("make", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_a_call_works_for_the_request_of_its_caller_or_of_its_options(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with make(1) as pool:
            assert await pool.run(request_of_this_job) is None
            token = offloop.request_id.set("of the caller")
            assert await pool.run(request_of_this_job) == "of the caller"
            assert await pool.options(request="its own").run(request_of_this_job) == "its own"
            assert pool.submit(request_of_this_job).result(60) == "of the caller"
            assert list(pool.map(request_of_this_job, [1, 2])) == ["of the caller"] * 2
            offloop.request_id.reset(token)
            assert await pool.run(request_of_this_job) is None

    asyncio.run(main())
    if make is ProcessPoolExecutor:
        requests = [getattr(record, "request", None) for record in caplog.records]
        assert requests == [None, "of the caller", "its own", *["of the caller"] * 3, None]


@pytest.mark.parametrize(("wrong", "error"), [("", ValueError), ("x" * 201, ValueError), (3, TypeError)])
def test_the_id_of_a_request_has_a_length(wrong: Any, error: type[Exception]) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(error, match="request"):
        pool.options(request=wrong)
    options = ThreadPoolExecutor(1).options(request="x" * 200)
    assert "request='xxx" in repr(options)


def test_a_context_variable_with_another_value_ends_no_call() -> None:
    with ThreadPoolExecutor(1) as pool:
        for value in (7, "x" * 1000, object()):
            token = offloop.request_id.set(value)  # type: ignore[arg-type]
            assert pool.submit(int).result(60) == 0
            offloop.request_id.reset(token)


# Looking from outside


STALLS = """
    import asyncio, re, sys
    import offloop

    async def main():
        await asyncio.sleep(0.2)
        print("begins", flush=True)
        re.match("(a|a)*b", "a" * 60)  # years, and it keeps the interpreter to itself

    asyncio.run(main())
"""


def test_a_loop_that_stands_still_and_keeps_the_interpreter_can_be_looked_at(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    with view.program(STALLS, tmp_path, OFFLOOP_OBSERVE="1", **sockets.environment) as running:
        assert view.line(running) == "begins"
        socket = sockets.of(running.pid)

        def is_late(snapshot: Any) -> bool:
            [loop] = snapshot["loops"]
            return loop["late_now"] > 0.5 and loop["places"]

        snapshot = view.until_seen(lambda: view.get(socket), is_late)
        [loop] = snapshot["loops"]
        assert loop["stalls"] == 1
        assert loop["places"][0]["file"].endswith("program.py") or "re" in loop["places"][0]["file"]
        # Again and again.
        later = view.get(socket)["loops"][0]["late_now"]
        assert later > loop["late_now"]


HOLDS = """
    import asyncio, os, sys, time
    import offloop

    def spin_in_process():
        while True:
            time.sleep(0.01)

    def spin_in_thread():
        while not offloop.is_cancelled():
            time.sleep(0.01)

    async def main():
        server = offloop.serve_observe({arguments})
        print(server.http_address, flush=True)
        pool = offloop.ProcessPoolExecutor(1)
        results = await asyncio.gather(
            pool.run(spin_in_process), offloop.run(spin_in_thread), return_exceptions=True
        )
        print([type(result).__name__ for result in results], flush=True)

    if __name__ == "__main__":
        asyncio.run(main())
"""


def holding(arguments: str) -> str:
    return HOLDS.replace("{arguments}", arguments)


def test_jobs_are_cancelled_from_outside_if_the_program_allows_it(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    code = holding("http='127.0.0.1:0', allow_cancel=True")
    with view.program(code, tmp_path, **sockets.environment) as running:
        address = view.line(running)
        found = view.until_seen(
            lambda: view.running_jobs(view.get(address)), lambda found: len(found) == 2, "two jobs"
        )
        for job in found:
            path = f"/jobs/{running.pid}/{job['id']}/cancel"
            # A form of another site cannot send the header.
            assert view.request(address, path, "POST")[0] == 403
            assert view.request(address, path, "POST", X_Offloop="1") == (202, {"cancelled": True})
        assert view.line(running) == "['CancelledError', 'CancelledError']"


def test_nobody_cancels_jobs_of_a_program_that_does_not_allow_it(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    with view.program(holding("http='127.0.0.1:0'"), tmp_path, **sockets.environment) as running:
        address = view.line(running)
        found = view.until_seen(lambda: view.running_jobs(view.get(address)), len, "jobs")
        path = f"/jobs/{running.pid}/{found[0]['id']}/cancel"
        status, answer = view.request(address, path, "POST", X_Offloop="1")
        assert status == 403 and "allow" in answer["error"]
        assert not view.get(address)["process"]["may_cancel"]


def test_the_stacks_of_jobs_in_threads_and_in_processes_can_be_read(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    with view.program(holding("http='127.0.0.1:0'"), tmp_path, **sockets.environment) as running:
        address = view.line(running)
        found = view.until_seen(
            lambda: view.running_jobs(view.get(address)), lambda found: len(found) == 2, "two jobs"
        )
        for job in found:
            function = "spin_in_thread" if job["pid"] is None else "spin_in_process"

            def look(path: str = f"/jobs/{running.pid}/{job['id']}/stack") -> Any:
                return view.get(address, path)

            # The worker may still be importing the program.
            stack = view.until_seen(
                look,
                lambda stack: [frame["function"] for frame in stack["frames"]] == [function],
                f"the stack of {function}",
            )
            assert stack["frames"][0]["file"] == str(tmp_path / "program.py")
            assert stack["frames"][0]["line"] > 5 and stack["note"] is None


def test_a_server_with_a_token_answers_only_those_who_have_it(sockets: view.Sockets) -> None:
    with offloop.serve_observe(http="127.0.0.1:0", token="secret") as server:
        assert server.http_address is not None and server.socket_path is not None
        assert view.request(server.http_address, "/snapshot")[0] == 401
        assert view.get(server.http_address, Authorization="Bearer secret")["process"]["pid"] == os.getpid()
        assert view.get(server.http_address, "/snapshot?token=secret")
        # The user's own socket needs none.
        assert view.get(server.socket_path)["process"]["pid"] == os.getpid()
        assert server.socket_path == sockets.of(os.getpid())
        assert oct(os.stat(os.path.dirname(server.socket_path)).st_mode & 0o777) == "0o700"
    with pytest.raises(ConnectionRefusedError):
        view.request(server.http_address, "/snapshot")
    assert sockets.all() == {}


@pytest.mark.parametrize("address", ["0.0.0.0:0", "nowhere", "127.0.0.1:0:0"])
def test_an_address_that_cannot_be_used_is_an_error_that_says_what_to_do(address: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8811"):
        offloop.serve_observe(http=address)


def test_a_second_server_says_that_there_is_one() -> None:
    with offloop.serve_observe(), pytest.raises(OSError, match="socket"):
        offloop.serve_observe()
    offloop.serve_observe().close()


def test_a_server_that_nobody_keeps_stays_until_the_program_ends(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    code = """
        import gc, sys
        import offloop

        offloop.serve_observe()
        gc.collect()
        print(flush=True)
        sys.stdin.readline()
    """
    with view.program(code, tmp_path, **sockets.environment) as running:
        view.line(running)
        assert view.get(sockets.of(running.pid))["process"]["pid"] == running.pid
        assert running.stdin is not None
        running.stdin.write("\n")
        running.stdin.flush()
        assert running.wait(jobs.HANG) == 0
    assert sockets.all() == {}


def test_a_loop_that_the_environment_watches_is_logged_and_shown_once(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    code = """
        import asyncio, time
        import offloop

        async def main():
            await asyncio.sleep(0.1)
            time.sleep(0.4)
            await asyncio.sleep(0.1)
            [loop] = offloop.observe()["loops"]
            print(loop["threshold"], loop["stalls"], [place["function"] for place in loop["places"]])

        asyncio.run(main())
    """
    variables = {"OFFLOOP_OBSERVE": "1", "OFFLOOP_WATCH": "50ms", **sockets.environment}
    with view.program(code, tmp_path, **variables) as running:
        output, errors = running.communicate(timeout=jobs.HANG)
        assert output == "0.05 1 ['main']\n"
        assert errors.count("the event loop has stood still") == 1
    with view.program(code, tmp_path, **{**variables, "OFFLOOP_WATCH": "0"}) as running:
        assert running.communicate(timeout=jobs.HANG) == ("0.1 1 ['main']\n", "")


# The environment variable


SLEEPS = """
    import os, sys, time
    import offloop

    def work():
        return os.getpid()

    if __name__ == "__main__":
        with offloop.ProcessPoolExecutor(2, name="work") as pool:
            print(pool.submit(work).result(), flush=True)
            sys.stdin.readline()
"""


def test_the_variable_opens_the_view_of_a_program_and_not_of_its_workers(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    environment = {"OFFLOOP_OBSERVE": "1", "OFFLOOP_SERVICE": "orders", **sockets.environment}
    with view.program(SLEEPS, tmp_path, **environment) as running:
        worker = int(view.line(running))
        socket = sockets.of(running.pid)
        assert list(sockets.all()) == [running.pid]
        snapshot = view.get(socket)
        assert snapshot["process"]["service"] == "orders"
        assert [pool["name"] for pool in snapshot["pools"]] == ["work"]
        assert worker in [each["pid"] for each in snapshot["pools"][0]["workers"]]
        # A worker that is killed is seen with its last words.
        os.kill(worker, signal.SIGKILL)
        found = view.until_seen(lambda: view.get(socket)["deaths"], len, "the death")
        assert found[0]["pid"] == worker and "SIGKILL" in found[0]["how"] and found[0]["pool"] == "work"
        assert running.stdin is not None
        running.stdin.write("\n")
        running.stdin.flush()
        assert running.wait(jobs.HANG) == 0
    assert sockets.all() == {}


def test_the_variable_may_be_an_address_and_a_wrong_one_ends_no_program(tmp_path: Path) -> None:
    code = "import offloop, sys; print(offloop.observe()['process']['service'])"
    script = scripts.write(tmp_path / "orders.py", code)
    for value, text in [("nonsense", "OFFLOOP_OBSERVE"), ("0.0.0.0:0", "token"), ("0", ""), ("127.0.0.1:0", "")]:
        os.environ["OFFLOOP_OBSERVE"] = value
        try:
            done = scripts.run(script)
        finally:
            del os.environ["OFFLOOP_OBSERVE"]
        assert (done.returncode, done.stdout) == (0, "orders\n"), done.stderr
        assert text in done.stderr if text else done.stderr == ""


def test_the_processes_of_one_program_are_seen_together_and_those_of_another_are_not(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first = {"OFFLOOP_OBSERVE": "1", "OFFLOOP_SERVICE": "first", **sockets.environment}
    second = {**first, "OFFLOOP_SERVICE": "second"}
    with (
        view.program(SLEEPS, one, **first) as a,
        view.program(SLEEPS, one, **first) as b,
        view.program(SLEEPS, other, **second) as c,
    ):
        places = [sockets.of(each.pid) for each in (a, b, c)]
        service = view.get(places[0], "/service")
        assert [each["process"]["pid"] for each in service["processes"]] == [a.pid, b.pid]
        assert service["missing"] == []
        assert [each["process"]["pid"] for each in view.get(places[2], "/service")["processes"]] == [c.pid]


# Forks


FORKS = """
    import os, sys, warnings
    import offloop

    warnings.simplefilter("ignore")  # about forks in a process with threads
    server = offloop.serve_observe()
    child = os.fork()
    if not child:
        print(offloop.observe()["process"]["pid"] == os.getpid(), server.socket_path is not None, flush=True)
        server.close()
        with offloop.serve_observe() as own:
            print(os.path.basename(own.socket_path) == f"{os.getpid()}.sock", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(os.path.exists(server.socket_path), flush=True)
    sys.stdin.readline()
"""


def test_a_forked_child_is_not_its_parent_and_leaves_the_parents_socket_alone(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    with view.program(FORKS, tmp_path, **sockets.environment) as running:
        assert [view.line(running) for _ in range(3)] == ["True True", "True", "True"]
        assert view.get(sockets.of(running.pid))["process"]["pid"] == running.pid


OWN_POOL = """
    import os, sys, warnings
    import offloop

    warnings.simplefilter("ignore")
    child = os.fork()
    if not child:
        with offloop.ThreadPoolExecutor(1, "of-the-child") as pool:
            pool.submit(int).result()
            print(os.getpid(), flush=True)
            sys.stdin.readline()
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_forked_child_with_a_pool_of_its_own_opens_its_own_view(
    sockets: view.Sockets, tmp_path: Path
) -> None:
    with view.program(OWN_POOL, tmp_path, OFFLOOP_OBSERVE="1", **sockets.environment) as running:
        child = int(view.line(running))
        assert child != running.pid
        [pool] = view.get(sockets.of(child))["pools"]
        assert pool["name"] == "of-the-child"
        service = view.get(sockets.of(running.pid), "/service")
        assert [each["process"]["pid"] for each in service["processes"]] == [running.pid, child]


# Loops


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_is_shown_once_whatever_watches_it(new_loop: Any) -> None:
    kind = "uvloop" if new_loop is uvloop.new_event_loop else "asyncio"

    def loops() -> list[tuple[str, float]]:
        return [(loop["kind"], loop["threshold"]) for loop in offloop.observe()["loops"]]

    async def main() -> None:
        await asyncio.sleep(0.01)
        assert loops() == [(kind, 0.1)]
        with offloop.watch(threshold=0.05, logger=None):
            await asyncio.sleep(0.01)
            assert loops() == [(kind, 0.05)]
        assert loops() == [(kind, 0.1)]

    offloop.observe()
    for _ in range(2):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        assert loops() == []


def test_a_loop_that_ran_before_the_first_look_is_shown_until_it_ends(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import asyncio
        import offloop

        async def main():
            await asyncio.sleep(0.01)
            offloop.observe()
            await asyncio.sleep(0.3)
            [loop] = offloop.observe()["loops"]
            print(loop["name"], loop["lateness"]["total"]["count"] > 3)

        asyncio.run(main())
        print(offloop.observe()["loops"])
        """,
    )
    done = scripts.run(script)
    assert (done.stdout, done.stderr) == ("MainThread True\n[]\n", "")


# The name of the service


@pytest.mark.parametrize(
    ("argv", "orig", "name"),
    [
        (["/srv/orders.py"], [], "orders"),
        (["/usr/bin/uvicorn", "shop.main:app", "--workers", "2"], [], "shop.main:app"),
        (["/lib/uvicorn/__main__.py", "--port", "1", "shop:make()"], [], "shop:make()"),
        (["/usr/bin/gunicorn", "-c", "conf.py"], [], "gunicorn"),
        (["/lib/mercuriy/__main__.py", "a:b"], [], "mercuriy"),
        (["-m"], ["python", "-X", "dev", "-m", "pkg.service"], "service"),
        (["-m"], ["python", "-Im", "service"], "service"),
        (["-c"], [], "python"),
        ([""], [], "python"),
        ([], [], "python"),
    ],
)
def test_a_service_is_named_after_its_program_or_its_application(
    argv: list[str], orig: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr("sys.orig_argv", orig)
    assert program.service_name() == name


def test_a_server_shows_where_it_is() -> None:
    with offloop.serve_observe(http="127.0.0.1:0") as server:
        text = repr(server)
        assert re.fullmatch(r"<offloop.ObserveServer at /.*\.sock, 127\.0\.0\.1:[1-9]\d*>", text), text

"""The state in which workers begin, whatever the program was, and the reasons that are given if they do not start."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

import offloop
from offloop import ProcessPoolExecutor, ThreadPoolExecutor

PROGRAM = """
import asyncio, fcntl, os, signal, sys
from multiprocessing import get_context
from offloop import ProcessPoolExecutor

def state():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    blocked, ignored = (int(fields[name], 16) for name in ("SigBlk", "SigIgn"))
    # SIGINT is left to the parent. A worker is in the background of its terminal and ignores SIGTTOU. Python itself
    # ignores SIGPIPE and SIGXFSZ, and 32 and 33 are the C library's.
    usual = {signal.SIGINT, signal.SIGTTOU, signal.SIGPIPE, signal.SIGXFSZ, 32, 33}
    refused = {number for number in range(1, 65) if (blocked | ignored) >> (number - 1) & 1} - usual
    handlers = {number for number in signal.valid_signals() - usual if callable(signal.getsignal(number))}
    return sorted(refused), sorted(handlers)

def descriptors():
    return [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]

def forever():
    import time
    time.sleep(1000)

async def run_forever(pool):
    await pool.run(forever)

def main(start_method, **options):
    return ProcessPoolExecutor(1, mp_context=get_context(start_method), grace=1000, **options)
"""


def run(tmp_path: Any, code: str, redirections: str = "", **options: Any) -> str:
    """Runs a program whose main part is `code` in a shell with these redirections. Returns what it has written to `report`."""
    program, report = tmp_path / "program.py", tmp_path / "report"
    body = textwrap.indent(textwrap.dedent(code), "    ")
    # The report does not take the number of a standard descriptor that is closed.
    opened = f"os.fdopen(fcntl.fcntl(os.open({str(report)!r}, os.O_WRONLY | os.O_CREAT), fcntl.F_DUPFD, 10), 'w')"
    program.write_text(f"{PROGRAM}\nif __name__ == '__main__':\n    report = {opened}\n{body}\n")
    command = f'exec "{sys.executable}" "{program}" {redirections}'
    ended = subprocess.run(["sh", "-c", command], timeout=80, capture_output=True, text=True, **options)
    text = report.read_text() if report.exists() else ""
    assert ended.returncode == 0, (ended.returncode, text, ended.stdout, ended.stderr)
    return text


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
@pytest.mark.parametrize(
    "refuse",
    [
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD})",
        "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)]",
        "[signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGUSR1)]",
    ],
    ids=["blocked", "ignored", "handled"],
)
def test_workers_handle_signals_as_a_new_interpreter_does(tmp_path: Any, start_method: str, refuse: str) -> None:
    code = f"""
        {refuse}
        with main({start_method!r}) as pool:
            print(pool.submit(state).result(), file=report)
            # With SIGTERM refused, the next call would wait for the whole grace period.
            try:
                asyncio.run(asyncio.wait_for(run_forever(pool), 0.5))
            except asyncio.TimeoutError:
                pass
            print(pool.submit(pow, 2, 3).result(), file=report)
    """
    assert run(tmp_path, code) == "([], [])\n8\n"


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_pools_work_in_a_program_whose_standard_descriptors_are_closed(tmp_path: Any, closed: str) -> None:
    code = """
        with main("spawn") as pool:
            first = pool.submit(descriptors).result()
            # Standard error is the pool's pipe, from which it is passed on.
            ours = [first[int(at)] for at in sys.argv[1] if at != "2"]
            print(set(ours) <= {"/dev/null"}, first[2].startswith("pipe:"), file=report)
    """
    numbers = "".join(number for number in "012" if f"{number}>" in closed or f"{number}<" in closed)
    assert run(tmp_path, code, f"{numbers} {closed}").startswith("True True")


DENY = """
import ctypes, os, struct, sys

def deny(number, errno):
    allow, refuse = 0x7FFF0000, 0x00050000 | errno
    statements = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *it) for it in statements))
    class Filter(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.addressof(program))), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")

deny(int(sys.argv[1]), int(sys.argv[2]))
import offloop
if __name__ == "__main__":
    try:
        with offloop.ProcessPoolExecutor(1) as pool:
            print(pool.submit(pow, 2, 3).exception())
    except Exception as error:
        print(error)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86-64")
@pytest.mark.parametrize("call", ["memfd_create", "pidfd_open", "eventfd2"])
@pytest.mark.parametrize("errno", [1, 38], ids=["EPERM", "ENOSYS"])
def test_a_system_call_that_is_refused_is_named(tmp_path: Any, call: str, errno: int) -> None:
    number = {"memfd_create": 319, "pidfd_open": 434, "eventfd2": 290}[call]
    program = tmp_path / "program.py"
    program.write_text(DENY)
    command = [sys.executable, str(program), str(number), str(errno)]
    ended = subprocess.run(command, timeout=80, capture_output=True, text=True)
    assert f"{call} failed: " in ended.stdout, ended
    assert "seccomp" in ended.stdout, ended


def test_the_affinity_of_workers_is_that_of_the_process_and_not_of_the_thread_that_made_the_pool() -> None:
    usual = os.sched_getaffinity(os.getpid())

    def pinned() -> tuple[set[int], set[int]]:
        os.sched_setaffinity(0, {min(usual)})
        with ProcessPoolExecutor(1) as processes, ThreadPoolExecutor(1) as threads:
            assert processes.submit(os.getpid).result() != os.getpid()
            return processes.submit(os.sched_getaffinity, 0).result(), threads.submit(os.sched_getaffinity, 0).result()

    with ThreadPoolExecutor(1) as own:
        assert own.submit(pinned).result() == (usual, usual)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preload": "json"}, r"preload is a sequence of module names"),
        ({"max_payload": 0}, r"max_payload is 0"),
        ({"max_rss": -1}, r"max_rss: "),
        ({"nice": "low"}, r"nice: "),
        ({"cpu_affinity": [4000]}, r"cpu_affinity names core 4000"),
    ],
)
def test_an_option_that_is_refused_is_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError, offloop.OffloopError), match=reason):
        ProcessPoolExecutor(1, **options)


def test_a_working_directory_that_is_missing_is_named() -> None:
    with ProcessPoolExecutor(1, cwd="/nonexistent") as pool:
        with pytest.raises(offloop.WorkerStartError, match="working directory /nonexistent cannot be used"):
            pool.submit(pow, 2, 3).result()


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_a_priority_out_of_range_is_named(kind: type[Any]) -> None:
    async def run(pool: Any) -> None:
        await pool.options(priority=300).run(pow, 2, 3)

    with kind(1) as pool:
        with pytest.raises(ValueError, match="priority is 300; it must be from -128 to 127"):
            asyncio.run(run(pool))


def test_the_template_gets_ready_before_the_first_call_and_workers_come_with_calls() -> None:
    code = """
    import os, time
    from offloop import ProcessPoolExecutor

    def children(pid):
        return [int(child) for task in os.listdir(f"/proc/{pid}/task")
            for child in open(f"/proc/{pid}/task/{task}/children").read().split()]

    def is_template(pid):
        return b"offloop._worker.main" in open(f"/proc/{pid}/cmdline", "rb").read()

    if __name__ == "__main__":
        with ProcessPoolExecutor(2) as pool:
            while not (templates := list(filter(is_template, children(os.getpid())))):
                time.sleep(0.001)
            assert len(templates) == 1
            assert not children(templates[0])
            assert pool.submit(os.getppid).result(30) == templates[0]
    """
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert program.returncode == 0, program.stderr

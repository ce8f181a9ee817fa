"""The promises of the thread pool when programs end, are interrupted or fork. Each test runs programs of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

GIVE_UP = 20.0
"""The seconds after which a program that has not ended counts as a failure."""

HEAD = """
import os, sys, threading, time
from offloop import ThreadPoolExecutor

def wait():
    # Not in one piece: a signal that comes right before Python begins to sleep does not end the sleep.
    while True:
        time.sleep(0.1)
"""


def run(program: str, interrupt_at: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a program. Sends Ctrl-C when it has printed the given line."""
    program = HEAD + textwrap.dedent(program)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            said = ""
            if interrupt_at is not None:
                assert child.stdout is not None
                while line := child.stdout.readline():
                    said += line
                    if line.strip() == interrupt_at:
                        break
                child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=GIVE_UP)
        finally:
            child.kill()
    return subprocess.CompletedProcess(child.args, child.returncode, said + out, err)


def test_the_interpreters_exit_finishes_accepted_calls() -> None:
    for end in ("", "pool.shutdown(wait=False)", "del pool"):
        ended = run(
            f"""
            pool = ThreadPoolExecutor(1)
            for n in range(3):
                pool.submit(lambda n=n: (time.sleep(0.1), print("call", n, flush=True)))
            {end}
            """
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == "call 0\ncall 1\ncall 2\n"


def test_the_exit_waits_until_exit_timeout_and_names_the_calls_that_are_stuck() -> None:
    began = time.monotonic()
    ended = run(
        """
        def stuck():
            time.sleep(1000)  # here

        pool = ThreadPoolExecutor(2, "workers", exit_timeout=0.2)
        pool.submit(stuck)
        pool.submit(time.sleep, 1000)
        pool.submit(print, "never")
        """
    )
    assert time.monotonic() - began < GIVE_UP
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert "0.2 s (exit_timeout)" in ended.stderr
    assert "cancelled: 1." in ended.stderr
    line = HEAD.count("\n") + 3
    assert f": __main__.stuck, at <string>:{line} in stuck" in ended.stderr
    assert ": time.sleep\n" in ended.stderr


def test_calls_that_outlast_the_interpreter_do_not_crash_it() -> None:
    # The threads ask for the interpreter while its last objects are destroyed, which takes time.
    ended = run(
        """
        class Slow:
            def __del__(self, sleep=time.sleep):
                sleep(0.5)

        def often():
            while True:
                time.sleep(0.001)

        def always():
            while True:
                pass

        keep = Slow()
        pool = ThreadPoolExecutor(4, exit_timeout=0.05)
        pool.submit(often)
        pool.submit(always)
        gate = threading.Event()
        pool.submit(gate.wait).add_done_callback(lambda _: often())
        gate.set()
        """
    )
    assert ended.returncode == 0, ended.stderr


def test_submitting_after_the_interpreters_shutdown_is_an_error() -> None:
    ended = run(
        """
        import atexit

        pool = ThreadPoolExecutor(1)
        pool.submit(int).result()

        @atexit.register
        def late():
            try:
                pool.submit(int)
            except RuntimeError as error:
                print(error)
        """
    )
    assert ended.stdout == "cannot schedule new futures after interpreter shutdown\n"
    assert (ended.returncode, ended.stderr) == (0, "")


def test_one_ctrl_c_ends_a_program_whose_calls_are_stuck() -> None:
    for where in ("wait()", "pass"):
        ended = run(
            f"""
            def stuck():
                print("running", flush=True)
                time.sleep(1000)

            with ThreadPoolExecutor(1) as pool:
                pool.submit(stuck)
                pool.submit(print, "never")
                {where}
            """,
            interrupt_at="running",
        )
        assert ended.returncode == -signal.SIGINT, ended.stderr
        assert "KeyboardInterrupt" in ended.stderr
        assert ended.stdout == "running\n"


def test_one_ctrl_c_is_enough_without_a_with_block_too() -> None:
    ended = run(
        """
        def stuck():
            print("running", flush=True)
            time.sleep(1000)

        pool = ThreadPoolExecutor(1, exit_timeout=None)
        pool.submit(stuck)
        pool.submit(print, "never")
        wait()
        """,
        interrupt_at="running",
    )
    assert ended.returncode == -signal.SIGINT, ended.stderr
    assert ended.stdout == "running\n"


def test_after_ctrl_c_running_calls_are_asked_to_stop() -> None:
    ended = run(
        """
        import offloop

        stopped = threading.Event()

        def cooperative():
            print("running", flush=True)
            while not offloop.is_cancelled():
                time.sleep(0.001)
            print("stopped", flush=True)
            stopped.set()

        try:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(cooperative)
                wait()
        except KeyboardInterrupt:
            # Not a join: in Python 3.10 an interrupted join marks the thread as stopped.
            stopped.wait()
        """,
        interrupt_at="running",
    )
    assert (ended.returncode, ended.stdout) == (0, "running\nstopped\n"), ended.stderr


def test_in_a_forked_child_the_pool_raises_and_nothing_hangs() -> None:
    ended = run(
        """
        pool = ThreadPoolExecutor(2)
        gate = threading.Event()
        future = pool.submit(gate.wait)
        if (child := os.fork()) == 0:
            for attempt in (lambda: pool.submit(int), future.result, lambda: future.exception(5)):
                try:
                    attempt()
                except RuntimeError as error:
                    assert "build a new pool in the child" in str(error), error
                else:
                    os._exit(1)
            pool.shutdown()
            with ThreadPoolExecutor(1) as fresh:
                assert fresh.submit(pow, 2, 3).result() == 8
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        gate.set()
        assert future.result() is True
        assert pool.submit(pow, 2, 3).result() == 8
        """
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_call_may_fork() -> None:
    ended = run(
        """
        def fork():
            if (child := os.fork()) == 0:
                return
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(fork).result() == 0
            assert pool.submit(pow, 2, 3).result() == 8
        """
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_child_that_a_call_forks_does_not_close_its_parents_state() -> None:
    ended = run(
        """
        import offloop

        def close(owner):
            print("closed by", "the parent" if os.getpid() == owner else "the child", flush=True)

        def fork():
            offloop.worker_state()
            if (child := os.fork()) == 0:
                return
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        with ThreadPoolExecutor(1, worker_state=os.getpid, close_worker_state=close) as pool:
            assert pool.submit(fork).result() == 0
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "closed by the parent\n", "")

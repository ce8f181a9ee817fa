"""Pools in programs that treat their own process in unusual ways."""

import multiprocessing
import pickle
import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from support import jobs, scripts

from offloop import ProcessPoolExecutor

HEAD = """
import os, resource, signal, sys, threading
from concurrent.futures import CancelledError
from pathlib import Path
from offloop import ProcessPoolExecutor, WorkerDied
from support import jobs

def use():
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(jobs.double, range(5))) == [0, 2, 4, 6, 8]
        died = pool.submit(os._exit, 3).exception()
        assert isinstance(died, WorkerDied) and died.exitcode == 3, died
        assert pool.submit(jobs.double, 2).result() == 4

if __name__ == "__main__":
"""


def run(tmp_path: Path, body: str, *options: str) -> "subprocess.CompletedProcess[str]":
    script = tmp_path / "script.py"
    script.write_text(HEAD + textwrap.indent(textwrap.dedent(body), "    "))
    return scripts.run(*options, script, str(tmp_path))


HOSTS = {
    "ignores SIGCHLD": """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        use()
    """,
    "reaps every child": """
        def reap(*_):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        signal.signal(signal.SIGCHLD, reap)
        use()
    """,
    "blocks all signals": """
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        use()
    """,
    "has no standard streams": """
        kept = os.dup(1)
        os.closerange(0, 3)
        use()
        os.dup2(kept, 1)
    """,
    "uses it in a thread": """
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    """,
    "has many open files": """
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 4096), limit))
        kept = [os.dup(2) for _ in range(2000)]
        use()
    """,
    "has an interval timer": """
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        use()
        signal.setitimer(signal.ITIMER_REAL, 0)
    """,
    "has no environment": """
        os.environ.clear()
        use()
    """,
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_pool_works_in_a_program_that(tmp_path: Path, host: str) -> None:
    done = run(tmp_path, textwrap.dedent(HOSTS[host]) + 'print("fine")\n')
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize(
    "options", [["-X", "dev", "-W", "error"], ["-O"], ["-u"], ["-B"], ["-X", "utf8"]], ids=" ".join
)
def test_a_pool_works_with_options_of_the_interpreter(tmp_path: Path, options: list[str]) -> None:
    done = run(tmp_path, 'use()\nprint("fine")\n', *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_workers_have_the_options_of_the_interpreter(tmp_path: Path) -> None:
    body = """
        with ProcessPoolExecutor(1) as pool:
            assert pool.submit(eval, "__import__('sys').flags").result() == sys.flags
            assert pool.submit(eval, "__import__('sys').warnoptions").result() == sys.warnoptions
        print("fine")
    """
    done = run(tmp_path, body, "-O", "-W", "error::ResourceWarning", "-X", "utf8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_a_pool_without_free_descriptors_raises_with_the_reason(tmp_path: Path) -> None:
    body = """
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        kept = []
        try:
            while True:
                kept.append(os.dup(2))
        except OSError:
            pass
        try:
            ProcessPoolExecutor(1)
        except Exception as error:
            for descriptor in kept:
                os.close(descriptor)
            print("Too many open files" if "Too many open files" in str(error) else repr(error))
    """
    done = run(tmp_path, body)
    assert done.stdout == "Too many open files\n", done


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_start_method_is_accepted(method: Any) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(jobs.double, range(5))) == [0, 2, 4, 6, 8]
        assert pool.submit(jobs.exit_with, 3).exception(60) is not None
        assert pool.submit(jobs.double, 2).result(60) == 4


def test_a_pool_is_not_pickled() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert isinstance(
            pool.submit(jobs.echo, pool).exception(60), (TypeError, pickle.PicklingError)
        )


def test_a_thread_that_waits_for_a_stuck_job_does_not_keep_the_program_from_ending(
    tmp_path: Path,
) -> None:
    body = """
        pool = ProcessPoolExecutor(1, exit_timeout=0.3)
        started = Path(sys.argv[1]) / "started"
        def wait():
            try:
                pool.submit(jobs.hang, started).result()
            except CancelledError:
                print("told")
        threading.Thread(target=wait).start()
        jobs.wait_for(started)
    """
    done = run(tmp_path, body)
    assert (done.returncode, done.stdout) == (0, "told\n"), done


def test_log_records_of_workers_reach_the_handlers_here(caplog: pytest.LogCaptureFixture) -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(jobs.log, "from afar").result(60)
    assert [record.getMessage() for record in caplog.records] == ["from afar"]


def test_calls_submitted_while_the_pool_is_shut_down_are_refused_or_run() -> None:
    served: list[int] = []
    told: list[RuntimeError] = []
    some = threading.Event()

    def submit() -> None:
        try:
            while True:
                served.append(pool.submit(jobs.double, 1).result(60))
                some.set()
        except RuntimeError as error:
            told.append(error)

    pool = ProcessPoolExecutor(2)
    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert some.wait(60)
    pool.shutdown()
    for thread in threads:
        thread.join(60)
    assert len(told) == 4 and set(served) == {2}

"""Other processes cannot read what a pool tells its workers: nothing of it is in `/proc`."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import jobs, scripts

from offloop import ProcessPoolExecutor

SECRET = "a planted secret"


def in_proc(pid: int) -> list[bytes]:
    """Returns what all processes of this user can read about a process."""
    return [Path(f"/proc/{pid}/{file}").read_bytes() for file in ("environ", "cmdline")]


def test_secrets_of_the_program_are_not_in_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(multiprocessing.current_process().authkey)
    monkeypatch.setattr(sys, "argv", ["program", f"--password={SECRET}"])
    monkeypatch.setattr(sys, "path", [*sys.path, f"/nowhere/{SECRET}"])
    with ProcessPoolExecutor(1, initializer=jobs.echo, initargs=(SECRET,)) as pool:
        assert pool.submit(jobs.echo, SECRET).result() == SECRET
        assert pool.submit(eval, "__import__('sys').argv").result() == sys.argv
        assert pool.submit(eval, f"'/nowhere/{SECRET}' in __import__('sys').path").result()
        theirs = "bytes(__import__('multiprocessing').current_process().authkey)"
        assert pool.submit(eval, theirs).result() == key
        for getter in (os.getpid, os.getppid):
            pid = pool.submit(getter).result()
            assert pid != os.getpid()
            for text in in_proc(pid):
                assert text
                for form in (SECRET.encode(), key, key.hex().encode()):
                    assert form not in text


def test_a_workers_environment_has_nothing_but_the_marker_added() -> None:
    def variables(pid: int) -> set[bytes]:
        return set(in_proc(pid)[0].split(b"\0")) - {b""}

    inherited = {os.fsencode(name) + b"=" + os.fsencode(value) for name, value in os.environ.items()}
    with ProcessPoolExecutor(1) as pool:
        template = pool.submit(os.getppid).result()
        added = variables(template) - inherited
        # A library that asks for the terminal's size may have set these, without Python.
        added = {it for it in added if not it.startswith((b"COLUMNS=", b"LINES="))}
        assert added == {b"OFFLOOP_WORKER=%d" % os.getpid()}
        seen = pool.submit(eval, "[it for it in __import__('os').environ if it.startswith('OFFLOOP')]")
        assert seen.result() == [it for it in os.environ if it.startswith("OFFLOOP")]


@pytest.mark.parametrize("count", [0, 20_000])
def test_a_program_may_have_any_number_of_arguments(tmp_path: Path, count: int) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import sys
        from offloop import ProcessPoolExecutor

        if __name__ == "__main__":
            with ProcessPoolExecutor(1) as pool:
                assert pool.submit(eval, "__import__('sys').argv").result() == sys.argv
            print(len(sys.argv))
        """,
    )
    arguments = [f"some/directory/of/the/project/module_{n:05}.py" for n in range(count)]
    done = scripts.run(script, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{count + 1}\n", "")


def test_the_templates_program_says_that_no_pool_has_started_it() -> None:
    code = "from offloop._worker.main import main; main()"
    for marker, why in (
        ({}, "not started by a pool as its template"),
        ({"OFFLOOP_WORKER": "1"}, "not started by a pool as its template"),
        ({"OFFLOOP_WORKER": str(os.getpid())}, "no pool has written to its standard input"),
        ({"OFFLOOP_WORKER": "yes"}, "no process id"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**scripts.environment(), **marker},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scripts.HANG,
        )
        assert done.returncode == 1 and why in done.stderr

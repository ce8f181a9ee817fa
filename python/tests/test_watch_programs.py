"""The watchdog in programs of their own: the environment variable, signals, forks, and the exit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support import scripts

ROOT = Path(__file__).parents[2]
LINE = (ROOT / "python" / "wheel" / "platlib" / "offloop_watch.pth").read_text()

LOOPS = pytest.mark.parametrize(
    "run", ["import asyncio; asyncio.run(main())", "import uvloop; uvloop.run(main())"]
)


def watched(script: Path, value: str | None, *before: str) -> "subprocess.CompletedProcess[str]":
    """Runs a program with the environment variable set."""
    environment = scripts.environment()
    environment.pop("OFFLOOP_WATCH", None)
    if value is not None:
        environment["OFFLOOP_WATCH"] = value
    return subprocess.run(
        [sys.executable, *before, script],
        capture_output=True,
        text=True,
        timeout=scripts.HANG,
        env=environment,
    )


STALL = """
    import asyncio, time

    async def main():
        await asyncio.sleep(0.02)
        time.sleep(0.6)
        await asyncio.sleep(0.02)

"""


@pytest.fixture(scope="session", autouse=True)
def has_start_line() -> None:
    """Checks that the package was installed with its `.pth` file, as users install it."""
    code = "import sys; sys.exit('offloop._watch.start' not in sys.modules)"
    environment = {**os.environ, "OFFLOOP_WATCH": "0"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0, (
        "offloop_watch.pth is not in this environment: install the wheel"
    )


@LOOPS
def test_the_variable_watches_a_program_that_knows_nothing_of_it(tmp_path: Path, run: str) -> None:
    script = scripts.write(tmp_path / "script.py", textwrap.dedent(STALL) + run)
    done = watched(script, "50ms")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the event loop has stood still") == 1
    assert f"  at      {script}:6 in main\n" in done.stderr
    assert "`await offloop.run(time.sleep, 0.6)`" in done.stderr


@pytest.mark.parametrize("value", ["1", "0.05s", " 50MS "])
def test_the_variable_can_be_a_threshold(tmp_path: Path, value: str) -> None:
    script = scripts.write(tmp_path / "script.py", textwrap.dedent(STALL) + "asyncio.run(main())")
    assert "time.sleep(0.6)" in watched(script, value).stderr


@pytest.mark.parametrize("value", [None, "", "0", "off", "10s"])
def test_the_variable_can_turn_the_watchdog_off(tmp_path: Path, value: str | None) -> None:
    script = scripts.write(tmp_path / "script.py", textwrap.dedent(STALL) + "asyncio.run(main())")
    done = watched(script, value)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_invalid_value_is_reported_and_the_program_runs(tmp_path: Path) -> None:
    script = scripts.write(tmp_path / "script.py", textwrap.dedent(STALL) + "asyncio.run(main())")
    done = watched(script, "soon")
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert line.startswith("offloop: OFFLOOP_WATCH is 'soon': it must be a length of time such as 50ms")


@pytest.mark.parametrize("value", ["50", "0.05"])
def test_a_length_of_time_without_a_unit_is_refused(tmp_path: Path, value: str) -> None:
    script = scripts.write(tmp_path / "script.py", textwrap.dedent(STALL) + "asyncio.run(main())")
    done = watched(script, value)
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert line.startswith(f"offloop: OFFLOOP_WATCH is '{value}': it has no unit; write {value}ms or {value}s")


@pytest.mark.parametrize("flag", ["-E", "-I"])
def test_the_variable_has_no_effect_if_the_interpreter_ignores_the_environment(flag: str) -> None:
    code = "import sys; sys.exit(any(name.partition('.')[0] == 'offloop' for name in sys.modules))"
    environment = {**os.environ, "OFFLOOP_WATCH": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 1
    assert subprocess.run([sys.executable, flag, "-c", code], env=environment).returncode == 0


def test_without_the_variable_nothing_is_imported() -> None:
    code = "import sys; sys.exit(any(name.partition('.')[0] == 'offloop' for name in sys.modules))"
    environment = {key: value for key, value in os.environ.items() if key != "OFFLOOP_WATCH"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_uvloop_that_was_imported_before_is_watched_too(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import asyncio, time
        import uvloop
        import offloop

        async def main():
            await asyncio.sleep(0.02)
            time.sleep(0.6)
            await asyncio.sleep(0.02)

        with offloop.watch(threshold=0.05):
            uvloop.run(main())
        """,
    )
    assert "`await offloop.run(time.sleep, 0.6)`" in watched(script, None).stderr


# This takes an unknown time; it is killed.
ENDLESS = """
    import re
    import offloop, asyncio

    async def main():
        await asyncio.sleep(0.1)
        endless = re.compile("(a|a)*b")
        print("now", flush=True)
        endless.match("a" * 60)

    {}
"""


@LOOPS
def test_a_call_that_never_releases_the_interpreter_is_reported_to_stderr(
    tmp_path: Path, run: str
) -> None:
    code = ENDLESS.format("with offloop.watch(threshold=0.05, stderr_after=0.3):\n        " + run)
    program = scripts.start(scripts.write(tmp_path / "script.py", code))
    assert program.stdout is not None and program.stderr is not None
    try:
        first = program.stderr.readline()
        stack = program.stderr.readline() + program.stderr.readline()
    finally:
        program.kill()
        program.communicate()
    assert re.match(r"offloop.watch: an event loop has stood still for \d+\.\d s\. .*GIL", first)
    assert f'File "{tmp_path / "script.py"}", line 9 in main' in stack


STARVES = """
    import asyncio, os, subprocess, sys, time
    import offloop

    def hog():
        return subprocess.Popen([sys.executable, "-c", "while True: pass"])

    async def main():
        await asyncio.sleep(0.2)
        for _ in range(6):
            end = time.thread_time() + 0.005
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0)

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    hogs = [hog() for _ in range(4)]
    os.nice(10)
    try:
        with offloop.watch(threshold=0.05) as watch:
            asyncio.run(main())
    finally:
        for hog in hogs:
            hog.kill()
    print(watch.stalls, watch.starvation.count > 0)
"""


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no account of run delays"
)
def test_time_without_a_core_is_starvation_and_blames_no_line(tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path / "script.py", STARVES))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] True\n", done.stderr
    assert "no line is to blame" in done.stderr
    assert "stood still" not in done.stderr


def test_a_hostile_program_survives_steady_sampling() -> None:
    # Its own run is minutes long, and measures what it costs.
    done = scripts.run(ROOT / "python" / "benches" / "hostile.py", "4")
    assert done.returncode == 0, done.stderr


FREES = """
    import asyncio, gc

    def frees():
        mine = things.pop()

    async def main():
        await asyncio.sleep(0.1)
        asyncio.get_running_loop().call_soon(frees)
        await asyncio.sleep(0.1)

    gc.disable()
    things = [[[] for _ in range(10_000_000)]]
    asyncio.run(main())
"""


def test_a_function_that_frees_much_as_it_returns_is_named(tmp_path: Path) -> None:
    script = scripts.write(tmp_path / "script.py", textwrap.dedent(FREES))
    done = watched(script, "50ms")
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    assert "it computes in frees" in done.stderr


def test_a_report_whose_handler_waits_for_the_loop_goes_to_stderr(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import asyncio, logging, threading, time
        import offloop

        class Slow(logging.Handler):
            def emit(self, record):
                time.sleep(2)  # in the handler's lock

        async def main():
            await asyncio.sleep(0.1)
            logging.getLogger().warning("to the slow one")

        logging.getLogger().addHandler(Slow())
        with offloop.watch(threshold=0.05, stderr_after=0.3):
            asyncio.run(main())
        """,
    )
    done = watched(script, None)
    assert "stood still" in done.stderr
    assert 'logging.getLogger().warning("to the slow one")' in done.stderr


def test_ctrl_c_ends_a_stalled_loop_as_always(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import asyncio, time
        import offloop

        def say(stall):
            print("seen", flush=True)

        async def main():
            with offloop.watch(threshold=0.05, logger=None, on_stall=say):
                await asyncio.sleep(0.1)
                time.sleep(60)

        asyncio.run(main())
        """,
    )
    program = scripts.start(script)
    assert program.stdout is not None
    assert program.stdout.readline() == "seen\n"
    # On Python 3.11 and later the first Ctrl-C only cancels the main task.
    while program.poll() is None:
        program.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, stderr = program.communicate(timeout=scripts.HANG)
    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr


def test_a_paused_process_is_not_a_stalled_loop(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import asyncio, sys
        import offloop

        async def main():
            with offloop.watch(threshold=0.05, logger=None) as watch:
                await asyncio.sleep(0.1)
                print("ready", flush=True)
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
                await asyncio.sleep(0.2)
            print(len(watch.stalls))

        asyncio.run(main())
        """,
    )
    program = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=scripts.environment(),
    )
    with program:
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.pid, os.WSTOPPED)
        subprocess.run(["sleep", "0.5"], check=True)
        program.send_signal(signal.SIGCONT)
        assert program.communicate("go on\n", timeout=scripts.HANG)[0] == "0\n"


FORKS = """
    import asyncio, os, re, signal, sys, time, warnings
    import offloop

    warnings.simplefilter("ignore")  # about forks in a process with threads
    seen = []

    def handlers():
        with open("/proc/self/status") as file:
            caught = next(line.split()[1] for line in file if line.startswith("SigCgt"))
        return int(caught, 16) >> signal.SIGRTMIN - 1  # the C library handles the ones below

    before = handlers()

    async def stall():
        await asyncio.sleep(0.1)
        re.match("(a|a)*b", "a" * 22)
        await asyncio.sleep(0.1)

    async def main():
        with offloop.watch(threshold=0.05, logger=None) as watch:
            await asyncio.sleep(0.1)
            assert handlers() == before  # no signal is used
            child = os.fork()
            if not child:
                # The child has nothing of its parent's watch.
                assert handlers() == before, handlers()
                time.sleep(0.6)
                watch.stop()
                assert watch.stalls == []
                return 0
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert handlers() == before
        return child

    if asyncio.run(main()):
        print("parent")
    else:
        with offloop.watch(threshold=0.05, logger=None) as watch:
            asyncio.run(stall())
        [place] = watch.stalls
        assert place.function == "stall", place
        print("child")
"""


def test_a_fork_watches_its_own_loops_and_no_signal_has_a_handler(tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path / "script.py", FORKS))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["child", "parent"]


def test_a_fork_of_a_watched_program_is_watched(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import asyncio, multiprocessing, time

        async def main():
            await asyncio.sleep(0.1)
            time.sleep(0.6)
            await asyncio.sleep(0.1)

        def run():
            asyncio.run(main())

        if __name__ == "__main__":
            run()
            process = multiprocessing.get_context("fork").Process(target=run)
            process.start()
            process.join()
        """,
    )
    assert watched(script, "50ms").stderr.count("the event loop has stood still") == 2


def test_the_interpreter_exits_while_a_report_is_made(tmp_path: Path) -> None:
    script = scripts.write(
        tmp_path / "script.py",
        """
        import asyncio, sys, threading, time
        import offloop

        began = threading.Event()

        def slow(stall):
            began.set()
            time.sleep(60)

        async def main():
            offloop.watch(threshold=0.05, on_stall=slow)
            await asyncio.sleep(0.1)
            began.wait(30)
            sys.exit(7)

        asyncio.run(main())
        """,
    )
    assert scripts.run(script).returncode == 7


def test_code_without_source_has_lines() -> None:
    code = """
import asyncio, time, offloop
lines = ["async def main():", "  await asyncio.sleep(0.1)", "  time.sleep(0.6)"]
exec(compile("\\n".join(lines), "<typed>", "exec"))
with offloop.watch(threshold=0.05):
    asyncio.run(main())
"""
    done = scripts.run("-c", code)
    assert "  at      <typed>:3 in main" in done.stderr
    assert "`await offloop.run(function)`" in done.stderr


def test_the_example_names_all_four_lines() -> None:
    example = ROOT / "python" / "examples" / "watchdog.py"
    done = scripts.run(example)
    assert done.returncode == 0, done.stderr
    for advice in (
        "await offloop.run(time.sleep, 0.5)",
        "await offloop.run_cpu(json.loads, text)",
        "await offloop.run_cpu(matches, text)",
        "await offloop.run(connection.recv, 100)",
    ):
        assert f"  advice  `{advice}`" in done.stdout
    _, summary = done.stdout.split("in total:\n")
    assert len(summary.splitlines()) == 4

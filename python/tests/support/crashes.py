"""Jobs that crash, and jobs that harm their process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn


def segfault() -> None:
    # A test must leave no core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def abort_with_last_words() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.write(2, b"these were my last words\n")
    os.abort()


def signal_myself(number: int) -> None:
    os.kill(os.getpid(), number)
    while True:
        signal.pause()


def fill_memory(limit: int) -> None:
    """Allocates memory in steps, up to a limit that the test must not reach."""
    kept: list[bytes] = []
    while len(kept) << 20 < limit:
        kept.append(b"x" * (1 << 20))
        time.sleep(0.001)


def allocate(size: int) -> int:
    return len(bytearray(size))


class Unpicklable(Exception):
    """Cannot be pickled, because it has a lock."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class UnpicklingRaises(Exception):
    """Can be pickled but not unpickled: its constructor takes two arguments, and one is stored."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class UnpicklingExits:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class UnpicklingKills:
    """Kills each process that unpickles it, except the one that has made it."""

    def __init__(self) -> None:
        self.maker = os.getpid()

    def __reduce__(self) -> Any:
        return exit_unless, (self.maker,)


def exit_unless(pid: int) -> None:
    if os.getpid() != pid:
        os._exit(7)


class PicklingRaises:
    def __reduce__(self) -> Any:
        raise LookupError("I do not want to be pickled")


class UnpicklingFails:
    def __reduce__(self) -> Any:
        return fail, ("I do not want to be unpickled",)


def fail(message: str) -> NoReturn:
    raise LookupError(message)


def make(kind: type) -> Any:
    return kind()


def make_lock() -> Any:
    return threading.Lock()


def raise_unpicklable() -> None:
    raise Unpicklable("with a lock")


def raise_what_does_not_unpickle() -> None:
    raise UnpicklingRaises("the message", 3)


def raise_with_cause_and_notes() -> None:
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        error = ValueError("the effect")
        error.add_note("a note")
        raise error from cause


def raise_group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])


def raise_this(error: BaseException) -> None:
    raise error


def print_everywhere() -> None:
    print("printed")
    print("printed as an error", file=sys.stderr)
    os.write(1, b"written to 1\n")
    os.write(2, b"written to 2\n")


def close_descriptors(first: int, beyond: int) -> str:
    os.closerange(first, beyond)
    return "closed"


def close_standard_streams() -> str:
    sys.stdin.close()
    sys.stdout.close()
    sys.stderr.close()
    os.closerange(0, 3)
    return "closed"


def run_program() -> str:
    done = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, timeout=60)
    return done.stdout.decode().strip()


def put_square(queue: Any, number: int) -> None:
    queue.put(number * number)


def run_multiprocessing(method: str) -> tuple[int, int | None]:
    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=put_square, args=(queue, 7))
    process.start()
    value = queue.get()
    process.join()
    return value, process.exitcode


def nested_pool() -> int:
    from offloop import ProcessPoolExecutor

    with ProcessPoolExecutor(1) as pool:
        return int(pool.submit(abs, -3).result())


def fork_and_both_return() -> str:
    """Returns in two processes: the worker and its child."""
    child = os.fork()
    if child == 0:
        return "child"
    os.waitpid(child, 0)
    return "parent"


def fork_and_raise_in_child() -> str:
    child = os.fork()
    if child == 0:
        raise LookupError("in the child")
    os.waitpid(child, 0)
    return "parent"


def fork_and_leave_child() -> int:
    """Leaves a child that goes on, with all the descriptors that it has inherited."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        while True:
            signal.pause()
    return child


def start_stubborn_program(path: Path) -> subprocess.Popen[bytes]:
    """Starts a program that writes its process id to a file, and goes on when it is told to end."""
    script = "trap '' TERM; echo $$ > $0; while :; do sleep 0.05; done"
    return subprocess.Popen(["/bin/sh", "-c", script, path])


def run_stubborn_program(path: Path) -> int:
    return start_stubborn_program(path).wait()


def leave_stubborn_program(path: Path) -> None:
    start_stubborn_program(path)


def install_handlers() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, lambda *_: None)


def interrupt_every_moment(seconds: float) -> int:
    """Computes while a timer's signal comes again and again."""
    hits = 0

    def handler(*_: Any) -> None:
        nonlocal hits
        hits += 1

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    # The timer goes on after the job.
    return hits


def change_surroundings(directory: str) -> None:
    os.chdir(directory)
    os.environ["CHANGED"] = "yes"
    sys.path[:] = []
    sys.argv[:] = []


def leave_thread(stop: Path, ended: Path) -> None:
    """Starts a thread that outlives the job."""

    def live() -> None:
        while not stop.exists():
            time.sleep(0.005)
        ended.touch()

    threading.Thread(target=live).start()


def leave_daemon_thread() -> None:
    def live() -> None:
        while True:
            time.sleep(0.001)

    threading.Thread(target=live, daemon=True).start()


def recurse() -> None:
    recurse()

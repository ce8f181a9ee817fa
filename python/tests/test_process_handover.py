"""What multiprocessing gives to its processes, workers have too: the resource tracker, descriptors, reducers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import pytest
from support import handover, jobs, scripts

from offloop import ProcessPoolExecutor, WorkerStartError

METHODS = ["spawn", "fork"]


@pytest.fixture
def segment() -> Iterator[shared_memory.SharedMemory]:
    segment = shared_memory.SharedMemory(create=True, size=10)
    yield segment
    segment.close()
    segment.unlink()



def leave(pool: ProcessPoolExecutor) -> None:
    """Replaces the pool's only worker."""
    (before,) = pool._processes.values()
    before.kill()
    before.join()


@pytest.mark.parametrize("method", METHODS)
def test_shared_memory_outlives_the_workers_that_have_opened_it(
    method: str, segment: shared_memory.SharedMemory
) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        pool.submit(handover.fill, segment.name).result(30)
        leave(pool)
        assert pool.submit(handover.exists, segment.name).result(30)
    assert bytes(segment.buf or b"")[:1] == b"\1"
    shared_memory.SharedMemory(name=segment.name).close()


@pytest.mark.parametrize("method", METHODS)
def test_shared_memory_outlives_the_worker_that_has_made_it(method: str) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        name = pool.submit(handover.make).result(30)
    found = shared_memory.SharedMemory(name=name)
    found.close()
    found.unlink()


def descriptors_of_the_tracker() -> list[str]:
    """Returns the descriptors of this process that lead to multiprocessing's resource tracker."""
    pipe = os.readlink(f"/proc/self/fd/{resource_tracker._resource_tracker._fd}")  # type: ignore[attr-defined]
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}") == pipe:
                found.append(descriptor)
        except FileNotFoundError:  # that of the directory
            continue
    return found


def test_a_pool_that_has_ended_holds_no_descriptor_of_the_tracker() -> None:
    # Otherwise the tracker would not end when multiprocessing ends it, and waits for that.
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(handover.tracker_descriptor).result(30) is not None
    with pytest.raises(ValueError):
        ProcessPoolExecutor(1, grace=-1)
    gc.collect()
    jobs.until(lambda: len(descriptors_of_the_tracker()) == 1, "the end of the others")


def test_a_worker_that_is_not_trusted_does_not_get_the_tracker() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(handover.tracker_descriptor).result(30) is not None
    with ProcessPoolExecutor(1, results="data") as pool:
        assert pool.submit(handover.tracker_descriptor).result(30) is None


LATE = """
    from offloop import ProcessPoolExecutor

    def process():
        from multiprocessing import resource_tracker
        return resource_tracker._resource_tracker._pid

    def descriptor():
        import os
        from multiprocessing import resource_tracker
        return os.readlink(f"/proc/self/fd/{resource_tracker._resource_tracker._fd}")

    if __name__ == "__main__":
        with ProcessPoolExecutor(2) as pool:
            pool.submit(abs, -1).result(60)
            print(process())
            first = pool.submit(descriptor).result(60)
            for worker in pool._processes.values():
                worker.kill()
                worker.join()
            print(process() is not None, first == pool.submit(descriptor).result(60) == descriptor())
"""


def test_the_tracker_starts_with_the_first_job_that_needs_it_and_all_share_it(tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path / "program.py", LATE))
    assert done.stdout == "None\nTrue True\n", done.stderr


def test_a_job_that_has_closed_all_files_goes_on_without_the_tracker() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(handover.tracker_descriptor_without_files).result(30) is None


BLOCKED = """
    import signal
    from multiprocessing import resource_tracker
    from offloop import ProcessPoolExecutor

    def use():
        from multiprocessing import resource_tracker

    if __name__ == "__main__":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        with ProcessPoolExecutor(1) as pool:
            pool.submit(use).result(60)
        assert resource_tracker._resource_tracker._fd is not None
        print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_starting_the_tracker_unblocks_no_signal(tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path / "program.py", BLOCKED))
    assert done.stdout == "True\n", done.stderr


def test_a_socket_travels_to_a_worker() -> None:
    here, there = socket.socketpair()
    with here, ProcessPoolExecutor(1) as pool:
        pool.submit(handover.greet, there).result(30)
        there.close()
        assert here.recv(100) == b"hello"


def test_a_socket_travels_from_a_worker(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, ProcessPoolExecutor(1) as pool:
        listener.bind(path)
        listener.listen()
        with pool.submit(handover.connected, path).result(30) as there, listener.accept()[0] as here:
            there.sendall(b"hello")
            assert here.recv(100) == b"hello"


def test_a_type_that_is_registered_with_forking_pickler_travels_both_ways() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(handover.number, handover.Handle(5)).result(30) == 5
        assert pool.submit(handover.handle_of, 6).result(30).number == 6


def test_a_registered_type_travels_with_a_closure() -> None:
    pytest.importorskip("cloudpickle")
    handle = handover.Handle(7)
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(lambda: handle.number).result(30) == 7


def test_initargs_may_hold_a_value_for_all_workers() -> None:
    spawn = multiprocessing.get_context("spawn")
    value: Any = spawn.Value("i")
    with ProcessPoolExecutor(2, spawn, handover.initialise, (value,), max_tasks_per_child=1) as pool:
        counts = [pool.submit(handover.increase) for _ in range(6)]
        assert sorted(count.result(60) for count in counts) == [1, 2, 3, 4, 5, 6]
    assert value.value == 6


def test_initargs_hold_what_is_removed_with_its_last_object() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, handover.initialise, (spawn.Value("i"),)) as pool:
        assert pool.submit(handover.increase).result(30) == 1


def test_initargs_may_hold_a_socket_for_all_workers() -> None:
    here, there = socket.socketpair()
    with here, ProcessPoolExecutor(2, None, handover.initialise, (there,), max_tasks_per_child=1) as pool:
        there.close()
        for call in [pool.submit(handover.greet_initialised) for _ in range(5)]:
            call.result(60)
        assert here.recv(100, socket.MSG_WAITALL | socket.MSG_DONTWAIT) == b"xxxxx"


def test_an_initializer_that_cannot_be_unpickled_is_named_in_words() -> None:
    with ProcessPoolExecutor(1, None, handover.initialise, (handover.FailsToUnpickle(),)) as pool:
        error = pool.submit(int).exception(60)
    assert isinstance(error, WorkerStartError)
    assert "initializer failed: ValueError: not here" in str(error)


def test_a_fork_does_not_write_to_its_parents_event_loop() -> None:
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    assert threading.current_thread() is threading.main_thread()
    before = signal.set_wakeup_fd(sender.fileno())
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            assert pool.submit(handover.wakeup_descriptor).result(30) == -1
    finally:
        signal.set_wakeup_fd(before)
        receiver.close()
        sender.close()


GENERATORS = """
    import os, random

    same = random.Random()
    generator = random.Random()
    os.register_at_fork(after_in_child=generator.seed)

    def draw():
        return same.random(), generator.random()
"""

DRAWS = """
    import model, offloop

    if __name__ == "__main__":
        with offloop.ProcessPoolExecutor(1, preload=["model"], max_tasks_per_child=1) as pool:
            draws = [pool.submit(model.draw).result(60) for _ in range(3)]
        print(len({same for same, _ in draws}), len({own for _, own in draws}))
"""


def test_preloaded_generators_differ_by_worker_if_they_are_seeded_after_the_fork(tmp_path: Path) -> None:
    scripts.write(tmp_path / "model.py", GENERATORS)
    done = scripts.run(scripts.write(tmp_path / "program.py", DRAWS))
    assert done.stdout == "1 3\n", done.stderr

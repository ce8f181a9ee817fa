"""The advice: the line to move and how, from live frames and from what the native half has read."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from offloop._offloop import Stacks
from offloop._watch import advice, report, settings, source, stack


def live(below: FrameType) -> list[stack.Frame]:
    """Returns the frames of this function's callers, without `below` and its callers."""
    frames = stack.of_frames(sys._getframe(1))
    return [stack.of_frame(frame) for frame in frames[frames.index(below) + 1 :]]


def read(below: FrameType) -> list[stack.Frame]:
    """Returns the same frames as the native half reads them."""
    frames = Stacks().take(threading.get_ident())
    assert frames is not None
    return [stack.of_native(frame) for frame in frames[len(stack.of_frames(below)) : -1]]


Taken = Callable[[FrameType], list[stack.Frame]]


@pytest.fixture(params=[live, read])
def take(request: pytest.FixtureRequest) -> Taken:
    taken: Taken = request.param
    return taken


def drive(main: Any) -> None:
    """Runs a coroutine as a loop does, but without a loop's frames."""
    try:
        main.send(None)
    except StopIteration:
        pass


class Code:
    """A user's file."""

    def __init__(self, directory: Path, take: Taken) -> None:
        self._path = directory / "user.py"
        self._take = take

    def stack(self, code: str) -> list[stack.Frame]:
        """Returns the stack at which the file's `main()` calls `look()`."""
        self._path.write_text(textwrap.dedent(code))
        seen: list[list[stack.Frame]] = []
        below = sys._getframe()

        def look(*args: object, **options: object) -> int:
            frames = self._take(below)
            seen.append([frame for frame in frames if frame.file == str(self._path)])
            return 1

        scope: dict[str, Any] = {"look": look, "asyncio": asyncio}
        exec(compile(self._path.read_text(), str(self._path), "exec"), scope)
        result = scope["main"]()
        if asyncio.iscoroutine(result):
            drive(result)
        return seen[0]

    def advice(self, code: str, computes: bool = False) -> advice.Advice:
        # The advice takes `look` for a function written in C.
        return advice.advise(self.stack(code), computes, False)


@pytest.fixture
def code(tmp_path: Path, take: Taken) -> Code:
    return Code(tmp_path, take)


def test_a_call_is_reported_with_its_arguments(code: Code) -> None:
    found = code.advice(
        """
        async def main():
            value = look(1, "two", *[3], key=4, **{}) + 5
        """
    )
    assert found.moves == 'look(1, "two", *[3], key=4, **{})'
    assert found.text == '`await offloop.run(look, 1, "two", *[3], key=4, **{})`'
    assert (found.place.line, found.place.name) == (3, "main")


def test_a_call_over_several_lines_is_reported_on_one(code: Code) -> None:
    found = code.advice(
        """
        async def main():
            value = (
                look(
                    1,
                    [
                        2,
                    ],
                )
            )
        """
    )
    assert found.moves == "look(1, [ 2, ])"


def test_a_method_is_reported_with_its_object(code: Code) -> None:
    found = code.advice(
        """
        class It:
            method = staticmethod(look)

        async def main():
            some = [It()]
            some[0].method("ü", 2)
        """
    )
    assert found.text == '`await offloop.run(some[0].method, "ü", 2)`'


def test_the_place_to_await_is_the_innermost_coroutine(code: Code) -> None:
    found = code.advice(
        """
        def deep():
            look()

        def helper(x):
            deep()

        async def inner():
            helper(1)

        async def main():
            await inner()
        """
    )
    assert (found.place.name, found.moves) == ("inner", "helper(1)")


def test_a_plain_callback_gets_the_advice_to_await_elsewhere(code: Code) -> None:
    found = code.advice(
        """
        def helper():
            look()

        def main():
            helper()
        """
    )
    assert (found.place.name, found.moves) == ("main", "helper()")
    assert found.text.startswith("`offloop.run(helper)` returns a future at once; ")


def test_a_call_that_computes_goes_to_processes(code: Code) -> None:
    found = code.advice("async def main():\n    look(1)\n", computes=True)
    assert found.text == "`await offloop.run_cpu(look, 1)`"


@pytest.mark.parametrize(
    "loop",
    [
        "for i in range(3):\n        look(i)",
        "while True:\n        look(0)\n        break",
        "[look(i) for i in range(3)]",
        "{i: look(i) for i in range(3)}",
    ],
)
def test_one_of_many_calls_is_moved_with_its_loop(code: Code, loop: str) -> None:
    found = code.advice(f"async def main():\n    {loop}\n", computes=True)
    assert "move the whole loop" in found.text or found.moves is None


def test_the_iterable_of_a_loop_is_called_once(code: Code) -> None:
    found = code.advice("async def main():\n    for i in [look(5)]:\n        pass\n", computes=True)
    assert found.text == "`await offloop.run_cpu(look, 5)`"


def test_a_call_with_a_generator_is_not_sent_to_a_process(code: Code) -> None:
    found = code.advice("async def main():\n    look(i for i in [])\n", computes=True)
    assert found.moves is None
    assert found.text.startswith("put this into a function of its own; ")
    found = code.advice("async def main():\n    look(i for i in [])\n")
    assert found.moves is not None


def test_code_that_is_not_a_call_is_to_become_one(code: Code) -> None:
    found = code.advice(
        """
        class It:
            @property
            def slow(self):
                return look()

        async def main():
            It().slow
        """
    )
    assert found.place.name == "main"
    assert "function of its own" in found.text or found.moves == "It()"


def test_an_import_is_to_be_at_the_top(code: Code, tmp_path: Path) -> None:
    (tmp_path / "slowly_imported.py").write_text(
        "import builtins\nbuiltins.look_while_importing()\n"
    )
    import builtins

    seen: list[list[stack.Frame]] = []
    below = sys._getframe()
    vars(builtins)["look_while_importing"] = lambda: seen.append(code._take(below))
    path = tmp_path / "user.py"
    path.write_text("async def main():\n    from slowly_imported import builtins\n")
    scope: dict[str, Any] = {}
    sys.path.insert(0, str(tmp_path))
    try:
        exec(compile(path.read_text(), str(path), "exec"), scope)
        drive(scope["main"]())
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("slowly_imported", None)
        del vars(builtins)["look_while_importing"]
    frames = [frame for frame in seen[0] if frame.file != __file__]
    found = advice.advise(frames, False, False)
    assert found.place.name == "main"
    assert found.moves == "from slowly_imported import builtins"
    assert found.text == "import it at the top of the module, before the loop runs"


def test_of_several_calls_on_a_line_only_the_one_that_runs_is_reported(code: Code) -> None:
    found = code.advice("async def main():\n    print(len([look(1)]))\n")
    assert found.moves == "look(1)"


def test_a_library_that_calls_a_plain_function_is_not_to_be_changed(code: Code) -> None:
    frames = code.stack("def main():\n    look(1)\n")
    library = stack.Frame("/x/site-packages/lib.py", 3, "serve", "serve", is_async=True)
    found = advice.advise([library, *frames], False, False)
    assert found.place == frames[0]
    assert "`offloop.run(look, 1)` returns a future at once" in found.text


OWN = stack.Frame("/home/user/app.py", 7, "handler", "handler", is_async=True)


def in_library(name: str, function: str, is_async: bool = False) -> stack.Frame:
    return stack.Frame(f"/x/site-packages/{name}/core.py", 3, function, function, is_async=is_async)


def test_a_library_that_blocks_in_its_own_coroutine_is_named_and_the_users_line_is_blamed() -> None:
    found = advice.advise([OWN, in_library("lib", "get", True)], False, False)
    assert (found.place, found.moves) == (OWN, None)
    assert found.text == (
        "the library lib holds the loop, at /x/site-packages/lib/core.py:3 in get"
    )


def test_without_a_line_of_the_users_own_there_is_no_advice_to_move_anything() -> None:
    frames = [in_library("starlette", "app", True), in_library("anyio", "start_soon")]
    found = advice.advise(frames, True, False)
    assert (found.place, found.moves) == (frames[0], None)
    assert found.text.startswith("no line of your own is on the stack; the library anyio ")
    assert "offloop.run" not in found.text


@pytest.mark.parametrize("library", ["asyncio", "anyio", "uvloop"])
def test_a_call_that_belongs_to_the_loop_is_not_to_be_moved(library: str) -> None:
    found = advice.advise([OWN, in_library(library, "start_soon")], True, False)
    assert (found.place, found.moves) == (OWN, None)
    assert "cannot be moved" in found.text


def test_a_loops_function_without_a_frame_is_not_to_be_moved(code: Code) -> None:
    found = code.advice(
        """
        class group:
            start_soon = staticmethod(look)

        async def main():
            group.start_soon(5)
        """,
        computes=True,
    )
    assert found.moves is None
    assert "cannot be moved" in found.text


def test_offloops_own_first_call_is_not_to_be_moved() -> None:
    package = str(Path(stack.__file__).parents[1])
    pool = stack.Frame(f"{package}/_pools/processes.py", 9, "Pool.start", "start")
    found = advice.advise([OWN, pool], True, False)
    assert found.is_offloop
    assert (found.place, found.moves) == (OWN, None)
    assert "before the loop runs" in found.text
    packs = stack.Frame(f"{package}/_worker/pickling.py", 9, "dumps", "dumps")
    found = advice.advise([OWN, pool, packs], True, False)
    assert not found.is_offloop
    assert "pack" in found.text
    machinery = stack.Frame("<frozen importlib._bootstrap>", 1, "_find_and_load", "_find_and_load")
    found = advice.advise([OWN, pool, machinery], True, False)
    assert found.is_offloop and found.is_import


def test_a_librarys_first_import_is_named() -> None:
    machinery = stack.Frame("<frozen importlib._bootstrap>", 1, "_find_and_load", "_find_and_load")
    module = stack.Frame("/x/site-packages/pandas/__init__.py", 1, "<module>", "<module>")
    found = advice.advise([OWN, in_library("lib", "plot"), machinery, module], True, False)
    assert found.is_import and not found.is_offloop
    assert (found.place, found.moves) == (OWN, None)
    assert found.text == (
        "the library lib imports a module at its first use (`import pandas`); import it before the loop runs"
    )


@pytest.mark.parametrize(
    "line", ["for _ in look(5):\n        pass", "with look(5):\n        pass", "[1 for _ in look(5)]"]
)
def test_a_statement_that_goes_on_with_a_calls_result_is_not_that_call(tmp_path: Path, line: str) -> None:
    path = tmp_path / "user.py"
    path.write_text(f"async def main():\n    {line}\n")
    begin = path.read_text().splitlines()[1].index("look")
    span = stack.Span(2, 2, begin, begin + len("look(5)"))
    frame = stack.Frame(str(path), 2, "main", "main", 1, True, span)
    assert source.at(frame, None) is None


def test_a_file_that_is_gone_or_does_not_parse_has_no_calls(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n    look()\n")
    for file in (str(broken), str(tmp_path / "gone.py"), "<stdin>"):
        frame = stack.Frame(file, 2, "f", "f")
        assert source.at(frame, None) is None
        assert not source.is_async(frame)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("2s", 2.0), (" 1.5 S", 1.5), ("1ms", 0.001)],
)
def test_a_length_of_time_is_read(text: str, seconds: float) -> None:
    assert settings.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "ms", "0", "50", "0.5", "-1s", "nan", "nans", "inf", "1m", "0.1ms"])
def test_a_text_that_is_not_a_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        settings.seconds(text)


def test_a_report_has_all_parts() -> None:
    frame = stack.Frame("/home/user/app.py", 7, "Api.handler", "handler", is_async=True)
    deep = stack.Frame("/home/user/db.py", 9, "query", "query")
    stall = report.Stall(
        late=0.1234,
        starved=0.05,
        cause="waits",
        file=frame.file,
        line=7,
        function="Api.handler",
        call="query(1)",
        advice="`await offloop.run(query, 1)`",
        task="Task-7",
        callback="Api.handler",
        thread="MainThread",
        stack=(frame, deep),
        deepest=deep,
        count=4,
    )
    assert str(stall).splitlines() == [
        "the event loop has stood still for 0.123 s, and had no core for 0.05 s more: it waits in query(1)",
        "  at      /home/user/app.py:7 in Api.handler",
        "  task    'Task-7', coroutine Api.handler",
        "  advice  `await offloop.run(query, 1)`",
        "  deepest /home/user/db.py:9 in query",
        "  count   the loop has stood still here 4 times so far",
        "  stack of thread 'MainThread', most recent call last",
        '    File "/home/user/app.py", line 7, in Api.handler',
        '    File "/home/user/db.py", line 9, in query',
    ]

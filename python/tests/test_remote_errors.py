import builtins
import concurrent.futures.process
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from offloop import _offloop
from offloop._worker import pickling
from offloop._worker.remote_errors import RemoteError, pack, unpack


def caught(exc: BaseException) -> BaseException:
    """Returns `exc` with the traceback of this raise."""
    try:
        raise exc  # the line of the raise
    except BaseException as error:
        return error


def travel(exc: BaseException) -> BaseException:
    return unpack(pack(caught(exc)))


def remote_text(exc: BaseException) -> str:
    cause: Any = exc.__cause__
    assert type(cause) is getattr(concurrent.futures.process, "_RemoteTraceback")
    assert isinstance(cause.tb, str)
    return cause.tb


class Detailed(Exception):
    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class NeedsTwo(Exception):
    """Can be pickled but not unpickled, because its constructor takes other arguments than `args`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("frozen")


class FailsToReduce(Exception):
    def __reduce__(self) -> NoReturn:
        raise self.args[0]


class FailsToPrint(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


class BecomesString(Exception):
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return str, ("no exception",)


class Pretender(str):
    def __reduce__(self) -> NoReturn:
        raise ValueError


class PrintsPretender(Exception):
    def __str__(self) -> str:
        return Pretender("pretended")

    def __reduce__(self) -> NoReturn:
        raise ValueError


def test_type_arguments_and_attributes_survive() -> None:
    exc = travel(Detailed("broken", code=7))
    assert type(exc) is Detailed
    assert exc.args == ("broken",)
    assert exc.code == 7


def test_the_remote_traceback_is_the_cause() -> None:
    exc = travel(ValueError("broken"))
    text = remote_text(exc)
    assert "raise exc  # the line of the raise" in text
    assert text.rstrip('\n"').endswith("ValueError: broken")


def test_causes_and_contexts_of_the_original_are_in_the_text() -> None:
    third = ValueError("third")
    try:
        try:
            raise OSError("first")
        except OSError:
            raise KeyError("second")
    except KeyError as error:
        third.__cause__ = error
    text = remote_text(travel(third))
    assert text.index("first") < text.index("second") < text.index("third")
    assert "direct cause" in text


@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_base_exceptions_travel_as_they_are(exc: BaseException) -> None:
    back = travel(exc)
    assert type(back) is type(exc)
    assert back.args == exc.args


def test_notes_survive() -> None:
    for original in [ValueError("broken"), NeedsTwo("broken", 1)]:
        setattr(original, "__notes__", ["while reading a.csv", "line 7"])
        assert getattr(travel(original), "__notes__") == ["while reading a.csv", "line 7"]


def test_frames_of_the_worker_are_not_shown() -> None:
    with pytest.raises(ValueError) as raised:
        pickling.dumps(FailsToReduce(ValueError("inner")), lambda buffer: False)
    # In a worker, no frames of a test are above the call.
    error = raised.value.with_traceback(raised.tb.tb_next)
    text = remote_text(unpack(pack(error)))
    assert "pickling.py" not in text
    assert "raise self.args[0]" in text


def test_an_exception_that_forbids_assignment_gets_its_traceback() -> None:
    exc = travel(Frozen(7))
    assert isinstance(exc, Frozen)
    assert exc.args == (7,)
    assert "the line of the raise" in remote_text(exc)


@pytest.mark.parametrize(
    ("original", "name", "text", "reason"),
    [
        (NeedsTwo("broken", 1), "NeedsTwo", "broken", "TypeError"),
        (BecomesString("broken"), "BecomesString", "broken", "builtins.str"),
        (FailsToReduce(ValueError("inner")), "FailsToReduce", "inner", "ValueError: inner"),
        (FailsToReduce(SystemExit(9)), "FailsToReduce", "9", "SystemExit: 9"),
        (FailsToReduce(KeyboardInterrupt()), "FailsToReduce", "", "KeyboardInterrupt"),
        (FailsToReduce(MemoryError()), "FailsToReduce", "", "MemoryError"),
        (PrintsPretender(), "PrintsPretender", "pretended", "ValueError"),
        (Detailed("locked", threading.Lock()), "Detailed", "locked", "TypeError: cannot pickle"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_exception_that_cannot_travel_is_described_with_the_reason(
    original: BaseException, name: str, text: str, reason: str
) -> None:
    exc = travel(original)
    assert type(exc) is RemoteError
    assert exc.type_name == f"{__name__}.{name}"
    assert exc.text == text
    assert reason in exc.reason
    for part in [exc.type_name, text, reason]:
        assert part in str(exc)
    assert "the line of the raise" in remote_text(exc)


def test_an_exception_that_cannot_be_printed_travels() -> None:
    exc = travel(FailsToPrint("unprintable"))
    assert type(exc) is FailsToPrint
    assert exc.args == ("unprintable",)
    assert "FailsToPrint" in remote_text(exc)


def test_an_exception_whose_traceback_cannot_be_formatted_travels() -> None:
    details: Any = ("file", 1, "no offset", "text")
    exc = travel(SyntaxError("bad", details))
    assert type(exc) is SyntaxError
    assert "SyntaxError: bad" in remote_text(exc)


def test_a_remote_error_can_travel_on() -> None:
    exc = travel(RemoteError("app.Broken", "text", "reason"))
    assert type(exc) is RemoteError
    assert (exc.type_name, exc.text, exc.reason) == ("app.Broken", "text", "reason")


def test_an_exception_that_only_the_worker_can_import_becomes_a_remote_error(
    tmp_path: Path,
) -> None:
    (tmp_path / "only_there.py").write_text("class Odd(Exception): pass")
    code = f"""
    import sys
    sys.path.append({str(tmp_path)!r})
    from only_there import Odd
    from offloop._worker.remote_errors import pack
    sys.stdout.buffer.write(pack(Odd("odd")))
    """
    data = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    ).stdout
    exc = unpack(data)
    assert type(exc) is RemoteError
    assert (exc.type_name, exc.text) == ("only_there.Odd", "odd")
    assert "No module named 'only_there'" in exc.reason
    assert "Odd: odd" in remote_text(exc)


def test_an_exception_of_a_local_class_travels_by_cloudpickle() -> None:
    pytest.importorskip("cloudpickle")

    class Local(Exception): ...

    assert type(travel(Local("here"))) is Local


class TestGroups:
    def group(self, message: str, parts: list[BaseException]) -> Any:
        return getattr(builtins, "BaseExceptionGroup")(message, parts)

    def test_the_exceptions_in_a_group_survive(self) -> None:
        inner = self.group("inner", [caught(Detailed("a", 1)), KeyError("b")])
        exc: Any = travel(self.group("outer", [inner, OSError(2, "c")]))
        assert type(exc).__name__ == "ExceptionGroup"
        assert exc.message == "outer"
        detailed, key = exc.exceptions[0].exceptions
        assert (type(detailed), detailed.code) == (Detailed, 1)
        assert type(key) is KeyError
        assert type(exc.exceptions[1]) is FileNotFoundError
        assert "the line of the raise" in remote_text(exc)

    def test_only_the_exceptions_that_cannot_travel_are_replaced(self) -> None:
        inner = self.group("inner", [NeedsTwo("a", 1), KeyError("b")])
        inner.add_note("noted")
        exc: Any = travel(self.group("outer", [inner, SystemExit(3)]))
        assert type(exc).__name__ == "BaseExceptionGroup"
        assert exc.exceptions[0].__notes__ == ["noted"]
        replaced, key = exc.exceptions[0].exceptions
        assert type(replaced) is RemoteError
        assert replaced.type_name == f"{__name__}.NeedsTwo"
        assert type(key) is KeyError
        assert type(exc.exceptions[1]) is SystemExit

    def test_a_group_too_deep_to_pickle_still_arrives(self) -> None:
        exc: Any = NeedsTwo("deep", 1)
        for _ in range(1_200):
            exc = self.group("level", [exc])
        assert type(travel(exc)).__name__ in ["ExceptionGroup", "RemoteError"]


def test_the_bytes_hold_no_object_that_could_fail_before_the_exception_does() -> None:
    # The envelope holds plain strings only, so that an error can always be reported.
    envelope = _offloop.decode_data(pack(PrintsPretender()), ())
    assert [type(part) for part in envelope] == [bytes, str, str, str, list]

import contextvars
import pickle
import subprocess
import sys
import textwrap
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from offloop._worker.context import capture, locate, run_in

request_id: ContextVar[str] = ContextVar("request_id")
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def current() -> tuple[str | None, str]:
    return request_id.get(None), tenant.get()


def in_new_process(*args: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *args], capture_output=True, timeout=60, cwd=cwd)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_values_are_set_around_the_call_and_nowhere_else() -> None:
    def call() -> None:
        located = locate([request_id, tenant])
        request_id.set("r1")
        tenant.set("acme")
        values = pickle.loads(pickle.dumps(capture(located)))
        contextvars.Context().run(check, values)

    def check(values: dict[str, object]) -> None:
        assert run_in(values, current) == ("r1", "acme")
        assert current() == (None, "nobody")

    contextvars.copy_context().run(call)


def test_a_variable_without_a_value_stays_without_one() -> None:
    assert capture(locate([request_id, tenant])) == {}
    assert run_in({}, current) == (None, "nobody")


def test_a_value_that_the_call_sets_is_gone_after_it() -> None:
    run_in({}, request_id.set, "r2")
    assert request_id.get(None) is None


def test_arguments_reach_the_call() -> None:
    def fn(*args: object, **kwargs: object) -> object:
        return args, kwargs

    assert run_in({}, fn, 1, fn_=2, values=3) == ((1,), {"fn_": 2, "values": 3})


def test_values_follow_a_variable_into_another_process(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from contextvars import ContextVar\nuser = ContextVar('u')\ndef name(): return user.get()\n"
    )
    # `__main__` has imported the variable, but it is found under the name of its own module.
    (tmp_path / "script.py").write_text(
        "from app import user\nfrom offloop._worker.context import *\n"
        "located = locate([user])\nuser.set('ann')\nprint(capture(located))\n"
    )
    values = in_new_process("script.py", cwd=tmp_path).strip()
    assert values == "{'app:user': 'ann'}"
    worker = f"import app; from offloop._worker.context import run_in; print(run_in({values}, app.name))"
    assert in_new_process("-c", worker, cwd=tmp_path) == "ann\n"


def test_a_variable_of_the_main_script_is_found_there(tmp_path: Path) -> None:
    code = """
    from contextvars import ContextVar
    from offloop._worker.context import locate
    user = ContextVar("user")
    try:
        print(list(locate([user])))
    except ValueError as error:
        print(error)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    assert in_new_process("script.py", cwd=tmp_path) == "['__main__:user']\n"
    # No worker could import a variable that was typed at a prompt.
    assert "top level of a module" in in_new_process("-c", textwrap.dedent(code), cwd=tmp_path)


def test_a_variable_that_no_module_has_is_refused_with_advice() -> None:
    local: ContextVar[int] = ContextVar("local")
    with pytest.raises(ValueError, match="name='local'.*at the top level of a module"):
        locate([tenant, local])


def test_only_context_variables_are_accepted() -> None:
    not_a_variable: Any = "request_id"
    with pytest.raises(TypeError, match="not 'request_id'"):
        locate([not_a_variable])

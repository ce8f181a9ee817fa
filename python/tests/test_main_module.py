"""The main module in workers. Each test runs two real processes: a parent that describes itself, and a worker."""

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from offloop._worker import main_module

PARENT = textwrap.dedent(
    """
    import pickle, sys
    from offloop._worker import main_module

    def double(x):
        return 2 * x

    if __name__ == "__main__":
        described = main_module.preparation()
        sys.stdout.buffer.write(pickle.dumps((described, main_module.is_importable(), pickle.dumps(double))))
    """
)

BEGIN = "import pickle, sys; from offloop._worker import main_module; described = pickle.load(sys.stdin.buffer)\n"
PREPARE = "main_module.prepare_base(described); main_module.prepare_multiprocessing(described)"


def python(*args: str, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
    done = subprocess.run(
        [sys.executable, *args], input=stdin, capture_output=True, cwd=cwd, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def described_by(out: bytes) -> tuple[dict[str, Any], bool, bytes]:
    described, importable, function = pickle.loads(out)
    return described, importable, function


def in_worker(described: dict[str, Any], code: str) -> str:
    """Returns what `code` prints in a worker that got `described`."""
    program = BEGIN + textwrap.dedent(code)
    return python("-c", program, stdin=pickle.dumps(described)).decode().strip()


def call_double(described: dict[str, Any], function: bytes) -> str:
    return in_worker(
        described,
        f"""
        function = {function!r}
        main_module.prepare_base(described); main_module.prepare_multiprocessing(described)
        assert main_module.is_importable()
        assert main_module.needs_main(function)
        main_module.prepare_main(described)
        main_module.prepare_main(described)
        double = pickle.loads(function)
        assert double.__module__ == "__mp_main__"
        print(double(21))
        """,
    )


def test_a_worker_calls_a_function_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PARENT)
    described, importable, function = described_by(python("script.py", cwd=tmp_path))
    assert importable
    assert call_double(described, function) == "42"


def test_a_worker_calls_a_function_of_a_module_run_by_name(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tool.py").write_text(PARENT.replace("2 * x", "x + answer.HALF"))
    (package / "answer.py").write_text("HALF = 21")
    tool = (
        (package / "tool.py")
        .read_text()
        .replace("import pickle", "from . import answer; import pickle")
    )
    (package / "tool.py").write_text(tool)
    described, importable, function = described_by(python("-m", "app.tool", cwd=tmp_path))
    assert importable
    assert described["init_main_from_name"] == "app.tool"
    assert call_double(described, function) == "42"


def test_no_worker_can_import_what_was_typed_at_a_prompt(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__main__.py").write_text(PARENT)
    outputs = {
        "-c": python("-c", PARENT),
        "stdin": python("-", stdin=PARENT.encode()),
        "__main__.py of a package": python("-m", "app", cwd=tmp_path),
        "a directory": python(str(package)),
    }
    for way, out in outputs.items():
        described, importable, _ = described_by(out)
        assert not importable, way
        assert not any(key.startswith("init_main") for key in described), way


def test_a_worker_takes_over_path_arguments_directory_name_and_key(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PARENT)
    described, _, _ = described_by(python("script.py", "--flag", cwd=tmp_path))
    printed = in_worker(
        described,
        """
        import multiprocessing, os
        main_module.prepare_base(described); main_module.prepare_multiprocessing(described)
        current = multiprocessing.current_process()
        assert bytes(current.authkey) == described["authkey"]
        assert "__mp_main__" not in sys.modules or sys.modules["__mp_main__"].__dict__ is globals()
        print(sys.path[0], sys.argv[1], os.getcwd(), current.name)
        """,
    )
    assert printed == f"{tmp_path} --flag {tmp_path} OffloopWorker"


def test_parent_process_is_the_process_that_has_the_pool() -> None:
    described = main_module.preparation()
    printed = in_worker(
        described,
        """
        import multiprocessing
        main_module.prepare_base(described); main_module.prepare_multiprocessing(described)
        parent = multiprocessing.parent_process()
        print(parent.pid, parent.name, parent.is_alive())
        """,
    )
    assert printed == f"{os.getpid()} MainProcess True"


def test_describing_leaves_the_start_method_open() -> None:
    code = """
    import multiprocessing
    from offloop._worker import main_module
    assert "start_method" not in main_module.preparation()
    multiprocessing.set_start_method("spawn")
    assert main_module.preparation()["start_method"] == "spawn"
    """
    python("-c", textwrap.dedent(code))


def test_a_worker_may_have_another_directory(tmp_path: Path) -> None:
    described = main_module.preparation(name="elsewhere", cwd=str(tmp_path))
    code = f"import os; {PREPARE}; print(os.getcwd())"
    assert in_worker(described, code) == str(tmp_path)


def test_a_pool_in_a_worker_passes_on_the_main_module_before_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PARENT)
    described, _, function = described_by(python("script.py", cwd=tmp_path))
    worker = (
        BEGIN
        + f"{PREPARE}; sys.stdout.buffer.write(pickle.dumps(main_module.preparation()))"
    )
    described = pickle.loads(python("-c", worker, stdin=pickle.dumps(described)))
    assert call_double(described, function) == "42"


def test_a_script_that_makes_a_pool_when_imported_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from offloop._worker import main_module\nmain_module.refuse_while_importing_main()\n")
    python(str(script))
    described = {**main_module.preparation(), "init_main_from_path": str(script)}
    printed = in_worker(
        described,
        """
        main_module.prepare_base(described); main_module.prepare_multiprocessing(described)
        main_module.refuse_while_importing_main()
        for _ in range(2):
            try:
                main_module.prepare_main(described)
            except RuntimeError as error:
                print(error)
        main_module.refuse_while_importing_main()
        """,
    )
    assert printed.count('if __name__ == "__main__":') == 2


def test_a_script_that_starts_a_process_when_imported_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\nmultiprocessing.get_context('spawn').Process(target=print).start()\n"
    )
    described = {**main_module.preparation(), "init_main_from_path": str(script)}
    printed = in_worker(
        described,
        """
        main_module.prepare_base(described); main_module.prepare_multiprocessing(described)
        try:
            main_module.prepare_main(described)
        except RuntimeError as error:
            print(error)
        """,
    )
    assert "__name__ == '__main__'" in printed


def test_a_script_that_exits_when_imported_raises_no_system_exit(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.exit(3)\n")
    described = {**main_module.preparation(), "init_main_from_path": str(script)}
    printed = in_worker(
        described,
        """
        main_module.prepare_base(described); main_module.prepare_multiprocessing(described)
        try:
            main_module.prepare_main(described)
        except RuntimeError as error:
            print(error)
        """,
    )
    assert "calls sys.exit()" in printed


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_needs_main_sees_every_reference(module: str, protocol: int) -> None:
    class Thing: ...

    Thing.__module__, Thing.__qualname__ = module, "Thing"
    setattr(sys.modules["__main__"], "Thing", Thing)
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    try:
        assert main_module.needs_main(pickle.dumps(Thing, protocol))
    finally:
        delattr(sys.modules["__main__"], "Thing")
    assert not main_module.needs_main(pickle.dumps(Path, protocol))

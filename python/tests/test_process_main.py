"""Objects defined in `__main__` reach workers, in each way to start Python."""

import subprocess
import time
from pathlib import Path

import pytest
from support import scripts

NO_CLOUDPICKLE = """
import sys
sys.modules["cloudpickle"] = None
"""
"""Makes the import of cloudpickle fail, here and in the workers, which do not need it."""


def output(done: "subprocess.CompletedProcess[str]") -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


GUARDED = """
    import sys
    from offloop import ProcessPoolExecutor

    class Point:
        def __init__(self, x):
            self.x = x
        def moved(self, by):
            return Point(self.x + by)

    def double(x):
        return 2 * x

    if __name__ == "__main__":
        with ProcessPoolExecutor(2) as pool:
            point = pool.submit(Point(1).moved, 2).result()
            assert type(point) is Point, type(point)
            print(pool.submit(double, 3).result(), point.x, *pool.map(double, range(3)))
"""


@pytest.mark.parametrize("prelude", ["", NO_CLOUDPICKLE], ids=["cloudpickle", "plain"])
def test_a_guarded_scripts_functions_and_classes_travel(tmp_path: Path, prelude: str) -> None:
    script = scripts.write(tmp_path / "script.py", GUARDED)
    script.write_text(prelude + script.read_text())
    assert output(scripts.run(script)) == ["6", "3", "0", "2", "4"]


def test_a_module_and_a_package_run_with_dash_m(tmp_path: Path) -> None:
    scripts.write(tmp_path / "module.py", GUARDED)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    scripts.write(tmp_path / "package" / "inner.py", GUARDED)
    scripts.write(tmp_path / "package" / "__main__.py", GUARDED)
    for name in ("module", "package.inner", "package"):
        assert output(scripts.run("-m", name, cwd=tmp_path)) == ["6", "3", "0", "2", "4"], name


UNGUARDED = """
    from offloop import ProcessPoolExecutor

    def double(x):
        return 2 * x

    with ProcessPoolExecutor(2) as pool:
        print(pool.submit(double, 3).result())
"""


def test_an_unguarded_script_ends_with_advice(tmp_path: Path) -> None:
    script = scripts.write(tmp_path / "script.py", UNGUARDED)
    done = scripts.run(script)
    assert done.returncode != 0
    assert 'if __name__ == "__main__":' in done.stderr
    assert "RuntimeError" in done.stderr


def test_an_unguarded_script_that_needs_nothing_of_main_works(tmp_path: Path) -> None:
    script = scripts.write(tmp_path / "script.py", UNGUARDED.replace("double, 3", "abs, -3"))
    assert output(scripts.run(script)) == ["3"]


def test_a_script_that_exits_when_imported_gets_an_error_that_says_so(tmp_path: Path) -> None:
    code = """
        import sys
        from offloop import ProcessPoolExecutor

        def double(x):
            return 2 * x

        def main():
            with ProcessPoolExecutor(1) as pool:
                print(type(pool.submit(double, 3).exception()).__name__)

        if __name__ == "__main__":
            main()
        sys.exit(0)
    """
    assert output(scripts.run(scripts.write(tmp_path / "script.py", code))) == ["RuntimeError"]


INTERACTIVE = """\
from offloop import ProcessPoolExecutor
pool = ProcessPoolExecutor(1)
def double(x): return 2 * x

class Point: x = 5

factor = 10
print(pool.submit(double, 3).result())
print(pool.submit(lambda x: factor * x, 3).result())
print(pool.submit(getattr, Point, "x").result())
print(type(pool.submit(Point).result()) is Point)
pool.shutdown()
"""


@pytest.mark.parametrize("way", ["-c", "-", "-i"])
def test_functions_typed_at_a_prompt_travel_with_cloudpickle(tmp_path: Path, way: str) -> None:
    pytest.importorskip("cloudpickle")
    if way == "-c":
        done = scripts.run("-c", INTERACTIVE)
    else:
        done = scripts.run(way, stdin=INTERACTIVE)
    assert output(done) == ["6", "30", "5", "True"], done.stderr


@pytest.mark.parametrize("way", ["-c", "-", "-i"])
def test_functions_typed_at_a_prompt_fail_without_cloudpickle_with_advice(way: str) -> None:
    code = NO_CLOUDPICKLE + (
        "from offloop import ProcessPoolExecutor\n"
        "pool = ProcessPoolExecutor(1)\n"
        "def double(x): return 2 * x\n"
        "\n"
        "for fn in (double, lambda x: x): print(repr(pool.submit(fn, 3).exception()))\n"
        "\n"
        "print(pool.submit(abs, -3).result())\n"
        "pool.shutdown()\n"
    )
    done = scripts.run("-c", code) if way == "-c" else scripts.run(way, stdin=code)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.strip().splitlines()[-3:]
    for line in (first, second):
        assert line.startswith("PicklingError") and "offloop[cloudpickle]" in line
    assert last == "3"


def test_closures_and_lambdas_of_a_script_travel_with_cloudpickle(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    code = """
        from offloop import ProcessPoolExecutor

        def make(factor):
            def times(x):
                return factor * x
            return times

        if __name__ == "__main__":
            with ProcessPoolExecutor(1) as pool:
                print(pool.submit(make(4), 3).result(), pool.submit(lambda: 5).result())
                print(pool.submit(lambda: lambda: 6).result()())
    """
    assert output(scripts.run(scripts.write(tmp_path / "script.py", code))) == ["12", "5", "6"]


def test_main_is_imported_once_for_all_when_it_is_preloaded(tmp_path: Path) -> None:
    code = """
        import os, sys
        from offloop import ProcessPoolExecutor

        print("imported")

        def pid():
            return os.getpid()

        if __name__ == "__main__":
            with ProcessPoolExecutor(2, preload=["__main__"], max_tasks_per_child=1) as pool:
                print(len({pool.submit(pid).result() for _ in range(6)}))
    """
    done = scripts.run(scripts.write(tmp_path / "script.py", code))
    assert output(done) == ["imported", "imported", "6"]


def test_workers_have_the_scripts_arguments_and_path(tmp_path: Path) -> None:
    code = """
        import sys
        from offloop import ProcessPoolExecutor

        def arguments():
            import neighbour
            return sys.argv[1:], neighbour.VALUE

        if __name__ == "__main__":
            with ProcessPoolExecutor(1) as pool:
                assert pool.submit(arguments).result() == (["a", "b"], 3)
                print("same")
    """
    (tmp_path / "neighbour.py").write_text("VALUE = 3")
    script = scripts.write(tmp_path / "script.py", code)
    assert output(scripts.run(script, "a", "b")) == ["same"]


def test_a_script_may_have_an_odd_name(tmp_path: Path) -> None:
    script = scripts.write(tmp_path / "an odd näme.py", GUARDED)
    assert output(scripts.run(script)) == ["6", "3", "0", "2", "4"]

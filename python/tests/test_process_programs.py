"""Workers start in programs of all kinds, or the error says what to do."""

from __future__ import annotations

import faulthandler
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import offloop
import pytest
from support import scripts

POOL = """
    import logging, sys
    from offloop import ProcessPoolExecutor

    if __name__ == "__main__":
        with ProcessPoolExecutor(1) as pool:
            print(repr(pool.submit(pow, 2, 3).exception(60) or "fine"))
"""

SHADOWS = ["logging.py", "signal.py", "types.py", "pickle.py", "importlib.py", "multiprocessing.py"]


@pytest.mark.parametrize("name", SHADOWS)
def test_the_template_runs_nothing_of_the_current_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "here").mkdir()
    scripts.write(tmp_path / "here" / name, "print('run by mistake', flush=True)")
    program = scripts.write(tmp_path / "program.py", POOL)
    done = scripts.run(program, cwd=tmp_path / "here")
    assert done.stdout == "'fine'\n", done.stderr


def test_the_template_finds_the_standard_library_before_what_is_beside_the_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(Path(offloop.__file__).parent, site / "offloop")
    scripts.write(site / "logging.py", "print('run by mistake', flush=True)")
    path = [entry for entry in sys.path if not entry.endswith("site-packages") and os.path.isdir(entry)]
    code = f"import sys; sys.path[:] = {[*path, str(site)]!r}\n"
    program = scripts.write(tmp_path / "program.py", POOL)
    program.write_text(code + program.read_text())
    done = scripts.run("-S", program)
    assert done.stdout == "'fine'\n", done.stderr


def test_the_template_imports_the_package_that_its_parent_has(tmp_path: Path) -> None:
    other = tmp_path / "other" / "offloop"
    other.mkdir(parents=True)
    scripts.write(other / "__init__.py", "raise ImportError('another package of that name')")
    code = """
        import sys, offloop
        sys.path.insert(0, sys.argv[1])

        if __name__ == "__main__":
            with offloop.ProcessPoolExecutor(1) as pool:
                print(pool.submit(abs, -1).result(60))
    """
    done = scripts.run(scripts.write(tmp_path / "program.py", code), other.parent)
    assert done.stdout == "1\n", done.stderr


DELETED = """
    import os, sys, tempfile, offloop

    if __name__ == "__main__":
        directory = tempfile.mkdtemp()
        os.chdir(directory)
        if sys.argv[1] == "before":
            os.rmdir(directory)
        with offloop.ProcessPoolExecutor(1) as pool:
            if sys.argv[1] == "after":
                os.rmdir(directory)
            print(pool.submit(abs, -1).result(60))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_pool_works_in_a_directory_that_was_deleted(tmp_path: Path, when: str) -> None:
    done = scripts.run(scripts.write(tmp_path / "program.py", DELETED), when)
    assert done.stdout == "1\n", done.stderr


FROZEN = """
    import os, sys
    with open(os.environ["STARTS"], "a") as starts:
        starts.write("started\\n")
    # As the loader of a frozen program does.
    sys.frozen = True
    sys.executable = os.environ["PROGRAM"]
    import multiprocessing.spawn, offloop, jobs

    def own(number):
        return 3 * number

    if __name__ == "__main__":
        if os.environ["SUPPORT"]:
            # multiprocessing.freeze_support() is replaced by this in frozen programs.
            multiprocessing.spawn.freeze_support()
        with offloop.ProcessPoolExecutor(2) as pool:
            print(pool.submit(jobs.twice, 21).result(60), pool.submit(own, 5).result(60))
"""


def run_frozen(tmp_path: Path, support: str) -> tuple["subprocess.CompletedProcess[str]", int]:
    """Runs a program that is its own interpreter. Returns how it ended, and how often it was started."""
    scripts.write(tmp_path / "jobs.py", "def twice(number): return 2 * number")
    script = scripts.write(tmp_path / "app.py", FROZEN)
    program, starts = tmp_path / "app", tmp_path / "starts"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    env = {**scripts.environment(), "STARTS": str(starts), "PROGRAM": str(program), "SUPPORT": support}
    done = subprocess.run([program], capture_output=True, text=True, timeout=scripts.HANG, env=env)
    return done, len(starts.read_text().splitlines())


def test_a_frozen_program_with_freeze_support_has_workers(tmp_path: Path) -> None:
    done, starts = run_frozen(tmp_path, "yes")
    assert done.stdout == "42 15\n", done.stderr
    assert starts == 2


def test_a_frozen_program_without_freeze_support_starts_itself_no_further(tmp_path: Path) -> None:
    done, starts = run_frozen(tmp_path, "")
    assert "freeze_support()" in done.stderr and done.returncode != 0
    # The pool tries three times.
    assert starts <= 4


def test_a_program_of_pyinstaller_has_workers(tmp_path: Path) -> None:
    # Takes about a minute, so it is not among the requirements.
    pytest.importorskip("PyInstaller")
    faulthandler.cancel_dump_traceback_later()
    scripts.write(tmp_path / "jobs.py", "def twice(number): return 2 * number")
    script = scripts.write(tmp_path / "app.py", FROZEN.replace('sys.executable = os.environ["PROGRAM"]', ""))
    package = Path(offloop.__file__).parent.parent
    build = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", "--paths", package, script]
    subprocess.run(build, cwd=tmp_path, check=True, timeout=600)
    starts = tmp_path / "starts"
    env = {**os.environ, "STARTS": str(starts), "SUPPORT": "yes"}
    done = subprocess.run(
        [tmp_path / "dist/app/app"], capture_output=True, text=True, timeout=scripts.HANG, env=env
    )
    assert done.stdout == "42 15\n", done.stderr
    assert len(starts.read_text().splitlines()) == 2


HOST = r"""
    #include <Python.h>
    int main(int argc, char **argv) {
        fprintf(stderr, "the host has started\n");
        PyConfig config;
        PyConfig_InitPythonConfig(&config);
        PyConfig_SetBytesString(&config, &config.program_name, argv[0]);
        Py_InitializeFromConfig(&config);
        FILE *script = fopen(getenv("SCRIPT"), "r");
        int failed = PyRun_SimpleFile(script, "script.py");
        return Py_FinalizeEx() < 0 || failed;
    }
"""

EMBEDDED = """
    import sys
    sys.path[:0] = PATH
    import multiprocessing, offloop
    for chosen in (None, PYTHON):
        if chosen:
            multiprocessing.set_executable(chosen)
        try:
            with offloop.ProcessPoolExecutor(1) as pool:
                print(pool.submit(abs, -1).result(60), flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize("name", ["host", "python3.99"])
def test_an_embedded_interpreter_is_refused_until_it_names_a_python(tmp_path: Path, name: str) -> None:
    compiler = shutil.which("cc")
    library = sysconfig.get_config_var("LIBDIR")
    version = sysconfig.get_config_var("LDVERSION")
    if compiler is None or not list(Path(library).glob(f"libpython{version}.*")):
        pytest.skip("needs a C compiler and Python's library")
    scripts.write(tmp_path / "host.c", HOST)
    host = tmp_path / name
    include = sysconfig.get_path("include")
    link = [f"-L{library}", f"-lpython{version}", f"-Wl,-rpath,{library}", "-lm", "-ldl", "-lpthread", "-lutil"]
    subprocess.run(
        [compiler, tmp_path / "host.c", f"-I{include}", "-Wl,--export-dynamic", *link, "-o", host], check=True
    )
    path = [entry for entry in sys.path if entry]
    script = scripts.write(tmp_path / "script.py", EMBEDDED)
    script.write_text(script.read_text().replace("PATH", repr(path)).replace("PYTHON", repr(sys.executable)))
    env = {**os.environ, "SCRIPT": str(script), "PYTHONHOME": sys.base_prefix}
    done = subprocess.run([host], capture_output=True, text=True, timeout=scripts.HANG, env=env)
    lines = done.stdout.splitlines()
    assert "multiprocessing.set_executable" in done.stdout + done.stderr
    assert lines[-1] == "1", done.stderr
    # By its name the second one passes for an interpreter. Its copies do no harm.
    assert done.stderr.count("the host has started") <= 5


GREEN = """
    IMPORT
    import time, offloop

    if __name__ == "__main__":
        try:
            offloop.ThreadPoolExecutor(1)
        except RuntimeError as error:
            print("real ones" in str(error))
        try:
            with offloop.ProcessPoolExecutor(1) as pool:
                pool.submit(time.sleep, 0.5).result(60)
                print("works")
        except RuntimeError as error:
            print("real ones" in str(error))
"""


@pytest.mark.parametrize(
    ("library", "code", "printed"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()", "True\nworks\n"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()", "True\nTrue\n"),
    ],
)
def test_pools_that_green_threads_would_block_are_refused(
    tmp_path: Path, library: str, code: str, printed: str
) -> None:
    if subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {library}"], capture_output=True).returncode:
        pytest.skip(f"needs {library}")
    done = scripts.run("-W", "ignore", scripts.write(tmp_path / "program.py", GREEN.replace("IMPORT", code)))
    assert done.stdout == printed, done.stderr


MEASURED = """
    import multiprocessing, sys, jobs, offloop

    if __name__ == "__main__":
        with offloop.ProcessPoolExecutor(1, multiprocessing.get_context(sys.argv[1])) as pool:
            pool.submit(jobs.job, 9).result(60)
"""

JOBS = """
    def job(count):
        total = 0
        for number in range(count):
            total += number
        return total
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_coverage_measures_workers_as_processes_of_multiprocessing(tmp_path: Path, method: str) -> None:
    pytest.importorskip("coverage")
    scripts.write(tmp_path / "jobs.py", JOBS)
    scripts.write(tmp_path / "main.py", MEASURED)
    settings = "[run]\nparallel = true\nconcurrency = multiprocessing, thread\nsource = .\n"
    (tmp_path / ".coveragerc").write_text(settings)
    coverage = ["-m", "coverage"]
    assert scripts.run(*coverage, "run", "main.py", method, cwd=tmp_path).returncode == 0
    scripts.run(*coverage, "combine", cwd=tmp_path)
    report = scripts.run(*coverage, "report", "--include=jobs.py", "--format=total", cwd=tmp_path)
    assert report.stdout.strip() == "100", report.stdout + report.stderr

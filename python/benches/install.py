"""Installs what the benches compare, as far as there are builds for this interpreter.

    python python/benches/install.py python/benches/requirements.txt

A package without one is left out, which is printed. Nothing is built from source: that would need compilers, and a
package that is not made for an interpreter yet may build and not work.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path


def requirements(file: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in Path(file).read_text().splitlines())
    return [line for line in lines if line]


def install(packages: list[str]) -> bool:
    """Returns whether they could be installed."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *packages]
    return subprocess.run(command).returncode == 0


def main() -> None:
    wanted = requirements(sys.argv[1])
    # One after another only if that is needed, as each call takes seconds.
    if install(wanted):
        return
    for requirement in wanted:
        if not install([requirement]):
            version = platform.python_version()
            print(f"left out: {requirement} cannot be installed, or has no build for Python {version}")


if __name__ == "__main__":
    main()

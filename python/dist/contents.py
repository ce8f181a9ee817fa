"""Checks that each package that is to be published holds what its users and its distributors need.

    python contents.py DIRECTORY...

It reads the wheels, source distributions (`.tar.gz`) and crates in the directories. There must be one at least in each.
"""

import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

LICENCES = "LICENSE-APACHE", "LICENSE-MIT"

WHEEL = (
    *(rf"offloop-[^/]+\.dist-info/licenses/{licence}" for licence in LICENCES),
    r"offloop/py\.typed",
    r"offloop/__init__\.py",
    r"offloop/_offloop\.pyi",
    r"offloop/_offloop\.[^/]*so",
    r"offloop-[^/]+\.data/platlib/offloop_watch\.pth",
)
"""Patterns of files. Of the engine's module there must be a build, and its types."""

SOURCE = (
    *LICENCES,
    r"README\.md",
    r"PKG-INFO",
    r"pyproject\.toml",
    r"Cargo\.lock",
    r"python/offloop/py\.typed",
    r"python/offloop/_offloop\.pyi",
    r"python/wheel/platlib/offloop_watch\.pth",
    r"python/tests/conftest\.py",
    r"python/testing/hang_guard\.py",
)

CRATE = (*LICENCES, r"README\.md", r"Cargo\.toml", r"src/lib\.rs")


def names_in(package: Path) -> list[str]:
    """Returns the names of a package's files. The directory that holds all files of a source is left out."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            return wheel.namelist()
    with tarfile.open(package) as source:
        return [member.name.partition("/")[2] for member in source if member.isfile()]


def read(package: Path, pattern: str) -> str:
    """Returns the text of the only file whose name matches."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            (name,) = (name for name in wheel.namelist() if re.fullmatch(pattern, name))
            return wheel.read(name).decode()
    with tarfile.open(package) as source:
        (found,) = (it for it in source if re.fullmatch(pattern, it.name.partition("/")[2]))
        file = source.extractfile(found)
        assert file is not None
        return file.read().decode()


def of_metadata(text: str) -> list[str]:
    """Returns what is wrong with a Python package's metadata."""
    data = email.message_from_string(text)
    wrong = [f"the metadata has no {name}" for name in ("Summary", "Project-URL") if not data[name]]
    if "import offloop" not in str(data.get_payload()):
        wrong.append("the metadata's description is not the readme")
    if sorted(data.get_all("License-File", [])) != list(LICENCES):
        wrong.append("the metadata does not name the licences")
    return wrong


def of_module(wheel: Path) -> list[str]:
    """Returns what is wrong with the engine's module in a wheel.

    Before Python 3.14 the interpreter's exit unwinds the stacks of threads that wait for it. The C library does so by
    libgcc, and crashes in a module that has been linked to an unwinder of its own.
    """
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if re.fullmatch(r"offloop/_offloop\.[^/]*so", name)]
        has_own = [name for name in modules if b"\0libgcc_s.so.1\0" not in archive.read(name)]
    return [f"{name} has an unwinder of its own instead of libgcc" for name in has_own]


def of_crate(package: Path) -> list[str]:
    """Returns what is missing of what a crate's source includes, and in its manifest."""
    names = set(names_in(package))
    wrong: list[str] = []
    for name in re.findall(r'include_str!\("\.\./([^"]+)"\)', read(package, r"src/lib\.rs")):
        if name not in names:
            wrong.append(f"src/lib.rs includes {name}, which is not in it")
    manifest = read(package, r"Cargo\.toml")
    for key in ("repository", "readme", "license", "description"):
        if not re.search(rf'^{key} = "', manifest, re.MULTILINE):
            wrong.append(f"its manifest has no {key}")
    return wrong


def check(package: Path) -> list[str]:
    """Returns what is wrong with a package."""
    names = names_in(package)
    is_crate, is_wheel = package.suffix == ".crate", package.suffix == ".whl"
    wanted = CRATE if is_crate else WHEEL if is_wheel else SOURCE
    wrong = [
        f"no file {pattern}" for pattern in wanted if not any(re.fullmatch(pattern, name) for name in names)
    ]
    wrong += [f"{name} was not meant for others" for name in names if "__pycache__" in name]
    if is_crate:
        return wrong + of_crate(package)
    if is_wheel:
        wrong += of_module(package)
    metadata = r"offloop-[^/]+\.dist-info/METADATA" if is_wheel else "PKG-INFO"
    return wrong + of_metadata(read(package, metadata))


def main(directories: list[str]) -> int:
    failed = False
    for directory in map(Path, directories):
        packages = [it for it in sorted(directory.iterdir()) if it.suffix in (".whl", ".gz", ".crate")]
        if not packages:
            print(f"{directory} holds no package")
            failed = True
        for package in packages:
            wrong = check(package)
            failed |= bool(wrong)
            print(f"{package.name}: {'; '.join(wrong) or 'complete'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

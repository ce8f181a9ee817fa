"""`python -m mercuriy.load`: see the package."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from ..settings import MODES
from .client import Client
from .mixed import Load, Run, put_on
from .report import failures, milliseconds, own_share, plot, table, throughput

PAGE, IMAGE = Path("docs/mercuriy.md"), Path("docs/images/mercuriy-lateness.svg")
BEGIN, END = "<!-- table: {} -->", "<!-- end of the table -->"


async def measure(url: str, load: Load) -> None:
    """Puts one load on a service, and prints what became of it."""
    run = await put_on(url, load)
    print(load.described())
    for kind, samples in {"/health": run.health, **run.kinds()}.items():
        if samples:
            values = ", ".join(
                f"{name} {milliseconds(samples, share)}"
                for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("worst", 1))
            )
            print(f"  {kind:<10} {throughput(run, samples):>6} /s   ms: {values}")
    print(f"  errors: {failures(run)}")
    print(own_share({"": run}))


async def compare(url: str | None, load: Load, modes: list[str]) -> tuple[str, dict[str, Run]]:
    """Puts the same load on all modes of a service, one after another. Returns the service's language as well."""
    async with _service(url) as address:
        client = Client(address)
        language = json.loads((await client.request("GET", "/status")).body)["language"]
        runs = {}
        for mode in modes:
            await client.request("POST", "/mode", json.dumps({"on": mode}).encode())
            # What happens only once is not measured.
            await put_on(address, load._replace(seconds=2.0))
            runs[mode] = await put_on(address, load)
            print(f"{mode}: /health p99 {milliseconds(runs[mode].health, 0.99)} ms", file=sys.stderr)
            client.close()
        return language, runs


@contextlib.asynccontextmanager
async def _service(url: str | None) -> AsyncIterator[str]:
    """Gives the address of the service. Without one, starts the one in Python."""
    if url is not None:
        yield url
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mercuriy", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    try:
        yield line.split()[-1]
    finally:
        process.terminate()
        await process.wait()


def write(language: str, runs: dict[str, Run], load: Load) -> None:
    """Writes the table and the plot into the documentation, where the page has a place for the language."""
    suffix = "" if language == "python" else f"-{language}"
    image = IMAGE.with_stem(IMAGE.stem + suffix)
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_text(plot(runs, load.seconds))
    text = PAGE.read_text()
    begin = BEGIN.format(language)
    lines = [
        begin,
        "",
        f"`{shlex.join(['python', '-m', 'mercuriy.load', *sys.argv[1:]])}`: {load.described()}, in {language}, on "
        f"{len(os.sched_getaffinity(0))} cores, which the load shares with the service"
        + (f" (CPython {platform.python_version()})." if language == "python" else "."),
        "",
        *table(runs),
        "",
        own_share(runs),
        "",
        f"![How late /health answers, over time, in the four modes](images/{image.name})",
        "",
        END,
    ]
    if begin not in text:
        sys.exit(f"{PAGE} has no place for this table: the line {begin}")
    pattern = re.escape(begin) + ".*?" + re.escape(END)
    PAGE.write_text(re.sub(pattern, lambda _: "\n".join(lines), text, count=1, flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser("mercuriy.load", description="Puts a mixed load on mercuriy.")
    parser.add_argument(
        "--url", help="of the service, in either language; --table starts one by itself otherwise"
    )
    parser.add_argument("--table", action="store_true", help="compare the four modes")
    parser.add_argument(
        "--write", action="store_true", help=f"write the table to {PAGE} and the plot to {IMAGE}"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    defaults = Load()
    for name, default in defaults._asdict().items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"default: {default}"
        )
    given = vars(parser.parse_args())
    load = Load(**{name: given[name] for name in defaults._fields})
    if given["table"]:
        language, runs = asyncio.run(compare(given["url"], load, given["modes"]))
        print("\n".join([*table(runs), "", own_share(runs)]))
        if given["write"]:
            write(language, runs, load)
    elif given["url"]:
        asyncio.run(measure(given["url"], load))
    else:
        parser.error("give --url, or --table")


if __name__ == "__main__":
    main()

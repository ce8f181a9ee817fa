"""Two builds of offloop beside each other, in turns, so that a disturbance of the machine hits both alike.

    python python/benches/compare.py --wheel BEFORE.whl --wheel AFTER.whl --rounds 20
    python python/benches/compare.py --wheel BEFORE.whl --wheel AFTER.whl --measure payloads

A wheel is a file, or a folder with the package in it. Each round takes a turn of both builds with each contender; every
other round begins with the second build. For each result the table has the median of both, and the median of the
rounds' ratios with their quartiles: if 1 is outside of the quartiles, the builds differ by more than the noise.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

from contenders import OURS, Kind
from measures import MEASURES
from turn import Failed, Turn, give

KINDS: tuple[Kind, Kind] = ("thread", "process")


def unpacked(wheel: str, folder: str) -> str:
    """Returns a folder with the package of a wheel."""
    if Path(wheel).is_dir():
        return str(Path(wheel).resolve())
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def measured(packages: list[str], turns: list[Turn], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Takes the turns with both builds. Returns the two results of each round, by the result's name."""
    results: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(rounds):
        for turn in turns:
            both = [{}, {}]
            try:
                for build in (0, 1) if number % 2 == 0 else (1, 0):
                    both[build] = give(turn, packages[build])
            except Failed as failure:
                print(f"failed: {turn.kind} {turn.contender}: {failure}")
                continue
            for name in both[0].keys() & both[1].keys():
                results[f"{turn.kind}: {turn.contender}: {name}"].append((both[0][name], both[1][name]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares two builds of offloop round by round.")
    parser.add_argument("--wheel", action="append", required=True, help="given twice: before and after")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--measure", choices=list(MEASURES), default="no_ops")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: both")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--quick", action="store_true", help="shorter turns, to see that it works")
    given = parser.parse_args()
    if len(given.wheel) != 2 or given.rounds < 1:
        parser.error("give --wheel twice, and one round or more")
    turns = [
        Turn(kind, name, given.measure, given.loop, given.quick) for kind in given.kind or KINDS for name in OURS
    ]
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as after:
        packages = [unpacked(wheel, folder) for wheel, folder in zip(given.wheel, (before, after), strict=True)]
        results = measured(packages, turns, given.rounds)
    print("| result | before | after | after / before | quartiles |")
    print("| --- | --: | --: | --: | --- |")
    for name, pairs in sorted(results.items()):
        before_median, after_median = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = [after / before for before, after in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        print(f"| {name} | {before_median:.4g} | {after_median:.4g} | {middle:.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()

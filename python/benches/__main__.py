"""offloop's Python executors beside their peers, the same jobs through each, in one run.

    cargo xtask bench python                    # half an hour; results to quote
    cargo xtask bench python --quick            # two minutes; results that are only a smoke test
    cargo xtask bench python --python 3.14      # with peers that need a later interpreter

Every measurement is a turn of one contender in an interpreter of its own (`turn.py`). Turns are
taken in rounds, each of which begins with another contender, and a cell of the table is the median
over the rounds, so that a disturbance of the machine hits all alike. A contender that this interpreter
cannot have is left out, and the reason is printed.

- `contenders.py`: the pools, each behind one function.
- `jobs.py`: what the pools are given to do.
- `measures.py`: what is measured in a turn.
- `rows.py`: what the table has in its rows, and what is to be reached.
- `table.py`: the table.
"""

# Some contenders import this module in their workers, so the other imports are in the functions that need them.
import sys


def main() -> None:
    import turn

    if "--turn" in sys.argv:
        turn.take(turn.Turn.from_words(sys.argv[sys.argv.index("--turn") + 1 :]))
        return
    import rows

    from contenders import versions

    print(f"Versions: {versions()}.\n", flush=True)
    comparison, notes = rows.measured(quick="--quick" in sys.argv)
    print(comparison)
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()

"""The watchdog: notices that a loop stands still while it does, and says what to move off it.

- `watch.py`: what users hold, and what it has counted.
- `loops.py`: one loop, its beats, and a look at it when those fail to come.
- `station.py`: the one thread that reports, and the signal.
- `stack.py`, `source.py`, `advice.py`, `report.py`: from frames to what is said of them.
- `hook.py`, `start.py`: loops that will yet start; the environment variable.

What must work while the interpreter is out of reach is native: see `watch.rs`.
"""

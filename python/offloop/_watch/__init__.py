"""The watchdog: notices that a loop stands still while it does, and reports what to move off the loop.

- `watch.py`: the object that users hold, and its counts.
- `loops.py`: one loop, its beats, and its stalls.
- `look.py`: one look at what a thread does.
- `events.py`: the thread that hands the monitors' events to the loops, and the reader of stacks.
- `stack.py`, `source.py`, `advice.py`, `report.py`: from frames to the report.
- `hook.py`, `start.py`, `settings.py`: loops that start later; the environment variable; lengths of time.

The parts that must work while the interpreter is out of reach are native.
"""

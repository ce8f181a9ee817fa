"""The executors.

- `executor.py`: the methods that both pools have; `threads.py` and `processes.py`: the pools themselves.
- `futures.py`, `loop.py`: the futures that `submit` and `run` return.
- `results.py`, `stream.py`: the results of a map, and the items of a generator.
- `default.py`: the pools that the whole program shares.
- `exit.py`: the pools' work at the interpreter's exit.
"""

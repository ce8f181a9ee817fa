"""The executors.

- `executor.py`: the methods that both pools have; `threads.py` and `processes.py`: the pools themselves.
- `futures.py`, `loop.py`: the futures that `submit` and `run` return.
- `stream.py`: the items of a generator.
- `default.py`: the pools that the whole program shares.
"""

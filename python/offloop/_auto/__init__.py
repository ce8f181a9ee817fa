"""`offloop.auto`: chooses between threads and processes for each function.

- `auto.py`: the decision.
- `measured.py`: the measurements, which are also made in worker processes.
"""

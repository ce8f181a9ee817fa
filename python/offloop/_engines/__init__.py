"""The parts that the executors on Dask and on Ray share: calls as they travel, their jobs, the executor's base."""

"""What the executors on engines of others, Dask and Ray, share: calls as they travel, their jobs, and the executor's base."""

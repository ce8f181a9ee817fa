"""The executor on a cluster, and the worker of one."""

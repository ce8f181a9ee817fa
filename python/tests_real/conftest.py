"""Tests against real servers. Each is skipped if the variables that name its server are not set:

- OFFLOOP_POSTGRES_URL (postgresql://user@127.0.0.1:port/database),
- OFFLOOP_TARANTOOL_URL (127.0.0.1:port; it runs python/examples/tarantool.lua),
- OFFLOOP_POSTGRES_RESTART, OFFLOOP_TARANTOOL_RESTART: commands for the shell that restart the server and end when
  it answers again.
"""

pytest_plugins = ["hang_guard"]

-- A Tarantool whose guests may call all functions. It listens when those are there.
local address, functions = ...

box.cfg{memtx_memory = 64 * 1024 * 1024}
box.schema.user.grant('guest', 'execute', 'universe', nil, {if_not_exists = true})
dofile(functions)
box.cfg{listen = address}

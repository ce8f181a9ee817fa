-- The server of the Tarantool example: a few stored functions.
--
--     LISTEN=127.0.0.1:3301 WORK_DIR=/an/empty/directory tarantool python/examples/tarantool.lua
--
-- Tarantool 2.6 and later.

local fiber = require('fiber')

local under_way = 0

-- Runs a function for the client that has called, and no longer than that is there: the protocol has no request that
-- cancels a call, so a client hangs up.
local function for_this_client(run)
    local calls = box.session.storage
    calls[fiber.id()] = true
    under_way = under_way + 1
    local ended_well, answer = pcall(run)
    under_way = under_way - 1
    calls[fiber.id()] = nil
    if not ended_well then
        error(answer)
    end
    return answer
end

local function end_calls_of_this_client()
    for id in pairs(box.session.storage) do
        pcall(fiber.kill, id)
    end
end

-- Answers after a while, as if it had work to do. Other calls run meanwhile.
function slow(seconds, value)
    return for_this_client(function()
        fiber.sleep(seconds)
        return value
    end)
end

-- How many of these are under way.
function running()
    return under_way
end

-- Answers at once.
function quick(value)
    return value + 1
end

box.session.on_disconnect(end_calls_of_this_client)

-- As a program of its own it is a server on loopback. One that is configured already only takes the functions.
if type(box.cfg) == 'function' then
    box.cfg {
        work_dir = os.getenv('WORK_DIR'),
        memtx_memory = 32 * 1024 * 1024,
    }
    box.schema.user.grant('guest', 'execute', 'universe', nil, { if_not_exists = true })
    -- Listens last, so that no client connects before it may call the functions.
    box.cfg { listen = os.getenv('LISTEN') or '127.0.0.1:3301' }
end

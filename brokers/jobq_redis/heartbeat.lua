-- ARGV: now, worker, lease in ms, info ("<host>\n<JSON>"), the highest epoch it has received, number of beats, their
-- ids, their epochs.
-- Answers the time in ms, how many jobs were put back, then which of the beats are lost.

local worker, lease, resume, n = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local held = base .. 'held:' .. worker
local named = slice(7, n)
local now = clock()
local reply = { now, 0 }
call('ZCARD', WORKERS) -- are they of the right type?
for _, key in ipairs({ INFO, LATEST, JOBS, CRASHES }) do call('HLEN', key) end
pass_when_full()

local function compare()
  local epochs = read(held, named)
  for i, id in ipairs(named) do
    local epoch = ARGV[6 + n + i]
    if epochs[i] ~= epoch then
      reply[#reply + 1] = i
      take_back(id, epoch)
    end
  end
end

-- What the worker has received and does not name was settled in a moment that this server has lost. No job that it
-- has claimed since is at or below `resume`: see `epoch` in turn.lua.
local function reconcile()
  local kept = {}
  for _, id in ipairs(named) do kept[id] = true end
  for _, entry in ipairs(newest_first(held)) do
    local epoch, id = unpack(entry)
    if epoch <= resume and not kept[id] then
      local blob = call('HGET', JOBS, id)
      call('HDEL', held, id)
      if blob then
        to_front(id, blob)
        reply[2] = reply[2] + 1
      end
    end
  end
end

local holds = tolerant('HLEN', held) > 0
if n > 0 then compare() end
if holds and resume > 0 then reconcile() end
if lease <= 0 and call('HLEN', held) == 0 then
  call('ZREM', WORKERS, worker)
  call('HDEL', INFO, worker)
  call('HDEL', LATEST, worker)
else
  call('ZADD', WORKERS, now + lease, worker)
  call('HSET', INFO, worker, ARGV[4])
end
return reply

-- ARGV: now, worker, lease in ms, info ("<host>\n<JSON>"), number of beats, their ids, their epochs.
-- Answers the time in ms, then which of the beats are lost.

local worker, lease, n = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local held = base .. 'held:' .. worker
local now = clock()
local reply = { now }
call('ZCARD', WORKERS) -- are they of the right type?
for _, key in ipairs({ INFO, LATEST, JOBS, CRASHES }) do call('HLEN', key) end
pass_when_full()

local function compare()
  local ids = slice(6, n)
  local epochs = read(held, ids)
  for i, id in ipairs(ids) do
    local epoch = ARGV[5 + n + i]
    if epochs[i] ~= epoch then
      reply[#reply + 1] = i
      take_back(id, epoch)
    end
  end
end

local holds = tolerant('HLEN', held) > 0
if n > 0 then compare() end
if lease <= 0 and not holds then
  call('ZREM', WORKERS, worker)
  call('HDEL', INFO, worker)
  call('HDEL', LATEST, worker)
else
  call('ZADD', WORKERS, now + lease, worker)
  call('HSET', INFO, worker, ARGV[4])
end
return reply

-- ARGV: now, host, limit, workers known to be dead.
-- Answers due in ms or -1, promoted, reclaimed, 1 if there is more, then the ids of the workers on this host.

local limit = tonumber(ARGV[3])
local now = clock()
local reclaimed, more = 0, 0
for _, key in ipairs({ INFO, LATEST, JOBS, CRASHES }) do call('HLEN', key) end -- are they of the right type?
pass_when_full()

local function reclaim(worker, room)
  local held = base .. 'held:' .. worker
  local entries = newest_first(held)
  for i = 1, math.min(room, #entries) do
    local epoch, id = unpack(entries[i])
    local blob = call('HGET', JOBS, id)
    call('HDEL', held, id)
    if blob then
      charge(id, epoch, now, worker)
      to_front(id, blob)
    end
  end
  if #entries <= room then
    call('ZREM', WORKERS, worker)
    call('HDEL', INFO, worker)
    call('HDEL', LATEST, worker)
  else
    more = 1
  end
  reclaimed = reclaimed + math.min(room, #entries)
end

local expired = call('ZRANGEBYSCORE', WORKERS, '-inf', now)
local promoted = promote(now, limit)
for _, worker in ipairs(expired) do reclaim(worker, limit - promoted - reclaimed) end
for i = 4, #ARGV do
  local lives = call('ZSCORE', WORKERS, ARGV[i])
  if lives and tonumber(lives) > now then reclaim(ARGV[i], limit - promoted - reclaimed) end
end

local due = first_due()
if due and due <= now then more = 1 end
local reply, host = { due_in(due, now), promoted, reclaimed, more }, ARGV[2] .. '\n'
local workers = call('ZRANGEBYSCORE', WORKERS, '(' .. string.format('%.0f', now), '+inf')
for i, info in ipairs(read(INFO, workers)) do
  if info and sub(info, 1, #host) == host then reply[#reply + 1] = workers[i] end
end
return reply

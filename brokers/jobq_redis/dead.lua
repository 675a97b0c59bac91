-- ARGV: now, queue, number, then ids, or none for the first so many that died in the queue.
-- Answers now in ms, then for each (id, died in ms, blob, trail, crashes).

local dead = base .. 'dead:' .. ARGV[2]
local reply, ids = { clock() }, {}
if #ARGV == 3 then
  ids = tolerant('ZRANGE', dead, 0, ARGV[3] - 1)
else
  for i = 4, #ARGV do ids[i - 3] = ARGV[i] end
end

tolerant('ZCARD', dead)
for _, id in ipairs(ids) do
  local died, blob = call('ZSCORE', dead, id), call('HGET', base .. 'dead-jobs', id)
  if died and blob then
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = id, died, blob
    reply[size + 4] = call('HGET', base .. 'dead-trails', id)
    reply[size + 5] = call('HGET', base .. 'dead-crashes', id)
  end
end
return reply

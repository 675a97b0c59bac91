-- ARGV: now, client, number, n, n times (id, blob), then for scheduled jobs (which of them, "at" or "in", ms).
-- Answers '' when all are stored, else a letter for each job: S stored, D duplicate.

local STAMP_TTL = 3600000
local stamp, number, n = base .. 'stamp:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local last = redis.pcall('GET', stamp)
local newest, answer = string.match(type(last) == 'string' and last or '', '^(%d+):([SD]*)$')
if newest and number <= tonumber(newest) then return number == tonumber(newest) and answer or '' end

-- Read: which ids are live, when each scheduled job is due, and what else matters.
local ids, due = {}, {}
for i = 1, n do ids[i] = ARGV[3 + 2 * i] end
local live = read(JOBS, ids)
local some_dead = call('HLEN', base .. 'dead-jobs') > 0
local some_due = #ARGV > 4 + 2 * n
local now, earliest = some_due and clock(), some_due and first_due()
for at = 5 + 2 * n, #ARGV, 3 do
  due[tonumber(ARGV[at])] = tonumber(ARGV[at + 2]) + (ARGV[at + 1] == 'in' and now or 0)
end

-- Sort: what is stored, what of it is scheduled, and the ids of the rest by the line that they join.
local fields, fates, scheduled, heads, lines, known = {}, {}, {}, {}, {}, {}
for i = 1, n do
  local id, blob = ids[i], ARGV[4 + 2 * i]
  if live[i] or known[id] then
    fates[i] = 'D'
  else
    fates[i], known[id] = 'S', true
    fields[#fields + 1] = id
    fields[#fields + 1] = blob
    local head = sub(blob, 1, find(blob, '\n', 1, true))
    if due[i] then
      scheduled[#scheduled + 1] = i
    elseif lines[head] then
      table.insert(lines[head], id)
    else
      heads[#heads + 1] = head
      lines[head] = { id }
    end
  end
end

-- Write. The first write is refused, and everything with it, when there is no memory left.
write('HSET', JOBS, fields)

if some_dead then -- their ids may be used again
  for i = 1, #fields, 2 do
    local blob = call('HGET', base .. 'dead-jobs', fields[i])
    if blob then
      local _, queue = place(blob)
      call('HDEL', base .. 'dead-jobs', fields[i])
      tolerant('ZREM', base .. 'dead:' .. queue, fields[i])
      tolerant('HDEL', base .. 'dead-trails', fields[i])
      tolerant('HDEL', base .. 'dead-crashes', fields[i])
    end
  end
end

for _, head in ipairs(heads) do
  local priority, queue = place(head)
  local key = base .. 'ready:' .. queue .. ':' .. priority
  tolerant('RPUSH', key, unpack(lines[head]))
  wake(queue)
end

for _, i in ipairs(scheduled) do
  local priority, queue = place(ARGV[4 + 2 * i])
  if due[i] <= now then
    tolerant('LPUSH', base .. 'ready:' .. queue .. ':' .. priority, ids[i])
    wake(queue)
  else
    call('ZADD', DUE, due[i], ids[i])
    if not earliest or due[i] < earliest then -- sleepers have to look at the time again
      earliest = due[i]
      wake(queue)
    end
  end
end

local fate = #fields == 2 * n and '' or table.concat(fates)
call('SET', stamp, ARGV[3] .. ':' .. fate, 'PX', STAMP_TTL)
return fate

-- ARGV: now, client, number, n, n times (id, blob), then for scheduled jobs (which of them, "at" or "in", ms).
-- Answers '' when all are stored, else a letter for each job: S stored, D duplicate.

local STAMP_TTL = 3600000
local stamp, number, n = base .. 'stamp:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function answered()
  local last = redis.pcall('GET', stamp)
  if type(last) ~= 'string' then return nil end
  local seen, fates = string.match(last, '^(%d+):([SD]*)$')
  if not seen or number > tonumber(seen) then return nil end
  return number == tonumber(seen) and fates or ''
end

-- Splits the jobs into those to store (ids, and all as fields and values) and the letters that answer.
local function sift()
  local ids, fresh, fields, fates, seen = {}, {}, {}, {}, {}
  for i = 1, n do ids[i] = ARGV[3 + 2 * i] end
  local live = read(JOBS, ids)
  for i, id in ipairs(ids) do
    local duplicate = live[i] or seen[id]
    seen[id] = true
    fates[i] = duplicate and 'D' or 'S'
    if not duplicate then
      fresh[#fresh + 1] = i
      fields[#fields + 1] = id
      fields[#fields + 1] = ARGV[4 + 2 * i]
    end
  end
  return fresh, fields, #fresh == n and '' or table.concat(fates)
end

local function due_times(now)
  local due = {}
  for at = 5 + 2 * n, #ARGV, 3 do
    due[tonumber(ARGV[at])] = tonumber(ARGV[at + 2]) + (ARGV[at + 1] == 'in' and now or 0)
  end
  return due
end

-- The ids of dead jobs may be used again.
local function forget_dead(fields)
  for i = 1, #fields, 2 do
    if call('HDEL', DEAD_JOBS, fields[i]) == 1 then
      tolerant('ZREM', DEAD, fields[i])
      tolerant('HDEL', DEAD_TRAILS, fields[i])
      tolerant('HDEL', DEAD_CRASHES, fields[i])
    end
  end
end

local function to_back(fresh, due)
  local lines, order = {}, {}
  for _, i in ipairs(fresh) do
    local blob = ARGV[4 + 2 * i]
    local head = not due[i] and sub(blob, 1, find(blob, '\n', 1, true))
    if head and not lines[head] then
      lines[head] = {}
      order[#order + 1] = head
    end
    if head then table.insert(lines[head], ARGV[3 + 2 * i]) end
  end
  for _, head in ipairs(order) do
    local priority, queue = place(head)
    local key = base .. 'ready:' .. queue .. ':' .. priority
    tolerant('LLEN', key)
    write('RPUSH', key, lines[head])
    wake(queue)
  end
end

local function schedule(fresh, due, now, earliest)
  for _, i in ipairs(fresh) do
    local id, blob = ARGV[3 + 2 * i], ARGV[4 + 2 * i]
    if due[i] and due[i] <= now then
      to_front(id, blob)
    elseif due[i] then
      call('ZADD', DUE, due[i], id)
      if not earliest or due[i] < earliest then -- sleepers have to look at the time again
        earliest = due[i]
        local _, queue = place(blob)
        wake(queue)
      end
    end
  end
end

local answer = answered()
if answer then return answer end
local fresh, fields, fates = sift()
local now = clock()
local due, earliest, some_dead = due_times(now), first_due(), call('HLEN', DEAD_JOBS) > 0
if next(due) then some_crashes = call('HLEN', CRASHES) > 0 end
write('HSET', JOBS, fields) -- the first write: refused, and everything with it, when there is no memory left
if some_dead then forget_dead(fields) end
to_back(fresh, due)
if next(due) then schedule(fresh, due, now, earliest) end
call('SET', stamp, ARGV[3] .. ':' .. fates, 'PX', STAMP_TTL)
return fates

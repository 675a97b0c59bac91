-- ARGV: now, worker, limit, suspects ("1" or ""), resume, number of queues, queues, a letter for each outcome, the ids,
-- the epochs, then what some kinds add, in order:
--   D done or cancelled, X dead: nothing    K dead and kept: trail    R released: delay    A again: trail, delay, queue
-- Answers one flat list: leased, due in ms or -1, number of refused outcomes, which of them, number of jobs delivered
-- again, each as (id, epoch, blob, trail, crashes), epoch of the first fresh one, number of fresh ones, each as
-- (id, blob), and for those that have them (which, trail, crashes).

local DEAD_JOBS, DEAD_TRAILS, DEAD_CRASHES = base .. 'dead-jobs', base .. 'dead-trails', base .. 'dead-crashes'
local EXTRAS = { D = 0, X = 0, K = 1, R = 1, A = 3 }
local worker, limit, resume = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local held = base .. 'held:' .. worker
local queues = slice(7, tonumber(ARGV[6]))
local at = 7 + #queues
local kinds = ARGV[at]

local now = clock()
call('HLEN', JOBS) -- is it of the right type?
if find(kinds, 'K', 1, true) then
  for _, key in ipairs({ DEAD_JOBS, DEAD_TRAILS, DEAD_CRASHES }) do call('HLEN', key) end
end
local due = first_due()
local trails_stored = call('HLEN', TRAILS) > 0
some_crashes = call('HLEN', CRASHES) > 0
local epoch = tonumber(call('GET', EPOCH) or 0)
if not epoch then return redis.error_reply('WRONGTYPE ' .. EPOCH .. ' is no number') end
-- A server that lost its last moments has counted less than its workers have seen; no epoch may be used again.
if resume > epoch then epoch = resume end
local latest = tonumber(call('HGET', LATEST, worker) or 0) or 0
local lease = tonumber(call('ZSCORE', WORKERS, worker) or 0)
local reply, size = { lease > now and 1 or 0, -1, 0 }, 3

local function add(value)
  size = size + 1
  reply[size] = value
end

-- Outcomes ----------------------------------------------------------------------------------------------------------

-- What nearly always happens: all are held, each is named once, and nothing is left of them.
local function all_ended(n, ids, epochs)
  if find(kinds, '[^DX]') then return false end
  local seen = {}
  for i = 1, n do
    local epoch = ARGV[at + n + i]
    if epochs[i] ~= epoch or seen[epoch] then return false end
    seen[epoch] = true
  end
  return true
end

-- Splits the outcomes: the ids that this worker holds under the epoch named, and what is to be done about them.
local function sift(n)
  local mine, ended, moves, taken, extra = {}, {}, {}, {}, at + 2 * n + 1
  local ids = slice(at + 1, n)
  tolerant('HLEN', held) -- if it is of a wrong type, nothing is held
  local epochs = read(held, ids)
  if all_ended(n, ids, epochs) then return ids, ids, moves end
  for i, id in ipairs(ids) do
    local kind = sub(kinds, i, i)
    if epochs[i] ~= ARGV[at + n + i] or taken[id] then
      add(i)
      take_back(id, ARGV[at + n + i])
    else
      taken[id] = true
      mine[#mine + 1] = id
      if kind == 'D' or kind == 'X' then
        ended[#ended + 1] = id
      else
        moves[#moves + 1] = { kind, id, extra }
      end
    end
    extra = extra + EXTRAS[kind]
  end
  reply[3] = size - 3
  return mine, ended, moves
end

local function put_back(id, blob, delay)
  if delay <= 0 then return to_front(id, blob) end
  local time = now + delay
  call('ZADD', DUE, time, id)
  if not due or time < due then
    due = time
    local _, queue = place(blob)
    wake(queue)
  end
end

local function again(id, blob, extra)
  local priority, queue, eol = place(blob)
  if ARGV[extra + 2] ~= '' and ARGV[extra + 2] ~= queue then
    blob = priority .. ARGV[extra + 2] .. '\n' .. sub(blob, eol + 1)
    call('HSET', JOBS, id, blob)
  end
  call('HSET', TRAILS, id, ARGV[extra])
  trails_stored = true
  put_back(id, blob, tonumber(ARGV[extra + 1]))
end

local function bury(id, blob, extra)
  local _, queue = place(blob)
  tolerant('ZADD', base .. 'dead:' .. queue, now, id)
  call('HSET', DEAD_JOBS, id, blob)
  call('HSET', DEAD_TRAILS, id, ARGV[extra])
  local crashes = some_crashes and call('HGET', CRASHES, id)
  if crashes then call('HSET', DEAD_CRASHES, id, crashes) end
end

local function settle(n)
  local mine, ended, moves = sift(n)
  write('HDEL', held, mine)
  for _, move in ipairs(moves) do
    local kind, id, extra = unpack(move)
    local blob = call('HGET', JOBS, id)
    if blob and kind == 'A' then again(id, blob, extra) end
    if blob and kind == 'R' then put_back(id, blob, tonumber(ARGV[extra])) end
    if blob and kind == 'K' then bury(id, blob, extra) end
    if kind == 'K' then ended[#ended + 1] = id end
  end
  write('HDEL', JOBS, ended)
  if trails_stored then write('HDEL', TRAILS, ended) end
  if some_crashes then write('HDEL', CRASHES, ended) end
end

-- Deliveries --------------------------------------------------------------------------------------------------------

local suspects = ARGV[4] == '1'

-- What this worker claimed and never received: everything above the highest epoch that it has seen.
local function redeliver()
  add(0)
  local count_at, lost = size, {}
  if latest <= resume then return 0 end
  local all = tolerant('HGETALL', held)
  for i = 1, #all, 2 do
    local its = tonumber(all[i + 1])
    if its and its > resume then lost[#lost + 1] = { its, all[i] } end
  end
  table.sort(lost, function(a, b) return a[1] < b[1] end)
  local count = 0
  for _, one in ipairs(lost) do
    local blob = call('HGET', JOBS, one[2])
    if blob then
      count = count + 1
      add(one[2])
      add(one[1])
      add(blob)
      add(call('HGET', TRAILS, one[2]))
      add(call('HGET', CRASHES, one[2]))
      if #crashes_of(one[2]) >= SUSPECT_AFTER then suspects = false end -- this is the one
    end
  end
  reply[count_at] = count
  return count
end

-- Takes ids off the lines in order; sees to it that somebody is told if there are more than this worker wants.
local function take(want)
  local ids = {}
  local function pop(key, count)
    for _, id in ipairs(tolerant('LPOP', key, count) or {}) do ids[#ids + 1] = id end
  end
  for _, queue in ipairs(queues) do
    if suspects and #ids < want then
      local before, line = #ids, base .. 'suspects:' .. queue
      pop(line, 1)
      suspects = #ids == before
      if not suspects and call('LLEN', line) > 0 then wake(queue) end
    end
    for priority = 4, 0, -1 do
      local line = base .. 'ready:' .. queue .. ':' .. priority
      if #ids < want then
        pop(line, want - #ids)
      end
      if #ids >= want and tolerant('LLEN', line) > 0 then
        wake(queue)
        return ids
      end
    end
  end
  return ids
end

local function claim(ids)
  local blobs, held_now, fresh, count, top = read(JOBS, ids), {}, {}, 0, size + 2
  reply[top - 1] = epoch + 1
  for i = 1, #ids do
    local blob = blobs[i]
    if blob then -- else it is gone: cancelled or deleted
      local id = ids[i]
      count, epoch = count + 1, epoch + 1
      fresh[count] = id
      held_now[2 * count - 1], held_now[2 * count] = id, epoch
      reply[top + 2 * count - 1], reply[top + 2 * count] = id, blob
    end
  end
  reply[top] = count
  size = top + 2 * count
  if count == 0 then return end
  call('SET', EPOCH, string.format('%.0f', epoch))
  call('HSET', LATEST, worker, epoch)
  write('HSET', held, held_now)
  local trails = trails_stored and read(TRAILS, fresh) or {}
  local crashes = some_crashes and read(CRASHES, fresh) or {}
  for i = 1, (trails_stored or some_crashes) and #fresh or 0 do
    if trails[i] or crashes[i] then
      add(i)
      add(trails[i] or false)
      add(crashes[i] or false)
    end
  end
end

pass_when_full()
if due and due <= now then
  promote(now, PROMOTE_LIMIT)
  due = first_due()
end
if #kinds > 0 then settle(#kinds) end
if reply[1] == 1 then
  local want = limit - redeliver()
  local ids = want > 0 and take(want) or {}
  if #ids > 0 then claim(ids) end
end
reply[2] = due_in(due, now)
return reply

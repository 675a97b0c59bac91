-- Put in front of every script: the names of the keys, the time, and the moves that more than one script makes.
--
-- KEYS[1] is "jobq:{namespace}:", a key that never exists. It declares the slot in which all the others are; while a
-- cluster moves that slot, the server therefore refuses the whole call before the script has done anything.
-- ARGV[1] is the time in ms in tests, and empty otherwise.
--
-- The server rolls nothing back, so each script reads first, and with that checks, what it is going to write. The keys
-- of one queue, worker or client are read tolerantly instead: one of a wrong type must not stop the others.

local call, find, sub = redis.call, string.find, string.sub
local base = KEYS[1]
local JOBS, TRAILS, CRASHES = base .. 'jobs', base .. 'trails', base .. 'crashes'
local DUE, EPOCH = base .. 'due', base .. 'epoch'
local WORKERS, INFO, LATEST = base .. 'workers', base .. 'worker-info', base .. 'worker-epochs'
local DEAD, DEAD_JOBS = base .. 'dead', base .. 'dead-jobs'
local DEAD_TRAILS, DEAD_CRASHES = base .. 'dead-trails', base .. 'dead-crashes'
local SUSPECT_AFTER = 2
local PROMOTE_LIMIT = 1000
local CHUNK = 4000 -- values in one unpack, which has only so much stack; even, so that pairs stay together

local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- With memory full the server refuses the first write of a script if that could need memory, and none after it.
-- What settles and reclaims has to pass, as it is what frees memory: it begins with a write that is never refused.
local function pass_when_full()
  call('DEL', base)
end

-- A key of the wrong type cannot be ours; it gives way.
local function tolerant(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    call('DEL', key)
    reply = call(command, key, ...)
  end
  return reply
end

local function write(command, key, values)
  for first = 1, #values, CHUNK do
    call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local function slice(first, count)
  local values = {}
  for i = 1, count do values[i] = ARGV[first + i - 1] end
  return values
end

local function read(key, fields)
  if #fields == 0 then return {} end
  if #fields <= CHUNK then return call('HMGET', key, unpack(fields)) end
  local values = {}
  for first = 1, #fields, CHUNK do
    local some = call('HMGET', key, unpack(fields, first, math.min(first + CHUNK - 1, #fields)))
    for i = 1, #some do values[first + i - 1] = some[i] end
  end
  return values
end

-- A stored job is "<priority><queue>\n<envelope>". What does not look like that can still be claimed, and is then dead.
local function place(blob)
  local eol = find(blob, '\n', 1, true)
  if eol and find(blob, '^[0-4]') then return sub(blob, 1, 1), sub(blob, 2, eol - 1), eol end
  return '2', 'default', 0
end

local woken = {}

local function wake(queue)
  if woken[queue] then return end
  woken[queue] = true
  local key = base .. 'wake:' .. queue
  if tolerant('LLEN', key) == 0 then call('RPUSH', key, '1') end
end

local some_crashes

local function crashes_of(id)
  if some_crashes == nil then some_crashes = call('HLEN', CRASHES) > 0 end
  local crashes, stored = {}, some_crashes and call('HGET', CRASHES, id)
  local readable, list = pcall(cjson.decode, stored or '[]')
  for _, crash in ipairs(readable and type(list) == 'table' and list or {}) do
    if type(crash) == 'table' and tonumber(crash[1]) and tonumber(crash[2]) and type(crash[3]) == 'string' then
      crashes[#crashes + 1] = { tonumber(crash[1]), tonumber(crash[2]), crash[3] }
    end
  end
  return crashes
end

local function charge(id, epoch, now, worker)
  local crashes = crashes_of(id)
  crashes[#crashes + 1] = { epoch, now / 1000, worker }
  call('HSET', CRASHES, id, cjson.encode(crashes))
  some_crashes = true
end

-- The worker that was charged for this token is alive after all.
local function take_back(id, epoch)
  local crashes, left = crashes_of(id), {}
  for _, crash in ipairs(crashes) do
    if crash[1] ~= tonumber(epoch) then left[#left + 1] = crash end
  end
  if #left == #crashes then return end
  if #left > 0 then call('HSET', CRASHES, id, cjson.encode(left)) else call('HDEL', CRASHES, id) end
end

local function to_front(id, blob)
  local priority, queue = place(blob)
  if #crashes_of(id) >= SUSPECT_AFTER then
    tolerant('LPUSH', base .. 'suspects:' .. queue, id)
  else
    tolerant('LPUSH', base .. 'ready:' .. queue .. ':' .. priority, id)
  end
  wake(queue)
end

local function first_due()
  local first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  return first[2] and math.min(tonumber(first[2]), 1e15)
end

local function promote(now, limit)
  local ids = call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)
  if #ids == 0 then return 0 end
  local blobs = read(JOBS, ids)
  write('ZREM', DUE, ids)
  for i = #ids, 1, -1 do -- so that the earliest ends up in front
    if blobs[i] then to_front(ids[i], blobs[i]) end
  end
  return #ids
end

local function due_in(due, now)
  return due and math.max(0, due - now) or -1
end

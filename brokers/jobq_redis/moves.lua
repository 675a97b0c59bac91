-- Put behind the prelude of the scripts that move jobs that exist already.

local TRAILS, CRASHES, EPOCH = base .. 'trails', base .. 'crashes', base .. 'epoch'
local WORKERS, INFO, LATEST = base .. 'workers', base .. 'worker-info', base .. 'worker-epochs'
local SUSPECT_AFTER = 2
local PROMOTE_LIMIT = 1000

-- With memory full the server refuses the first write of a script if that could need memory, and none after it.
-- What settles and reclaims has to pass, as it is what frees memory: it begins with a write that is never refused.
local function pass_when_full()
  call('DEL', base)
end

local function slice(first, count)
  local values = {}
  for i = 1, count do values[i] = ARGV[first + i - 1] end
  return values
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

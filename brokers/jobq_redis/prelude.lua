-- Put in front of every script: the names of the keys, the time, and what more than one script does.
--
-- KEYS[1] is "jobq:{namespace}:", a key that never exists. It declares the slot in which all the others are; while a
-- cluster moves that slot, the server therefore refuses the whole call before the script has done anything.
-- ARGV[1] is the time in ms in tests, and empty otherwise.
--
-- The server rolls nothing back, so each script reads first, and with that checks, what it is going to write. The keys
-- of one queue, worker or client are read tolerantly instead: one of a wrong type must not stop the others.
-- A call defines all the functions of its script anew, so here is only what all of them use.

local call, find, sub = redis.call, string.find, string.sub
local base = KEYS[1]
local JOBS, DUE = base .. 'jobs', base .. 'due'
local CHUNK = 4000 -- values in one unpack, which has only so much stack; even, so that pairs stay together

local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A key of the wrong type cannot be ours; it gives way.
local function tolerant(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if find(reply.err, 'WRONGTYPE', 1, true) then call('DEL', key) end
  return call(command, key, ...)
end

local function write(command, key, values)
  for first = 1, #values, CHUNK do
    call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
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

local function first_due()
  local first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  return first[2] and math.min(tonumber(first[2]), 1e15)
end

local function due_in(due, now)
  return due and math.max(0, due - now) or -1
end

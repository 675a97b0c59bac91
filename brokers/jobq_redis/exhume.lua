-- ARGV: now, queue, "R" to replay or "D" to delete, then for each job (id, died in ms, SHA-1 of its trail, new trail).
-- Answers which of them it did; the others are no longer dead, or have died again since.

local dead, back = base .. 'dead:' .. ARGV[2], ARGV[3] == 'R'
local TRAILS = base .. 'trails'
local DEAD_JOBS, DEAD_TRAILS, DEAD_CRASHES = base .. 'dead-jobs', base .. 'dead-trails', base .. 'dead-crashes'
for _, key in ipairs({ JOBS, TRAILS, DEAD_JOBS, DEAD_TRAILS, DEAD_CRASHES }) do call('HLEN', key) end
tolerant('ZCARD', dead)

local done, ids, jobs, trails = {}, {}, {}, {}
for at = 4, #ARGV, 4 do
  local id = ARGV[at]
  local blob = call('HGET', DEAD_JOBS, id)
  local same = call('ZSCORE', dead, id) == ARGV[at + 1]
    and redis.sha1hex(call('HGET', DEAD_TRAILS, id) or '') == ARGV[at + 2]
  if blob and same and not (back and call('HGET', JOBS, id)) then
    local n = #ids + 1
    done[n], ids[n] = at / 4, id
    jobs[2 * n - 1], jobs[2 * n] = id, blob
    trails[2 * n - 1], trails[2 * n] = id, ARGV[at + 3]
  end
end

-- The first write is refused, and everything with it, when there is no memory left; but not that which only frees some.
if back then
  write('HSET', JOBS, jobs)
  write('HSET', TRAILS, trails)
end
write('ZREM', dead, ids)
for _, key in ipairs({ DEAD_JOBS, DEAD_TRAILS, DEAD_CRASHES }) do write('HDEL', key, ids) end
for i = 1, back and #jobs or 0, 2 do
  local priority, queue = place(jobs[i + 1])
  tolerant('RPUSH', base .. 'ready:' .. queue .. ':' .. priority, jobs[i])
  wake(queue)
end
return done

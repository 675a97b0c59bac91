-- ARGV: now, queue, limit. Deletes the first so many that died in the queue, and answers how many.

local dead = base .. 'dead:' .. ARGV[2]
local ids = tolerant('ZRANGE', dead, 0, ARGV[3] - 1)
for _, key in ipairs({ 'dead-jobs', 'dead-trails', 'dead-crashes' }) do write('HDEL', base .. key, ids) end
write('ZREM', dead, ids)
return #ids

-- Uses every command of the other scripts once, on a key that is gone again at the end: a user without one of the
-- rights must not find out in the middle of a script, which the server does not roll back. A replica refuses it, too.

clock()
call('DEL', base)
local function try(...)
  for _, command in ipairs({ ... }) do call(unpack(command)) end
  call('DEL', base)
end
try({ 'SET', base, '1', 'PX', 1000 }, { 'GET', base })
try({ 'HSET', base, 'f', 'v' }, { 'HGET', base, 'f' }, { 'HMGET', base, 'f' }, { 'HGETALL', base }, { 'HLEN', base })
try({ 'HDEL', base, 'f' })
try({ 'RPUSH', base, 'v' }, { 'LPUSH', base, 'v' }, { 'LLEN', base }, { 'LPOP', base, 2 })
try({ 'ZADD', base, 1, 'm' }, { 'ZSCORE', base, 'm' }, { 'ZCARD', base }, { 'ZREM', base, 'm' })
try({ 'ZRANGE', base, 0, 0, 'WITHSCORES' }, { 'ZRANGEBYSCORE', base, '-inf', 1, 'LIMIT', 0, 1 })
return 1

"""Jobs in Redis 6.2 or later, Valkey, Sentinel or Cluster: every verb is one Lua script, so it is one atomic step.

URLs: `redis://[user:password@]host[:port][/db]`, `rediss://…` (TLS), `unix:///path?db=0`,
`redis+sentinel://host:port,host:port/service[/db]`, `redis+cluster://host:port,host:port` (with TLS: `rediss+…`).
The query takes `namespace=main` and redis-py's options (`socket_timeout=5`, `ssl_ca_certs=…`, for the Sentinels'
own login `sentinel_username` and `sentinel_password`).

All keys start with `jobq:{namespace}:`. A user that may do just what is needed::

    ACL SETUSER jobq on >password ~jobq:* -@all +eval +evalsha +info +time +get +set +del
        +hget +hset +hmget +hdel +hlen +hgetall +llen +lpop +lpush +rpush +blpop
        +zadd +zrem +zrange +zrangebyscore +zscore +zcard +select

`+info` is only for the checks when connecting, `+select` only for a database other than 0.

How durable an acknowledged job is, is the server's setting: `appendonly yes` with `appendfsync always` loses nothing,
`everysec` up to a second, no AOF everything since the last snapshot. Set `maxmemory-policy noeviction`.
"""

from jobq_redis._broker import RedisBroker

__all__ = ["RedisBroker"]

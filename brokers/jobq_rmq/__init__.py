"""Jobs in RabbitMQ 3.10 or later: confirmed publishes, consumers, dead letters; delays by queues with a fixed TTL.

URLs: `amqp://user:password@host[:port][,host[:port]…][/vhost]`, `amqps://…` (TLS). The query takes `prefix=jobq`,
`type=quorum` or `classic`, `delay=ttl` or `plugin`, `declare=yes` or `no`, `heartbeat=10` (seconds), `timeout=5`
(seconds, for connecting and for each reply), `handover=600` (seconds after which a job that runs gets a new message),
and for TLS `cafile`, `certfile`, `keyfile`.

`python -m jobq_rmq URL QUEUE…` prints what there has to be on a server where `declare=no`.
"""

from jobq_rmq._broker import RmqBroker

__all__ = ["RmqBroker"]

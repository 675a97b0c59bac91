"""Jobs in RabbitMQ 3.10 or later: confirmed publishes, consumers, dead letters; delays by queues with a fixed TTL.

URLs: `amqp://user:password@host[:port][,host[:port]…][/vhost]`, `amqps://…` (TLS). The query takes `prefix=jobq`,
`type=quorum` or `classic`, `heartbeat=10` (seconds), `timeout=5` (seconds, for connecting and for each reply),
`handover=600` (seconds after which the message of a running job is changed for a new one), and for TLS `cafile`,
`certfile`, `keyfile`.
"""

from jobq_rmq._broker import RmqBroker

__all__ = ["RmqBroker"]

"""What there has to be on the server, as RabbitMQ's own definitions: for operators who let nobody else make it."""

from collections.abc import Sequence
from typing import Any, Final

from jobq_rmq._topology import Binding, Exchange, Queue, Topology

_LASTING: Final = {"durable": True, "auto_delete": False}


def definitions(topology: Topology, queues: Sequence[str], vhost: str) -> dict[str, list[dict[str, Any]]]:
    """All that jobs of these queues need, for `rabbitmqctl import_definitions` or the management UI."""
    entities = [*topology.base(), *topology.ladder()]
    for queue in dict.fromkeys(queues):
        entities += topology.of_queue(queue)
    return {
        "exchanges": [_exchange(entity, vhost) for entity in entities if isinstance(entity, Exchange)],
        "queues": [_queue(entity, vhost) for entity in entities if isinstance(entity, Queue)],
        "bindings": [_binding(entity, vhost) for entity in entities if isinstance(entity, Binding)],
    }


def _exchange(entity: Exchange, vhost: str) -> dict[str, Any]:
    return {"name": entity.name, "vhost": vhost, "type": entity.type, **_LASTING, "arguments": entity.arguments}


def _queue(entity: Queue, vhost: str) -> dict[str, Any]:
    return {"name": entity.name, "vhost": vhost, **_LASTING, "arguments": entity.arguments}


def _binding(entity: Binding, vhost: str) -> dict[str, Any]:
    return {
        "source": entity.source,
        "vhost": vhost,
        "destination": entity.target,
        "destination_type": "exchange" if entity.to_exchange else "queue",
        "routing_key": entity.key,
        "arguments": {},
    }

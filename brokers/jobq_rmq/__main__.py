"""`python -m jobq_rmq URL QUEUE…` prints what there has to be on the server, for `rabbitmqctl import_definitions`."""

import argparse
import sys
from collections.abc import Sequence

from msgspec import json

from jobq.errors import ConfigError
from jobq_rmq._definitions import definitions
from jobq_rmq._topology import Topology
from jobq_rmq._url import parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Print them. Nothing is connected to."""
    parser = argparse.ArgumentParser(
        prog="python -m jobq_rmq",
        description="Print RabbitMQ definitions of all that jobs need: exchanges, queues and bindings.",
        epilog="Import them with `rabbitmqctl import_definitions FILE`, or in the management UI.",
    )
    parser.add_argument("url", metavar="URL", help="the broker's, as clients and workers have it; needs no password")
    parser.add_argument("queues", metavar="QUEUE", nargs="+", help="a queue of jobs, such as default")
    chosen = parser.parse_args(arguments)
    try:
        target = parse(chosen.url)
    except ConfigError as exc:
        parser.error(str(exc))
    topology = Topology(target.prefix, target.kind, target.delays)
    text = json.format(json.encode(definitions(topology, chosen.queues, target.vhost)), indent=2)
    sys.stdout.write(f"{text.decode()}\n")


if __name__ == "__main__":
    main()
